"""The steps of a run, and what happens between them: evaluation, checkpoints, metrics, a polite end."""

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from conan_embed import malloc
from conan_embed.console import console, progress_bar
from conan_embed.distillation.teacher import Teacher
from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.planning.contrast import has_contrast
from conan_embed.planning.plan import StepPlan, StepSource
from conan_embed.recipes import teaching
from conan_embed.recipes.sections import Evaluation, Loss, Optimizer, Training
from conan_embed.training.checkpoint import Progress, Provenance, checkpoints, save_checkpoint, save_progress
from conan_embed.training.evaluator import Evaluator
from conan_embed.training.metrics import Log
from conan_embed.training.optimizer import learning_rate
from conan_embed.training.run_folder import RunFolder
from conan_embed.training.signals import stop_requested
from conan_embed.training.step import (
    NotFinite,
    ReadyStep,
    StepResult,
    make_ready,
    observe_negatives,
    train_step,
)
from conan_embed.training.train_module import TrainModule

_TRIM_EVERY = 10  # steps
_LOG_EVERY = 60.0  # seconds, where no progress bar can be drawn


@dataclass
class TrainingLoop:
    """Runs from where the progress stands to the last step.

    Attributes:
        folder: the run directory.
        module: model and optimizer.
        source: plans the steps.
        negatives: renews the hard negatives; None: steps hold none.
        evaluator: the development sets, or None.
        loss, optimizer, training, evaluation: the recipe's sections.
        num_steps: the last step.
        progress: steps done, and the best evaluation so far.
        provenance: what checkpoints note about recipe and data.
        log: takes the metrics.
        began: as `time.time()`; of a resumed run, as if it had never been interrupted.
        teacher: scores the candidates of each step, or None; and the recipe's section.
        on_step: called after each step with its number and seconds.
    """

    folder: RunFolder
    module: TrainModule
    source: StepSource
    negatives: DynamicNegatives | None
    evaluator: Evaluator | None
    loss: Loss
    optimizer: Optimizer
    training: Training
    evaluation: Evaluation
    num_steps: int
    progress: Progress
    provenance: Provenance
    log: Log
    began: float
    teacher: Teacher | None = None
    teacher_settings: teaching.Teacher | None = None
    on_step: Callable[[int, float], None] | None = None
    ahead: ReadyStep | None = field(default=None, init=False)
    saved_step: int | None = field(default=None, init=False)
    without_contrast: int = field(default=0, init=False)

    def run(self) -> None:
        """Do the remaining steps, evaluate, and write the model.

        Raises:
            UserError: stopped on request, a loss that is not finite, no memory, a full disk; checkpoints stay usable.
        """
        if self.progress.step == 0:
            self._evaluate()
        self._make_up_for_check()
        with stop_requested() as stop, progress_bar() as bar:
            bar.disable = bar.disable or not self.folder.is_writer
            task = bar.add_task("training", total=self.num_steps, completed=self.progress.step, note="")
            lines = _LogLines(self.progress.step, self.num_steps)
            while self.progress.step < self.num_steps and not self._stops_early():
                result = self._step()
                note = f"loss {result.loss:.4f}  {result.tokens / result.seconds:,.0f} tokens/s"
                bar.update(task, advance=1, note=note)
                if self.folder.is_writer and not console.is_terminal:
                    lines.after_step(self.progress.step, note)
                if self.on_step is not None:
                    self.on_step(self.progress.step, result.seconds)
                if collectives.all_reduce_sum(torch.tensor(float(stop.is_set()))).item():
                    self._save()
                    raise UserError(
                        f"stopped on request after step {self.progress.step} of {self.num_steps}; "
                        f"the same command resumes from {self.folder.checkpoints}."
                    )
        if self.without_contrast:
            self.folder.log(f"{self.without_contrast:,} of {self.num_steps:,} steps had nothing to learn.")
        stopped_early = self.progress.step < self.num_steps
        if stopped_early:
            self.folder.log(
                f"stopped early after step {self.progress.step} of {self.num_steps}: the last "
                f"{self.evaluation.patience} evaluations were no better than the best before them."
            )
        self._save()
        if not stopped_early:  # else this step was just evaluated
            self._evaluate()
        save_progress(checkpoints(self.folder.checkpoints)[-1], self._timed_progress())
        self._write_model()

    def _step(self) -> StepResult:
        step = self.progress.step
        rate = learning_rate(self.optimizer, step, self.num_steps)
        for group in self.module.optimizer.param_groups:
            group["lr"] = rate
        self.module.model.train()
        ready, self.ahead = self.ahead or self._make_ready(step), None
        if not (has_contrast(ready.plan) or (self.teacher_settings and self.teacher_settings.embedding)):
            self._note_step_without_contrast(step)
        result = self._train_step(ready)
        self.progress = replace(self.progress, step=step + 1)
        self.log.write("metrics", _metrics(result, ready.plan.epoch, step + 1, rate))
        self._renew_negatives(ready.plan, result)
        if self._is_due(self.evaluation.every) and step + 1 < self.num_steps:
            self._evaluate()
        if self._is_due(_TRIM_EVERY):
            malloc.trim()
        if self._is_due(self.training.checkpoint_every):
            self._save()
        return result

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _note_step_without_contrast(self, step: int) -> None:
        self.without_contrast += 1
        if self.without_contrast == 1:
            self.folder.log(
                f"step {step + 1}: nothing to learn: no query has a negative candidate, and no two STS pairs have "
                "different scores. (Further such steps are counted, not reported.)"
            )

    def _train_step(self, ready: ReadyStep) -> StepResult:
        clip = self.optimizer.max_grad_norm
        try:
            return train_step(
                self.module,
                ready,
                self.loss,
                self.teacher_settings,
                max_grad_norm=clip,
                meanwhile=self._look_ahead,
            )
        except NotFinite as error:
            raise NotFinite(f"{error} {self._last_saved()}.") from None

    def _last_saved(self) -> str:
        saved = checkpoints(self.folder.checkpoints)
        return f"The last good checkpoint is {saved[-1]}" if saved else "No checkpoint was written yet"

    def _renew_negatives(self, plan: StepPlan, result: StepResult) -> None:
        """Note how the hard negatives of the step have scored; at a check, replace those that are no longer hard."""
        if self.negatives is None:
            return
        observe_negatives(self.negatives.table, plan, result)
        step = plan.step + 1
        check = self.negatives.after_step(
            step, plan.text_ids, result.embedding_UD, is_last=step == self.num_steps
        )
        if check is not None:
            self.log.write("negatives", check.to_json())
            self._forget_stale_step(self.negatives.replaced)

    def _make_up_for_check(self) -> None:
        """Check where a run ended that is longer now: one that was as long from the start checked there."""
        step = self.progress.step
        if self.negatives is not None and 0 < step < self.num_steps:
            check = self.negatives.make_up_for_check(step)
            if check is not None:
                self.log.write("negatives", check.to_json())

    def _make_ready(self, step: int) -> ReadyStep:
        table = None if self.negatives is None else self.negatives.table
        return make_ready(self.module, self.source.step(step, table), self.teacher)

    def _look_ahead(self) -> None:
        """Plan and pack the next step while the GPU works on this one."""
        done = self.progress.step + 1  # steps when the running one is over
        if done < self.num_steps:
            self.ahead = self._make_ready(done)

    def _forget_stale_step(self, replaced: np.ndarray) -> None:
        """Plan the next step anew where a check replaced negatives of its queries (rows of the table)."""
        retrieval = None if self.ahead is None else self.ahead.plan.retrieval
        if retrieval is not None and np.isin(retrieval.rows, replaced).any():
            self.ahead = None

    def _evaluate(self) -> None:
        if self.evaluator is None:
            return
        step = self.progress.step
        with self.module.whole() as model:
            if self.folder.is_writer:
                examples = step in (0, self.num_steps) or self.evaluation.patience is not None
                average = self.evaluator.evaluate(model, step, self.log, examples=examples)
                if self.progress.best is None or average > self.progress.best:
                    self.progress = replace(self.progress, best=average, best_step=step)
                    if self.evaluation.keep_best:
                        self.folder.save_best(model, step)
        collectives.barrier()

    def _stops_early(self) -> bool:
        """Return, after an evaluation, whether the last `evaluation.patience` were no better than the best so far."""
        settings = self.evaluation
        if self.evaluator is None or settings.patience is None or not self._is_due(settings.every):
            return False
        best = collectives.broadcast_object(self.progress.best_step)  # the main process evaluates
        return best is not None and self.progress.step - best >= settings.patience * settings.every

    def _save(self) -> None:
        if self.saved_step == self.progress.step:
            return
        self.saved_step = self.progress.step
        if not self.module.is_finite():
            raise NotFinite(
                f"step {self.progress.step}: a weight is not a finite number after the update. {self._last_saved()}."
            )
        save_checkpoint(
            self.folder.checkpoints,
            self.module,
            self.negatives,
            self._timed_progress(),
            self.provenance,
            keep=self.training.keep_checkpoints,
        )
        if self.evaluation.keep_best:  # from here on no resumed run needs an earlier one
            self.folder.keep_best(self.progress.best_step)

    def _timed_progress(self) -> Progress:
        chunk_tokens = self.module.memory.chunk_tokens
        return replace(self.progress, seconds=time.time() - self.began, chunk_tokens=chunk_tokens)

    def result_step(self) -> int:
        """Return the step whose model is the result; all processes must call this."""
        best: int | None = collectives.broadcast_object(self.progress.best_step)  # the main process evaluates
        if self.evaluator is None or not self.evaluation.keep_best or best is None:
            return self.progress.step
        return best

    def _write_model(self) -> None:
        best = self.result_step()
        with self.module.whole() as model:
            if not self.folder.is_writer:
                return
            if self.evaluator is None or not self.evaluation.keep_best or self.progress.best_step is None:
                self.folder.finish_with(model, self.progress.step)
                return
            self.folder.finish_with_best(best)
            if best != self.progress.step:
                self.folder.log(f"model/ is that of step {best}, which evaluated best.")


def _metrics(result: StepResult, epoch: float, step: int, rate: float) -> dict[str, Any]:
    taught = (
        {}
        if result.teacher is None
        else {"loss/teacher": result.teacher, "guarded_per_query": result.guarded}
    )
    return {
        "step": step,
        "epoch": round(epoch, 6),
        "learning_rate": rate,
        "loss": result.loss,
        "loss/retrieval": result.retrieval,
        "loss/sts": result.sts,
        **taught,
        "loss/spread_out": result.spread,
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


class _LogLines:
    """Where no progress bar can be drawn, a line a minute: step, loss, tokens/s, time left."""

    def __init__(self, first: int, total: int) -> None:
        self.first, self.total = first, total
        self.started = self.printed = time.monotonic()

    def after_step(self, step: int, note: str) -> None:
        now = time.monotonic()
        if now - self.printed >= _LOG_EVERY:
            self.printed = now
            left = (now - self.started) / (step - self.first) * (self.total - step)
            time_left = datetime.timedelta(seconds=round(left))
            console.print(f"step {step} of {self.total}  {note}  {time_left} left", soft_wrap=True)
