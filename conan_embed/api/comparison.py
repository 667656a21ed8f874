"""Compare variants of a recipe over several seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.comparison import Comparison
from conan_embed.ablation.experiment import run_and_compare
from conan_embed.errors import UserError
from conan_embed.files import write_text
from conan_embed.recipes.schema import Recipe


def compare(
    recipe: Recipe,
    arms: Mapping[str, Mapping[str, Any]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    against: str | None = None,
    output: str | Path | None = None,
    jobs: int = 1,
) -> Comparison:
    """Train every arm once with every seed, and compare their scores on the recipe's evaluation folder.

    Arms of one seed see the same examples in the same order. Differences are paired by seed and test item, with 95 %
    bootstrap intervals over both; an interval that includes 0 shows nothing. Runs that are finished are not repeated.

    Args:
        recipe: what the arms have in common; it names an evaluation folder.
        arms: the settings that each arm changes, as `Recipe.with_` takes them, by the arm's name.
        seeds: of training.
        against: the arm that differences are taken from; by default the first.
        output: folder for the runs, results.json, table.md and arms.html; by default the recipe's, with "-arms" added.
        jobs: arms trained at a time, each in a process of its own.

    Returns:
        mean, spread, difference and interval of every arm on every task; `to_frame()` is a table of them.

    Raises:
        UserError: a setting that a recipe does not have, no evaluation folder, a repeated seed, an unknown `against`.

    Example:
        >>> recipe = ce.Recipe.small(
        ...     model="sentence-transformers/all-MiniLM-L6-v2", retrieval="faq.jsonl", evaluation="eval"
        ... )
        >>> recipe = recipe.with_(training={"steps": 1}, step={"queries": 4, "num_negatives": 1})
        >>> arms = {"slow": {}, "fast": {"optimizer": {"learning_rate": 1e-4}}}
        >>> ce.compare(recipe, arms, seeds=[0]).to_frame().filter(row="average")["arm"].to_list()
        ['slow', 'fast']
    """
    if not arms:
        raise UserError("compare: found no arms, expected at least one.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"compare: found the seeds {list(seeds)}, expected different ones, at least one.")
    for changes in arms.values():
        recipe.with_(**changes)  # a mistake is found before anything is trained
    folder = Path(output if output is not None else f"{recipe.output}-arms")
    source = folder / "recipe.yaml"
    write_text(source, recipe.as_yaml())
    listed = [Arm(name, tuple(_overrides(changes))) for name, changes in arms.items()]
    return run_and_compare(source, (), listed, seeds, folder, against=against, jobs=jobs)


def _overrides(changes: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield nested settings as `dotted.key=value`."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            yield from _overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value, default=str)}"
