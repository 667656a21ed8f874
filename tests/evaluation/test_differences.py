"""Two evaluations task by task: the difference, and an interval where there are items."""

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation.differences import score_differences
from conan_embed.evaluation.results import EvaluationResult, TaskResult


def result(**tasks):
    return EvaluationResult("m", 8, {}, {f"sts/{name}": task for name, task in tasks.items()})


def task(items, main=None):
    items = np.asarray(items, float)
    return TaskResult(float(items.mean()) if main is None else main, "spearman", {}, items=items.tolist())


def test_the_interval_holds_the_mean_difference_of_paired_items():
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(400)
    before, after = task(noise), task(noise + 0.1 + 0.05 * generator.standard_normal(400))
    (row,) = score_differences(result(a=before), result(a=after))
    assert row.difference == pytest.approx(after.main - before.main)
    assert row.low < row.difference < row.high
    # Pairing takes the noise out that both share: 0.05 / sqrt(400), times twice 1.96.
    assert row.high - row.low == pytest.approx(2 * 1.96 * 0.05 / 20, rel=0.2)


def test_rounded_items_do_not_move_the_interval_off_the_scores():
    before, after = task([0.1, 0.1, 0.1], main=0.1004), task([0.1, 0.1, 0.1], main=0.0996)
    (row,) = score_differences(result(a=before), result(a=after))
    assert (row.low, row.high) == pytest.approx((-0.0008, -0.0008))


def test_without_items_there_is_no_interval():
    (row,) = score_differences(result(a=TaskResult(0.5, "v", {})), result(a=task([0.7, 0.8])))
    assert (row.before, row.difference, row.low, row.high) == (0.5, pytest.approx(0.25), None, None)


def test_only_the_same_items_of_the_same_tasks_compare():
    with pytest.raises(UserError, match="found the tasks sts/a; expected sts/b"):
        score_differences(result(a=task([1.0])), result(b=task([1.0])))
    with pytest.raises(UserError, match="sts/a: found 1 items before and 2 after"):
        score_differences(result(a=task([1.0])), result(a=task([1.0, 2.0])))
