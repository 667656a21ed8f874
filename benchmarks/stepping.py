"""A trainee on triples of the Python documentation, ready to make steps: what the benchmarks of training share."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from texts import triples

from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.schema import Recipe
from conan_embed.training import run
from conan_embed.training.plan import Planner
from conan_embed.training.rankings import make_table
from conan_embed.training.step import StepResult, train_step
from conan_embed.training.trainee import Trainee


@dataclass
class Stepping:
    """Goes from step to step over its triples."""

    recipe: Recipe
    trainee: Trainee
    planner: Planner
    table: NegativeTable | None

    def step(self, number: int) -> StepResult:
        plan = self.planner.step(number, self.table)
        return train_step(self.trainee, plan, self.table, self.recipe)


@contextlib.contextmanager
def stepping(
    model: str, *, rows: int, queries: int, negatives: int, max_length: int = 256, **training: Any
) -> Iterator[Stepping]:
    """Yield what makes steps of `queries` rows with `negatives` each; its files are removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        triples(rows, negatives).write_parquet(path)
        recipe = Recipe.model_validate(
            {
                "model": {"base": model, "max_length": max_length},
                "data": {"retrieval": [{"name": "rows", "path": str(path), "negatives": "given"}]},
                "step": {"queries": queries, "negatives": negatives, "sts_pairs": 0},
                "loss": {"temperature": 0.05},
                "training": training,
                "cache": folder,
            }
        )
        loaded = run.load_model(recipe)
        tasks = run.load_data(recipe, loaded)
        table = make_table(recipe, tasks, loaded, Path(folder))
        loaded.train()
        planner = Planner(tasks, recipe.step, recipe.training.seed)
        yield Stepping(recipe, Trainee(loaded, recipe), planner, table)
