"""Resuming a run: what it must have in common with its checkpoint, and what of the checkpoint still counts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conan_embed.errors import UserError
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.recipes.loading import changed_keys
from conan_embed.training.checkpoint import (
    Progress,
    check_data,
    load_checkpoint,
    saved_progress,
    saved_provenance,
)
from conan_embed.training.run_folder import RunFolder
from conan_embed.training.train_module import TrainModule

# Settings that do not change what is trained, or only how sums are rounded: a resumed run may have others.
_MAY_DIFFER = (
    *("output", "cache", "tracking"),
    *(f"evaluation.{key}" for key in ("folder", "mteb", "tasks", "every", "keep_best", "patience")),
    *("training.sharding", "training.timeout", "training.compile", "training.activation_checkpointing"),
    *("training.checkpoint_every", "training.keep_checkpoints"),
)
# Dropout draws its masks for a chunk of a process: cut elsewhere, the same texts get other masks.
_MAY_DIFFER_WITHOUT_DROPOUT = ("training.chunk_tokens", "training.placement", "training.sts_share")
EVALUATION_SETS = "evaluation sets"
"""The key of their hash among those of the data."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run starts: from a checkpoint, or from the beginning, where every method lets it pass.

    Attributes:
        checkpoint: None: the run begins.
        allow_changes: resume although the recipe or the data changed.
    """

    checkpoint: Path | None
    allow_changes: bool = False

    def check_recipe(self, recipe: dict[str, Any]) -> None:
        """Compare every setting that decides what is trained.

        Raises:
            UserError: some differ; names each with its value then and now.
        """
        if self.checkpoint is None or self.allow_changes:
            return
        changes = changed_keys(saved_provenance(self.checkpoint).recipe, recipe, _may_differ(recipe))
        if changes:
            raise UserError(
                f"{self.checkpoint}: the recipe changed since: {'; '.join(changes)}. "
                "Start anew with --no-resume, go on with the old recipe, or accept the change with --allow-changes."
            )

    def check_data(self, data: dict[str, str], recipe: dict[str, Any]) -> None:
        """Compare the hashes of all data; evaluation sets may be others where the recipe names others.

        Raises:
            UserError: some differ; names the parts.
        """
        if self.checkpoint is None:
            return
        if saved_provenance(self.checkpoint).recipe["evaluation"] != recipe["evaluation"]:
            data = {part: value for part, value in data.items() if part != EVALUATION_SETS}
        check_data(self.checkpoint, data, allow_changes=self.allow_changes)

    def saved_chunk_tokens(self) -> int | None:
        """Return how large the chunks were when the checkpoint was saved; None without one."""
        return None if self.checkpoint is None else saved_progress(self.checkpoint).chunk_tokens

    def load(self, module: TrainModule, negatives: DynamicNegatives | None) -> Progress:
        """Read the checkpoint into model, optimizer and hard negatives; return the progress."""
        return Progress(0) if self.checkpoint is None else load_checkpoint(self.checkpoint, module, negatives)

    def with_usable_best(
        self, progress: Progress, folder: RunFolder, data: dict[str, str], *, keep_best: bool
    ) -> Progress:
        """Forget a best evaluation on other sets, or one whose model is gone; remove best models that do not count.

        Args:
            keep_best: whether the run needs the model of its best step.
        """
        step = progress.best_step
        if step is not None and self.checkpoint is not None:
            is_same = saved_provenance(self.checkpoint).data.get(EVALUATION_SETS) == data.get(EVALUATION_SETS)
            if not is_same or (keep_best and not folder.has_best(step)):
                reason = "its model is gone" if is_same else "it was evaluated on other sets"
                folder.log(f"the best evaluation so far, of step {step}, no longer counts: {reason}.")
                progress = replace(progress, best=None, best_step=None)
        folder.keep_best(progress.best_step)
        return progress


def _may_differ(recipe: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of settings that a resumed run may change."""
    model = recipe["model"]
    has_dropout = model["dropout"] != 0 or (model["lora"] is not None and model["lora"]["dropout"] != 0)
    return _MAY_DIFFER if has_dropout else (*_MAY_DIFFER, *_MAY_DIFFER_WITHOUT_DROPOUT)
