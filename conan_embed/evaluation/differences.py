"""How two evaluations on the same sets differ, task by task, with the interval that the items of a task allow."""

from dataclasses import dataclass

import numpy as np

from conan_embed.errors import UserError
from conan_embed.evaluation.results import EvaluationResult, TaskResult
from conan_embed.evaluation.statistics import paired_differences


@dataclass(frozen=True)
class ScoreDifference:
    """One task under two models; scores are fractions of 1.

    Attributes:
        low, high: the 95 % interval of the difference, from a bootstrap over the task's items, each paired with itself;
            None where a task has no items.
    """

    task: str
    metric: str
    before: float
    after: float
    difference: float
    low: float | None = None
    high: float | None = None


def score_differences(before: EvaluationResult, after: EvaluationResult) -> list[ScoreDifference]:
    """Return the difference of each task, in the order of `after`.

    Raises:
        UserError: the evaluations have other tasks, or other items in them.
    """
    if [*before] != [*after]:
        raise UserError(f"compare_scores: found the tasks {', '.join(before)}; expected {', '.join(after)}.")
    return [_difference(task, before[task], after[task]) for task in after]


def _difference(task: str, before: TaskResult, after: TaskResult) -> ScoreDifference:
    low = high = None
    if before.items is not None and after.items is not None:
        low, high = _interval(task, before, after)
    return ScoreDifference(task, after.metric, before.main, after.main, after.main - before.main, low, high)


def _interval(task: str, before: TaskResult, after: TaskResult) -> tuple[float, float]:
    assert before.items is not None and after.items is not None
    if len(before.items) != len(after.items):
        raise UserError(
            f"compare_scores: {task}: found {len(before.items)} items before and {len(after.items)} after; "
            "expected evaluations on the same set."
        )
    items_AI = np.array([before.items, after.items])
    # Items are rounded: their means are brought to the scores exactly.
    items_AI += np.array([[before.main], [after.main]]) - items_AI.mean(axis=1, keepdims=True)
    estimate = paired_differences({task: items_AI[:, None]}, against=0)[task][1]
    return estimate.low, estimate.high
