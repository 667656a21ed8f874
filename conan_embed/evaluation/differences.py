"""How two evaluations on the same sets differ, task by task, with the interval that the items of a task allow."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from conan_embed.errors import UserError
from conan_embed.evaluation.results import EvaluationResult, TaskResult
from conan_embed.evaluation.statistics import paired_differences


@dataclass(frozen=True)
class ScoreDifference:
    """One task under two models; scores are fractions of 1.

    Attributes:
        metric: the main score of both; where they differ, one that both have.
        low, high: the 95 % interval of the difference, from a bootstrap over the task's items, each paired with itself;
            None where a task has no items, or main scores that differ.
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
        UserError: the evaluations have other tasks, other data in them, or no metric in common.
    """
    if [*before] != [*after]:
        raise UserError(f"compare_scores: found the tasks {', '.join(before)}; expected {', '.join(after)}.")
    return [_difference(task, before[task], after[task]) for task in after]


def is_other_data(before: TaskResult, after: TaskResult) -> bool:
    """Return whether two results are known to be of other data, or of another part of it."""
    return None not in (before.content, after.content) and before.content != after.content


def shared_metric(before: TaskResult, after: TaskResult) -> str | None:
    """Return a metric by which both can be compared: the main score of `after`, else that of `before`."""
    metrics = (after.metric, before.metric)
    return next((name for name in metrics if all(name in _scores(task) for task in (before, after))), None)


def score_of(task: TaskResult, metric: str) -> float:
    return _scores(task)[metric]


def _scores(task: TaskResult) -> Mapping[str, float]:
    return {**task.scores, task.metric: task.main}


def _difference(task: str, before: TaskResult, after: TaskResult) -> ScoreDifference:
    _check_same_data(task, before, after)
    metric = shared_metric(before, after)
    if metric is None:
        raise UserError(
            f"compare_scores: {task}: found {before.metric} before and {after.metric} after, which cannot be "
            "compared; expected one of them in both evaluations."
        )
    low = high = None
    if before.items is not None and after.items is not None and before.metric == after.metric:
        low, high = _interval(task, before, after)
    scores = score_of(before, metric), score_of(after, metric)
    return ScoreDifference(task, metric, *scores, scores[1] - scores[0], low, high)


def _check_same_data(task: str, before: TaskResult, after: TaskResult) -> None:
    if before.items is not None and after.items is not None and len(before.items) != len(after.items):
        raise UserError(
            f"compare_scores: {task}: found {len(before.items)} items before and {len(after.items)} after; "
            "expected evaluations on the same set."
        )
    if is_other_data(before, after):
        raise UserError(f"compare_scores: {task}: found other data before and after; expected the same set.")


def _interval(task: str, before: TaskResult, after: TaskResult) -> tuple[float, float]:
    assert before.items is not None and after.items is not None
    items_AI = np.array([before.items, after.items])
    # Items are rounded: their means are brought to the scores exactly.
    items_AI += np.array([[before.main], [after.main]]) - items_AI.mean(axis=1, keepdims=True)
    estimate = paired_differences({task: items_AI[:, None]}, against=0)[task][1]
    return estimate.low, estimate.high
