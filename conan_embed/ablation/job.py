"""One arm with one seed: its recipe, its files, and its result."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from conan_embed.ablation.arms import Arm, folder_of
from conan_embed.files import read_json
from conan_embed.recipes.loading import load_recipe
from conan_embed.recipes.schema import Recipe


@dataclass(frozen=True)
class ArmResult:
    """What an arm came to with one seed.

    Attributes:
        arm, seed: which.
        scores: of each task ("sts/STSB"), as fractions of one.
        seen: what it trained on (updates, queries, pairs, tokens) and how many queries had negatives replaced.
        seconds: of training and scoring.
        items: of each task numbers whose mean is the score; a task may have none.
    """

    arm: str
    seed: int
    scores: dict[str, float]
    seen: dict[str, int]
    seconds: float
    items: dict[str, list[float]]

    def to_json(self) -> dict[str, Any]:
        """Return the result as its file has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ArmResult":
        """Read what `to_json` returned."""
        return cls(**values)


@dataclass(frozen=True)
class Job:
    """One arm with one seed.

    Attributes:
        recipe: with seed and output set; the output is the run directory.
        rankings: folder of rankings that it shares with other arms, or None: it needs none, or mines its own.
        after: result of the job whose model it starts from, or None.
    """

    arm: Arm
    seed: int
    recipe: Recipe
    rankings: Path | None
    after: Path | None

    @property
    def ready(self) -> bool:
        return self.after is None or self.after.exists()

    @property
    def run(self) -> Path:
        return Path(self.recipe.output)

    @property
    def result(self) -> Path:
        return self.run.with_name(f"{self.run.name}.json")

    @property
    def saved_recipe(self) -> Path:
        return self.run.with_name(f"{self.run.name}.yaml")

    @property
    def inputs(self) -> Path:
        return self.run.with_name(f"{self.run.name}.inputs.yaml")

    @property
    def log(self) -> Path:
        return self.run.with_name(f"{self.run.name}.log")

    def __str__(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    def read_result(self) -> ArmResult:
        """Read the result of a finished job."""
        return ArmResult.from_json(read_json(self.result))


def make_job(source: str | Path, overrides: Sequence[str], arm: Arm, seed: int, output: Path) -> Job:
    """Return the job of an arm with a seed; its recipe is `source` with the overrides of command, arm and job."""
    own = [f"training.seed={seed}", f"output={_run_folder(output, arm.name, seed)}"]
    after = None
    if arm.after is not None:
        earlier = _run_folder(output, arm.after, seed)
        own.append(f"model.base={earlier / 'model'}")
        after = earlier.with_name(f"{earlier.name}.json")
    if arm.recipe is None:
        recipe = load_recipe(source, [*overrides, *arm.overrides, *own])
    else:
        recipe = load_recipe(arm.recipe, [*arm.overrides, *own])
    rankings = None
    if (
        arm.trained
        and arm.after is None  # else nobody shares its model, which is not there yet
        and recipe.step.queries
        and recipe.step.num_negatives
        and mined_sets(recipe)
    ):
        rankings = output / f"mining-{_mining_key(recipe)}"
    return Job(arm, seed, recipe, rankings, after)


def _run_folder(output: Path, arm: str, seed: int) -> Path:
    return output / folder_of(arm) / f"seed-{seed}"


def mined_sets(recipe: Recipe) -> list[str]:
    """Return the names of the data sets whose negatives are mined."""
    return [data.name for data in recipe.data.retrieval if data.negative_source == "mined"]


def _mining_key(recipe: Recipe) -> str:
    """What rankings depend on. (A linear layer drawn at random depends on the seed; the first one's serves for all.)"""
    data = [data_set.model_dump(mode="json", exclude={"weight"}) for data_set in recipe.data.retrieval]
    model = recipe.model.model_dump(mode="json", exclude={"dropout"})
    parts = [data, model, recipe.mining.model_dump(mode="json"), recipe.data.on_bad_row]
    return xxhash.xxh3_64_hexdigest(json.dumps(parts, sort_keys=True).encode())[:8]
