"""Train a model, and look at what came out."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from conan_embed.files import read_json_lines
from conan_embed.recipes.schema import Recipe

if TYPE_CHECKING:
    from conan_embed.encoder.model import EmbeddingModel


@dataclass(frozen=True)
class Run:
    """A finished training run; everything is read from its folder when you ask for it.

    Attributes:
        folder: `model/`, `metrics.jsonl`, `evaluation.jsonl`, `checkpoints/`, `report.html` and more.

    Example:
        >>> run = ce.Run("runs/faq")
        >>> run.report
        PosixPath('runs/faq/report.html')
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    @cached_property
    def model(self) -> "EmbeddingModel":
        """The trained model, ready to encode: the best step of the evaluations, or else the last step."""
        from conan_embed.api.model import load_model

        return load_model(self.folder / "model")

    @property
    def history(self) -> pl.DataFrame:
        """One row per step: losses, mean scores of positives and hard negatives, gradient norm, tokens per second."""
        return pl.DataFrame(read_json_lines(self.folder / "metrics.jsonl"), infer_schema_length=None)

    @property
    def report(self) -> Path:
        """The run as one self-contained HTML page."""
        return self.folder / "report.html"

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints that were kept, oldest first; training resumes from the last one."""
        from conan_embed.training.checkpoint import checkpoints

        return checkpoints(self.folder / "checkpoints")


def train(recipe: Recipe | str | Path, *, resume: bool = True, allow_changes: bool = False) -> Run:
    """Train a model: mine hard negatives, train, evaluate, and write the model and a report.

    Everything goes into `recipe.output`. If that folder holds checkpoints of the same recipe, training resumes from the
    newest one. This function runs in one process; for several GPUs, save the recipe and use `torchrun`.

    Args:
        recipe: a `Recipe`, the path of a YAML file, or the name of a shipped recipe.
        resume: continue from the newest checkpoint; False starts again and removes the old one.
        allow_changes: resume even though the recipe has changed.

    Returns:
        the run: `run.model`, `run.history`, `run.report`, `run.checkpoints`.

    Raises:
        UserError: a setting or a data file is wrong, or the recipe is not that of the checkpoints.

    Example:
        >>> pairs = ce.read_pairs("faq.jsonl")
        >>> recipe = ce.Recipe.small(
        ...     model="sentence-transformers/all-MiniLM-L6-v2", retrieval=pairs, output="runs/faq"
        ... )
        >>> run = ce.train(recipe.with_(training={"steps": 2}, step={"queries": 4, "num_negatives": 1}))
        >>> run.history["loss"].len()
        2
        >>> run.model.width
        384
    """
    from conan_embed.distributed import collectives
    from conan_embed.reporting.page import report
    from conan_embed.training.run import train as run_training

    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    folder = run_training(recipe, resume=resume, allow_changes=allow_changes)
    if collectives.is_main_process():
        report([folder])
    return Run(folder)
