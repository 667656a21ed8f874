"""A model in training on rows of queries, positives and given negatives, ready to make steps: what benchmarks of training share."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.planner import Planner
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import Tasks
from conan_embed.training import run, setup
from conan_embed.training.memory import measure_fitting_tokens
from conan_embed.training.step import ReadyStep, StepResult, make_ready, train_step
from conan_embed.training.train_module import TrainModule


@dataclass
class Stepping:
    """Goes from step to step over its rows."""

    recipe: Recipe
    module: TrainModule
    tasks: Tasks
    planner: Planner
    table: NegativeTable | None

    @property
    def store(self) -> TextStore:
        return self.tasks.store

    def with_queries(self, queries: int) -> "Stepping":
        """Return the same model and optimizer with steps of another size."""
        settings = self.recipe.step.model_copy(update={"queries": queries})
        return replace(self, planner=Planner(self.tasks, settings, self.recipe.training.seed))

    def make_ready(self, number: int) -> ReadyStep:
        return make_ready(self.module, self.planner.step(number, self.table))

    def step(
        self, number: int, ready: ReadyStep | None = None, meanwhile: Callable[[], None] = lambda: None
    ) -> StepResult:
        """Make a step, which may be ready already; `meanwhile` is called while the GPU works on it."""
        ready = ready or self.make_ready(number)
        clip = self.recipe.optimizer.max_grad_norm
        return train_step(self.module, ready, self.recipe.loss, max_grad_norm=clip, meanwhile=meanwhile)


@contextlib.contextmanager
def stepping(
    model: str | Path,
    rows: pl.DataFrame | Path,
    *,
    queries: int,
    negatives: int,
    max_length: int = 256,
    device: str | torch.device = "cpu",
    lora: dict[str, Any] | None = None,
    cache: Path | None = None,
    **training: Any,
) -> Iterator[Stepping]:
    """Yield what makes steps of `queries` rows with `negatives` each; its files are removed at the end.

    Args:
        rows: query, positive (a list) and negative (a list), or a Parquet file of them.
        lora: settings of that section of the recipe.
        cache: where the tokens are kept for the next caller; else nowhere.
        training: settings of that section of the recipe.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = rows if isinstance(rows, Path) else Path(folder) / "rows.parquet"
        if isinstance(rows, pl.DataFrame):
            rows.write_parquet(path)
        recipe = Recipe.model_validate(
            {
                "model": {"base": str(model), "max_length": max_length, "lora": lora},
                "data": {"retrieval": [{"name": "rows", "path": str(path), "negative_source": "given"}]},
                "step": {"queries": queries, "num_negatives": negatives, "sts_pairs": 0},
                "loss": {"temperature": 0.05},
                "training": training,
                "cache": str(cache or folder),
            }
        )
        loaded = setup.load_base_model(recipe.model, recipe.training.seed).to(device)
        tasks = setup.load_data(recipe.data, recipe.cache, loaded)
        table = run.load_table(recipe, tasks, loaded, Path(folder))
        module = TrainModule(loaded, recipe.optimizer, recipe.training)
        settings = recipe.training
        module.memory.fit(measure_fitting_tokens(loaded, settings.precision, settings.sharding))
        loaded.train()
        planner = Planner(tasks, recipe.step, recipe.training.seed)
        yield Stepping(recipe, module, tasks, planner, table)
