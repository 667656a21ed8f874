"""A whole run: read, mine, train, evaluate, save. `train(recipe)` is what `conan-embed train` calls.

runs/NAME/
    recipe.yaml        every setting, defaults written out
    run.json           versions, device, times
    metrics.jsonl      one object a step;  evaluation.jsonl, negatives.jsonl likewise
    mining/            rankings of hard negatives
    checkpoints/       the newest ones
    model/             the result, a sentence-transformers folder
"""

import contextlib
import datetime
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

import conan_embed
from conan_embed.console import console, progress_bar
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.neighbours import Remembering, before_and_after, neighbours
from conan_embed.evaluation.sets import discover, select
from conan_embed.files import read_json, write_json, write_text
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.shared import read_tasks, write_tasks
from conan_embed.texts.tasks import Tasks, load_tasks, sizes
from conan_embed.training import processes
from conan_embed.training.ceiling import matmul_floor_tokens_per_second
from conan_embed.training.checkpoint import (
    Progress,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
    saved_recipe,
)
from conan_embed.training.memory import give_back_freed
from conan_embed.training.metrics import MetricsLog
from conan_embed.training.plan import Planner, check_enough_negatives
from conan_embed.training.rankings import embed_with, make_rankings, make_table, shared_out
from conan_embed.training.step import NotFinite, StepResult, learning_rate, make_optimizer, train_step

_TRIM_EVERY = 10  # steps

# Settings that do not change what is trained: a resumed run may have others.
_MAY_DIFFER = ("output", "cache", "tracking", "evaluation", "training.timeout")


def load_model(recipe: Recipe) -> EmbeddingModel:
    """Load the base model as the recipe says."""
    settings = recipe.model
    # A dense layer that the base model does not have is drawn at random: from the seed, the same on every process.
    torch.manual_seed(recipe.training.seed)
    return EmbeddingModel.load(
        settings.base,
        pooling=settings.pooling,
        dense_width=settings.dense_width,
        widths=settings.widths,
        prompts=settings.prompts,
        max_length=settings.max_length,
        dropout=settings.dropout,
        trust_remote_code=settings.trust_remote_code,
    )


def load_data(recipe: Recipe, model: EmbeddingModel) -> Tasks:
    """Read and tokenise the recipe's files; the first process of each node does, the others map what it wrote.

    Nodes may share a disk or have their own: each looks into the recipe's cache as it sees it.
    """
    fingerprint = f"{model.max_length} {model.tokenizer.backend_tokenizer.to_str()}"
    cache = Path(recipe.cache)
    if not processes.is_first_of_node():
        return read_tasks(Path(processes.from_first_of_node(None)), cache)
    tasks = load_tasks(recipe.data, model.prompts, model.tokenize, fingerprint=fingerprint, cache=cache)
    processes.from_first_of_node(str(write_tasks(tasks, cache)) if processes.node_size() > 1 else "")
    return tasks


@processes.ending_together()
def mine(recipe: Recipe, output: Path) -> Path:
    """Mine every retrieval set of the recipe into `output`; return the folder."""
    model = load_model(recipe).to(processes.start(timeout=recipe.training.timeout))
    make_rankings(recipe, load_data(recipe, model), model, output)
    return output


