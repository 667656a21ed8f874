"""The steps of a run, and what happens between them: evaluation, checkpoints, metrics, a polite end."""

import contextlib
import datetime
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from conan_embed import malloc
from conan_embed.console import console, progress_bar
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.neighbours import examples_after, examples_before, neighbours
from conan_embed.evaluation.sets import discover, select
from conan_embed.files import read_json, write_json
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.planning.plan import Planner
from conan_embed.planning.streaming import StreamPlanner
from conan_embed.recipes.schema import Recipe
from conan_embed.training.checkpoint import Progress, checkpoints, save_checkpoint
from conan_embed.training.metrics import MetricsLog
from conan_embed.training.step import (
    NotFinite,
    ReadyStep,
    StepResult,
    learning_rate,
    make_ready,
    train_step,
)
from conan_embed.training.trackers import open_trackers
from conan_embed.training.train_module import TrainModule

_TRIM_EVERY = 10  # steps
_SAY_EVERY = 60.0  # seconds, in a log file


class Loop:
    """Goes from where a run stands to its last step."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        train_module: TrainModule,
        negatives: DynamicNegatives | None,
        planner: Planner | StreamPlanner,
        num_steps: int,
        progress: Progress,
        began: float,
    ) -> None:
        self.recipe, self.run, self.train_module = recipe, run, train_module
        self.negatives, self.table = negatives, None if negatives is None else negatives.table
        self.planner, self.num_steps, self.progress = planner, num_steps, progress
        self.began = began  # as time.time(); where a run was resumed, as if it had never stood still
        self.log: MetricsLog | None = None
        self.saved_step: int | None = None
        self.ahead: ReadyStep | None = None

    def go(self) -> None:
        """Run from where the progress stands to the last step."""
        if collectives.is_main_process():
            done = self.progress.step or -1  # a run that begins anew forgets its evaluation of step 0 too
            trackers = open_trackers(self.recipe, self.run, done)
            self.log = MetricsLog(self.run, from_step=done, trackers=trackers)
        try:
            if self.progress.step == 0:
                self._evaluate()
            elif collectives.is_main_process() and self.progress.step < self.num_steps:
                self._take_up_best()
            with stop_requested() as stop, progress_bar() as bar:
                bar.disable = bar.disable or not collectives.is_main_process()
                task = bar.add_task("training", total=self.num_steps, completed=self.progress.step, note="")
                said = _SaidInLog(self.progress.step, self.num_steps)
                while self.progress.step < self.num_steps:
                    result = self._step()
                    note = f"loss {result.loss:.4f}  {result.tokens / result.seconds:,.0f} tokens/s"
                    bar.update(task, advance=1, note=note)
                    if collectives.is_main_process() and not console.is_terminal:
                        said.after_step(self.progress.step, note)
                    if collectives.all_reduce_sum(torch.tensor(float(stop.is_set()))).item():
                        self._save()
                        raise UserError(
                            f"stopped on request after step {self.progress.step} of {self.num_steps}; "
                            f"the same command goes on from {self.run / 'checkpoints'}."
                        )
            self._save()
            self._finish()
        finally:
            if self.log is not None:
                self.log.close()

    def _step(self) -> StepResult:
        step = self.progress.step
        rate = learning_rate(self.recipe, step, self.num_steps)
        for group in self.train_module.optimizer.param_groups:
            group["lr"] = rate
        self.train_module.model.train()
        ready, self.ahead = self.ahead or self._make_ready(step), None
        plan = ready.plan
        try:
            result = train_step(self.train_module, ready, self.table, self.recipe, meanwhile=self._look_ahead)
        except NotFinite as error:
            saved = checkpoints(self.run / "checkpoints")
            last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was written yet"
            raise NotFinite(f"{error} {last[0].upper() + last[1:]}.") from None
        self.progress = replace(self.progress, step=step + 1)
        if self.log is not None:
            self.log.write("metrics", _line(result, plan.epoch, step + 1, rate))
        if self.negatives is not None:
            check = self.negatives.after_step(step + 1, plan.text_ids, result.embedding_UD)
            if check is not None and self.log is not None:
                self.log.write("negatives", check.to_json())
        evaluation = self.recipe.evaluation
        if evaluation.every and (step + 1) % evaluation.every == 0 and step + 1 < self.num_steps:
            self._evaluate()
        if (step + 1) % _TRIM_EVERY == 0:
            malloc.trim()
        every = self.recipe.training.checkpoint_every
        if every and (step + 1) % every == 0:
            self._save()
        return result

    def _make_ready(self, step: int) -> ReadyStep:
        return make_ready(self.train_module, self.planner.step(step, self.table), self.recipe)

    def _look_ahead(self) -> None:
        """Plan and pack the next step while the GPU works on this one, unless a check may replace its negatives."""
        done = self.progress.step + 1  # steps when the running one is over
        if done < self.num_steps and not (self.negatives is not None and self.negatives.checks_after(done)):
            self.ahead = self._make_ready(done)

    def _evaluate(self) -> None:
        if self.recipe.evaluation.folder is None:
            return
        with self.train_module.whole() as model:
            if collectives.is_main_process():
                self._evaluate_whole(model)
        collectives.barrier()

    def _evaluate_whole(self, model: EmbeddingModel) -> None:
        settings = self.recipe.evaluation
        assert settings.folder is not None and self.log is not None
        encoder = CachedEncoder(model)
        widths = model.widths if len(model.widths) > 1 else None
        result = evaluate(encoder, settings.folder, tasks=settings.tasks, widths=widths)
        self.log.write(
            "evaluation",
            {"step": self.progress.step, "results": result.to_json()["tasks"], "summary": result.summary},
        )
        console.print(f"step {self.progress.step}: " + _summary(result.summary))
        if self.progress.step in (0, self.num_steps):
            self._write_examples(encoder)
        self._keep_if_best(model, result.average)

    def _write_examples(self, encoder: CachedEncoder) -> None:
        """Keep what some queries of the first retrieval set find, before training and after it."""
        settings = self.recipe.evaluation
        assert settings.folder is not None
        tasks = [
            task for task in select(discover(settings.folder), settings.tasks) if task.type == "retrieval"
        ]
        if not tasks:
            return
        path = self.run / "examples.json"
        found = neighbours(encoder, tasks[0])
        if self.progress.step == 0:
            write_json(path, examples_before(tasks[0].name, found))
        elif path.exists():
            write_json(path, examples_after(read_json(path), found))

    def _keep_if_best(self, model: EmbeddingModel, average: float) -> None:
        if self.progress.best is not None and average <= self.progress.best:
            return
        self.progress = replace(self.progress, best=average, best_step=self.progress.step)
        if self.recipe.evaluation.keep_best:
            model.save(self.run / "best", details={"step": self.progress.step})

    def _take_up_best(self) -> None:
        """A finished run that goes on for more steps: its model is the best so far, until a later step beats it."""
        model, best = self.run / "model", self.run / "best"
        if (
            self.recipe.evaluation.keep_best
            and self.progress.best is not None
            and model.exists()
            and not best.exists()
        ):
            model.rename(best)

    def _save(self) -> None:
        if self.saved_step == self.progress.step:
            return
        self.saved_step = self.progress.step
        save_checkpoint(
            self.run / "checkpoints",
            self.train_module,
            self.negatives,
            replace(self.progress, seconds=time.time() - self.began),
            self.recipe.as_dict(),
            texts=self.planner.identity(),
            keep=self.recipe.training.keep_checkpoints,
        )

    def _finish(self) -> None:
        self._evaluate()
        with self.train_module.whole() as model:
            if collectives.is_main_process():
                self._write_model(model)

    def _write_model(self, model: EmbeddingModel) -> None:
        best = self.run / "best"
        settings = self.recipe.evaluation
        if settings.folder is not None and settings.keep_best and best.exists():
            if (self.run / "model").exists():
                shutil.rmtree(self.run / "model")
            best.rename(self.run / "model")
            if self.progress.best_step != self.num_steps:
                console.print(f"model/ is that of step {self.progress.best_step}, which evaluated best.")
        else:
            model.save(self.run / "model", details={"step": self.progress.step})


def _line(result: StepResult, epoch: float, step: int, rate: float) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": round(epoch, 6),
        "learning_rate": rate,
        "loss": result.loss,
        "loss/retrieval": result.retrieval,
        "loss/sts": result.sts,
        "score/positive": result.positive_score,
        "score/negative": result.negative_score,
        "score/background": result.background,
        "share/positive": result.positive_share,
        "share/hard": result.hard_share,
        "share/in_batch": result.in_batch_share,
        "ignored_per_query": result.ignored,
        "gradient_norm": result.gradient_norm,
        "texts": result.texts,
        "tokens": result.tokens,
        "tokens_per_second": round(result.tokens / result.seconds, 1),
        "seconds": round(result.seconds, 4),
    }


def _summary(summary: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {100 * value:.2f}" for name, value in summary.items() if isinstance(value, float)
    )


class _SaidInLog:
    """Where no progress bar can be drawn, a line once a minute: step, loss, tokens/s, time left."""

    def __init__(self, first: int, total: int) -> None:
        self.first, self.total = first, total
        self.started = self.said = time.monotonic()

    def after_step(self, step: int, note: str) -> None:
        now = time.monotonic()
        if now - self.said >= _SAY_EVERY:
            self.said = now
            left = (now - self.started) / (step - self.first) * (self.total - step)
            time_left = datetime.timedelta(seconds=round(left))
            console.print(f"step {step} of {self.total}  {note}  {time_left} left", soft_wrap=True)


class Flag:
    """Set from a signal handler, which must take no lock (as threading.Event does)."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


@contextlib.contextmanager
def stop_requested() -> Iterator[Flag]:
    """Turn SIGTERM (pre-emption) and Ctrl-C into a flag that is read between two steps, or two runs.

    A second Ctrl-C stops at once. (A second SIGTERM does not: batch systems and torchrun both send one.)
    """
    flag = Flag()
    before: dict[signal.Signals, Any] = {}

    def requested(number: int, _: Any) -> None:
        flag.set()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, requested)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
