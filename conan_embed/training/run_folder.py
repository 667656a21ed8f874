"""The files of a run directory: where they are, who may write them, and what a killed run leaves.

runs/NAME/
    recipe.yaml            every setting, defaults written out
    run.json               versions, device, times (`RunRecord`)
    metrics.jsonl          one object a step;  evaluation.jsonl, negatives.jsonl likewise
    mining/                rankings of hard negatives
    hard_negatives.jsonl   the hardest of those used, with scores: likely false negatives first
    held_out/              of evaluation.hold_out: both sides of the split, and scores (held_out.py)
    checkpoints/           the newest ones
    best/                  while a run with evaluation goes on, the model of the best step
    model/                 the result, a sentence-transformers folder

Only the main process writes. Everything here may be called on every process: it is silent on the others.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.encoder.card import note_training
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import (
    lock_folder,
    read_json,
    remove_leftovers,
    write_json,
    write_json_lines,
    write_text,
)
from conan_embed.negatives.false_negatives import HardNegative
from conan_embed.training.checkpoint import checkpoints
from conan_embed.training.record import RunRecord


class RunFolder:
    """A run directory.

    Args:
        path: the recipe's `output`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_writer = collectives.is_main_process()
        self.recipe, self.record = self.path / "recipe.yaml", self.path / "run.json"
        self.hard_negatives = self.path / "hard_negatives.jsonl"
        self.false_negatives = self.path / "false_negatives.jsonl"
        self.answers = self.path / "judge_answers.jsonl"
        self.examples = self.path / "examples.json"
        self.mining, self.checkpoints = self.path / "mining", self.path / "checkpoints"
        self.held_out, self.tensorboard = self.path / "held_out", self.path / "tensorboard"
        self._earlier_held_out = self.path / ".held_out-earlier"
        self.best, self.model = self.path / "best", self.path / "model"

    def __str__(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Own the directory, on behalf of all processes, while the block runs; clear what a killed run left.

        Raises:
            UserError: another run works in it, or it holds what a run would replace and no run has written.
        """
        with contextlib.ExitStack() as stack:
            if self.is_writer:
                stack.enter_context(lock_folder(self.path))
                for folder in (self.path, self.checkpoints, self.mining, self.best):
                    remove_leftovers(folder)
                self._check_own()
                self._put_held_out_back()
                stack.callback(self._put_held_out_back)
            collectives.barrier()
            yield

    def _check_own(self) -> None:
        """Refuse a folder of somebody else's: run.json is there before the first checkpoint and model."""
        for folder in (self.checkpoints, self.best, self.model, self.tensorboard):
            if not self.record.exists() and folder.is_dir() and any(folder.iterdir()):
                raise UserError(
                    f"output: {self.path}: holds {folder.name}/ and no run.json; expected a folder of its own for the "
                    "run, which would replace what is there."
                )

    def log(self, message: str) -> None:
        """Print a message once, not on every process."""
        if self.is_writer:
            console.print(message)

    # --- starting and ending

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that the main process sees; all processes must call it."""
        finished = checkpoints(self.checkpoints)
        newest: Path | None = collectives.broadcast_object(finished[-1] if finished else None)
        return newest

    def is_finished(self) -> bool:
        """Return whether the run ended and its model is there; all processes must call it.

        A model alone says nothing: it may be the result of an earlier end, before the run was given more steps.
        """
        ended = (
            self.model.is_dir() and self.record.exists() and read_json(self.record)["finished"] is not None
        )
        return bool(collectives.broadcast_object(ended))

    def set_held_out_aside(self) -> None:
        """Make room for the split of a new run; the earlier one comes back unless `clear` is reached."""
        if self.is_writer and self.held_out.exists():
            self.held_out.rename(self._earlier_held_out)

    def _put_held_out_back(self) -> None:
        if self._earlier_held_out.exists():
            shutil.rmtree(self.held_out, ignore_errors=True)
            self._earlier_held_out.rename(self.held_out)

    def clear(self) -> None:
        """Remove what an earlier run left, so that a new one, whose split is there already, can begin."""
        if not self.is_writer:
            return
        for folder in (
            self.checkpoints,
            self.mining,
            self.best,
            self.model,
            self.tensorboard,
            self._earlier_held_out,
        ):
            shutil.rmtree(folder, ignore_errors=True)
        for name in (
            "metrics",
            "evaluation",
            "negatives",
            "hard_negatives",
            "false_negatives",
            "judge_answers",
        ):
            (self.path / f"{name}.jsonl").unlink(missing_ok=True)
        self.examples.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)  # the last: until then it says that the rest is a run's own

    def write_recipe(self, text: str) -> None:
        """Write the resolved recipe, YAML."""
        if self.is_writer:
            write_text(self.recipe, text)

    def write_record(self, record: RunRecord) -> None:
        """Write run.json."""
        if self.is_writer:
            write_json(self.record, record.to_json())

    def first_start(self) -> str | None:
        """Return when the run first began, as run.json has it; None before that."""
        return read_json(self.record)["started"] if self.record.exists() else None

    def write_hard_negatives(self, negatives: Sequence[HardNegative]) -> None:
        """Write hard_negatives.jsonl."""
        self.write_lines(self.hard_negatives, [negative.to_json() for negative in negatives])

    def write_lines(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Write one JSON object a line."""
        if self.is_writer:
            write_json_lines(path, rows)

    def complete_card(self) -> None:
        """Write into the model's README.md what it was trained on."""
        if self.is_writer:
            note_training(self.model, self.path)

    # --- the best model so far, and the result

    def save_best(self, model: EmbeddingModel, step: int) -> None:
        """Keep the model of `step`. The one before stays until `keep_best`: a killed run may go back to it."""
        if self.is_writer:
            model.save(self._best(step), details={"step": step})

    def keep_best(self, step: int | None) -> None:
        """Remove the best models of all other steps: of earlier ones, and of steps that a kill undid."""
        if self.is_writer and self.best.is_dir():
            for other in self.best.iterdir():
                if step is None or other != self._best(step):
                    shutil.rmtree(other)
            if not any(self.best.iterdir()):
                self.best.rmdir()

    def has_best(self, step: int) -> bool:
        """Return whether the best model is that of `step`; a finished run's is put back from model/."""
        if self.is_writer and not self._best(step).exists() and _step_of(self.model) == step:
            self.best.mkdir(exist_ok=True)
            self.model.rename(self._best(step))
        return bool(collectives.broadcast_object(self._best(step).exists()))

    def finish_with_best(self, step: int) -> None:
        """Make the best model, that of `step`, the result."""
        if self.is_writer:
            shutil.rmtree(self.model, ignore_errors=True)
            self._best(step).rename(self.model)
            self.keep_best(None)

    def finish_with(self, model: EmbeddingModel, step: int) -> None:
        """Make `model` the result."""
        if self.is_writer:
            model.save(self.model, details={"step": step})
            self.keep_best(None)

    def _best(self, step: int) -> Path:
        return self.best / f"step-{step:08d}"


def _step_of(model: Path) -> int | None:
    details = model / "conan_embed.json"
    return read_json(details).get("step") if details.exists() else None