@processes.ending_together()
def train(recipe: Recipe, *, resume: bool = True, allow_changes: bool = False) -> Path:
    """Train as the recipe says; return the run directory.

    Args:
        resume: go on from the newest checkpoint of the run directory, if it has one; else start it anew.
        allow_changes: resume although the recipe is another than the checkpoint's.

    Raises:
        UserError: whatever a user can do wrong; checkpoints written so far stay usable.
    """
    device = processes.start(timeout=recipe.training.timeout)
    run = Path(recipe.output)
    started = time.time()
    found = checkpoints(run / "checkpoints") if resume else []
    if found:
        _check_same_recipe(recipe, found[-1], allow_changes)
    if processes.is_first():
        if not resume:
            _clear(run)
        write_text(run / "recipe.yaml", recipe.as_yaml())
    model = load_model(recipe).to(device)
    tasks = load_data(recipe, model)
    if processes.is_first():
        for task, name, rows in sizes(tasks):
            console.print(f"{task}: {name}, {rows:,} rows")
    table = make_table(recipe, tasks, model, run / "mining")
    if table is not None:
        check_enough_negatives(tasks, table, recipe.step)
    planner = Planner(tasks, recipe.step, recipe.training.seed)
    num_steps = recipe.training.steps or planner.steps_for(recipe.training.epochs)
    optimizer = make_optimizer(model, recipe)
    negatives = None
    if table is not None:
        negatives = DynamicNegatives.start(
            recipe.negatives,
            recipe.mining,
            table,
            tasks.retrieval,
            tasks.store,
            embed_with(model, tasks.store, recipe.training.precision, recipe.training.chunk_tokens),
            width=model.width,
            fill=not found,
            spread=shared_out,
        )
    progress = Progress(0)
    if found:
        progress = load_checkpoint(found[-1], model, optimizer, negatives, texts=tasks.store.identity())
    if progress.step >= num_steps and (run / "model").exists():
        if processes.is_first():
            console.print(f"{run} is finished: all {num_steps} steps are done. Start anew with --no-resume.")
        return run
    if found and processes.is_first():
        console.print(f"resumed at step {progress.step} of {num_steps} from {found[-1]}")
    loop = _Loop(recipe, run, model, optimizer, negatives, tasks, planner, num_steps, progress)
    if processes.is_first():
        floor = matmul_floor_tokens_per_second(model, recipe.training.precision)
        _write_facts(run, recipe, model, tasks, num_steps, floor, started, finished=None)
    loop.go()
    if processes.is_first():
        _write_facts(run, recipe, model, tasks, num_steps, floor, started, finished=time.time())
    processes.wait_for_all()
    return run


