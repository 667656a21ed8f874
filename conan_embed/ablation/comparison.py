"""Compare the results of arms: mean, spread and paired difference of each arm, per task, per type and on average."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import TypeAdapter

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.job import ArmResult
from conan_embed.errors import UserError
from conan_embed.evaluation.statistics import LEVEL, Estimate, averages, paired_differences, with_mean

Results = Sequence[Sequence[ArmResult]]  # [arm][seed], as `run_arms` returns them
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One arm on one task or average; scores are fractions of one.

    Attributes:
        mean: over seeds.
        spread: standard deviation over seeds; None where only one was trained.
        by_seed: the score of each seed.
        difference: of the means, from the arm `Comparison.against`, paired by seed and test item.
        low, high: ends of its interval; None where nothing was repeated.
        clear: whether the interval leaves out zero.
    """

    mean: float
    spread: float | None
    by_seed: list[float]
    difference: float
    low: float | None
    high: float | None
    clear: bool


@dataclass(frozen=True)
class ArmSummary:
    """What an arm was: its overrides (`changes` in words), swept `values`, and what it trained on (mean over seeds)."""

    name: str
    overrides: list[str]
    changes: str
    values: dict[str, str]
    seen: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Arms beside one another.

    Attributes:
        title: of tables and page.
        seeds: each trained arm was trained once with each.
        against: name of the arm that differences are taken from.
        level: of the intervals.
        arms: in the order of every row.
        rows: by task ("sts/STSB"), type ("sts") or "average", a cell for each arm.
    """

    title: str
    seeds: list[int]
    against: str
    level: float
    arms: list[ArmSummary]
    rows: dict[str, list[Cell]]

    @property
    def averages(self) -> list[str]:
        """The rows that a short table shows: the average, then the types."""
        return ["average", *(name for name in self.rows if "/" not in name and name != "average")]

    @property
    def tasks(self) -> list[str]:
        """The rows of single tasks."""
        return [name for name in self.rows if "/" in name]

    def to_frame(self) -> pl.DataFrame:
        """Return a row per task or average and arm: `row`, `arm` and the attributes of `Cell` but `by_seed`."""
        return pl.DataFrame(
            [
                {"row": row, "arm": arm.name, **{k: v for k, v in asdict(cell).items() if k != "by_seed"}}
                for row, cells in self.rows.items()
                for arm, cell in zip(self.arms, cells, strict=True)
            ],
            infer_schema_length=None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as results.json holds them."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Comparison":
        """Read what `to_json` returned."""
        return TypeAdapter(Comparison).validate_python(values)


def compare(
    arms: Sequence[Arm], seeds: Sequence[int], results: Results, against: int, title: str = "Arms"
) -> Comparison:
    """Return means, spreads and paired differences of all arms, for each task, each type and their average.

    Args:
        results: [arm][seed], as `run_arms` returns them.
        against: index of the arm that differences are taken from.

    Raises:
        UserError: two results are of different evaluation sets.
    """
    _check_same_sets(results)
    tasks = list(results[0][0].scores)
    estimates = paired_differences({task: _items(results, task) for task in tasks}, against)
    rows = {}
    for name, weights in {**averages(tasks), **{task: {task: 1.0} for task in tasks}}.items():
        scores_AS = np.sum([weight * _scores(results, task) for task, weight in weights.items()], axis=0)
        rows[name] = [_cell(*columns) for columns in zip(arms, scores_AS, estimates[name], strict=True)]
    summaries = [_summary(arm, of_arm) for arm, of_arm in zip(arms, results, strict=True)]
    return Comparison(title, list(seeds), arms[against].name, LEVEL, summaries, rows)


def _check_same_sets(results: Results) -> None:
    """Refuse scores on different items: neither their means nor their differences say anything."""
    first = results[0][0]
    for result in itertools.chain.from_iterable(results):
        for task in sorted({*first.scores, *result.scores}):
            here, there = _size(result, task), _size(first, task)
            if here != there:
                raise UserError(
                    f"{task}: found {here} for {result.arm}, seed {result.seed}, and {there} for {first.arm}, seed "
                    f"{first.seed}; expected the same evaluation sets. Remove the folders of arms with older ones."
                )


def _size(result: ArmResult, task: str) -> str:
    if task not in result.scores:
        return "no score"
    return f"{len(result.items[task]):,} items" if task in result.items else "a score without items"


def _scores(results: Results, task: str) -> Floats:
    """Scores of one task, float64 [arms, seeds]."""
    return np.array([[result.scores[task] for result in of_arm] for of_arm in results])


def _items(results: Results, task: str) -> Floats:
    """What each score is the mean of, float64 [arms, seeds, items]; the score itself where it has no items."""
    scores_AS = _scores(results, task)
    if task not in results[0][0].items:
        return scores_AS[:, :, None]
    items_ASI = np.array([[result.items[task] for result in of_arm] for of_arm in results])
    return with_mean(items_ASI, scores_AS)


def _cell(arm: Arm, scores_S: Floats, estimate: Estimate) -> Cell:
    repeated = arm.trained and len(scores_S) > 1
    bounded = np.isfinite(estimate.low)
    return Cell(
        mean=float(scores_S.mean()),
        spread=float(scores_S.std(ddof=1)) if repeated else None,
        by_seed=scores_S.tolist() if arm.trained else [float(scores_S[0])],
        difference=estimate.value,
        low=estimate.low if bounded else None,
        high=estimate.high if bounded else None,
        clear=estimate.clear,
    )


def _summary(arm: Arm, of_arm: Sequence[ArmResult]) -> ArmSummary:
    seen = {key: float(np.mean([result.seen[key] for result in of_arm])) for key in of_arm[0].seen}
    return ArmSummary(arm.name, list(arm.overrides), arm.changes, dict(arm.values), seen)