class _Loop:
    """The steps of a run, with what happens between them: evaluation, checkpoints, metrics, a polite end."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        model: EmbeddingModel,
        optimizer: torch.optim.Optimizer,
        negatives: DynamicNegatives | None,
        tasks: Tasks,
        planner: Planner,
        num_steps: int,
        progress: Progress,
    ) -> None:
        self.recipe, self.run, self.model, self.optimizer = recipe, run, model, optimizer
        self.negatives, self.table = negatives, None if negatives is None else negatives.table
        self.tasks, self.planner, self.num_steps, self.progress = tasks, planner, num_steps, progress
        self.log: MetricsLog | None = None
        self.saved_step: int | None = None

    def go(self) -> None:
        """Run from where the progress stands to the last step."""
        if processes.is_first():
            done = self.progress.step or -1  # a run that begins anew forgets its evaluation of step 0 too
            self.log = MetricsLog(self.run, from_step=done, tensorboard=self.recipe.tracking.tensorboard)
        try:
            if self.progress.step == 0:
                self._evaluate()
            elif processes.is_first() and self.progress.step < self.num_steps:
                self._take_up_best()
            with _stop_requested() as stop, progress_bar() as bar:
                bar.disable = bar.disable or not processes.is_first()
                task = bar.add_task("training", total=self.num_steps, completed=self.progress.step, note="")
                while self.progress.step < self.num_steps:
                    result = self._step()
                    bar.update(
                        task,
                        advance=1,
                        note=f"loss {result.loss:.4f}  {result.tokens / result.seconds:,.0f} tokens/s",
                    )
                    if processes.sum_over_processes(torch.tensor(float(stop.is_set()))).item():
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
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        plan = self.planner.step(step, self.table)
        try:
            result = train_step(self.model, self.optimizer, self.tasks.store, plan, self.table, self.recipe)
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
                self.log.write("negatives", check)
        evaluation = self.recipe.evaluation
        if evaluation.every and (step + 1) % evaluation.every == 0 and step + 1 < self.num_steps:
            self._evaluate()
        if (step + 1) % _TRIM_EVERY == 0:
            give_back_freed()
        every = self.recipe.training.checkpoint_every
        if every and (step + 1) % every == 0:
            self._save()
        return result

    def _evaluate(self) -> None:
        settings = self.recipe.evaluation
        if settings.folder is None:
            return
        average = None
        if processes.is_first():
            embedder = Remembering(self.model)
            widths = self.model.widths if len(self.model.widths) > 1 else None
            results = evaluate(embedder, settings.folder, tasks=settings.tasks, widths=widths)
            assert self.log is not None
            self.log.write(
                "evaluation",
                {"step": self.progress.step, "results": results["tasks"], "summary": results["summary"]},
            )
            console.print(f"step {self.progress.step}: " + _summary(results["summary"]))
            average = float(results["summary"]["average"])
            if self.progress.step in (0, self.num_steps):
                self._write_examples(embedder)
            self._keep_if_best(average)
        processes.wait_for_all()

    def _write_examples(self, embedder: Remembering) -> None:
        """Keep what some queries of the first retrieval set find, before training and after it."""
        settings = self.recipe.evaluation
        assert settings.folder is not None
        tasks = [
            task for task in select(discover(settings.folder), settings.tasks) if task.type == "retrieval"
        ]
        if not tasks:
            return
        path = self.run / "examples.json"
        found = neighbours(embedder, tasks[0])
        if self.progress.step == 0:
            write_json(path, {"corpus": tasks[0].name, "neighbours": found})
        elif path.exists():
            before = read_json(path)
            old = before.get("neighbours") or [
                {**query, "found": query["before"]} for query in before["queries"]
            ]
            write_json(path, before_and_after(tasks[0].name, old, found))

    def _keep_if_best(self, average: float) -> None:
        if self.progress.best is not None and average <= self.progress.best:
            return
        self.progress = replace(self.progress, best=average, best_step=self.progress.step)
        if self.recipe.evaluation.keep_best:
            self.model.save(self.run / "best", details={"step": self.progress.step})

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
        if processes.is_first():
            save_checkpoint(
                self.run / "checkpoints",
                self.model,
                self.optimizer,
                self.negatives,
                self.progress,
                self.recipe.as_dict(),
                texts=self.tasks.store.identity(),
                keep=self.recipe.training.keep,
            )
        processes.wait_for_all()

    def _finish(self) -> None:
        self._evaluate()
        if not processes.is_first():
            return
        best = self.run / "best"
        settings = self.recipe.evaluation
        if settings.folder is not None and settings.keep_best and best.exists():
            if (self.run / "model").exists():
                shutil.rmtree(self.run / "model")
            best.rename(self.run / "model")
            if self.progress.best_step != self.num_steps:
                console.print(f"model/ is that of step {self.progress.best_step}, which evaluated best.")
        else:
            self.model.save(self.run / "model", details={"step": self.progress.step})


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


def _clear(run: Path) -> None:
    for name in ("checkpoints", "mining", "best", "model", "tensorboard"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in ("metrics", "evaluation", "negatives"):
        (run / f"{name}.jsonl").unlink(missing_ok=True)


def _check_same_recipe(recipe: Recipe, checkpoint: Path, allow_changes: bool) -> None:
    before, now = saved_recipe(checkpoint), recipe.as_dict()
    changes = [
        f"{key} (was {old}, is {new})"
        for key, old, new in _differences(before, now)
        if key not in _MAY_DIFFER and key.split(".")[0] not in _MAY_DIFFER
    ]
    if changes and not allow_changes:
        raise UserError(
            f"{checkpoint}: the recipe changed since: {'; '.join(changes)}. "
            "Start anew with --no-resume, go on with the old recipe, or accept the change with --allow-changes."
        )


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield key, before, now


def _write_facts(
    run: Path,
    recipe: Recipe,
    model: EmbeddingModel,
    tasks: Tasks,
    num_steps: int,
    floor: float,
    started: float,
    finished: float | None,
) -> None:
    def moment(seconds: float) -> str:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")

    cuda = model.device.type == "cuda"
    write_json(
        run / "run.json",
        {
            "started": moment(started),
            "finished": None if finished is None else moment(finished),
            "seconds": None if finished is None else round(finished - started, 1),
            "command": " ".join(["conan-embed", *sys.argv[1:]]),
            "steps": num_steps,
            "processes": processes.world_size(),
            "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "width": model.width,
            "widths": list(model.widths),
            "matmul_floor_tokens_per_second": round(floor, 1),
            "base": recipe.model.base,
            "datasets": [{"task": task, "name": name, "rows": rows} for task, name, rows in sizes(tasks)],
            "texts": len(tasks.store),
            "tokens": int(tasks.store.offsets[-1]),
            "versions": {
                "conan-embed": conan_embed.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        },
    )


class _Flag:
    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


@contextlib.contextmanager
def _stop_requested() -> Iterator[_Flag]:
    """Turn SIGTERM (pre-emption) and Ctrl-C into a flag that the loop reads between two steps.

    A second Ctrl-C stops at once. (A second SIGTERM does not: batch systems and torchrun both send one.)
    """
    flag = _Flag()
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
