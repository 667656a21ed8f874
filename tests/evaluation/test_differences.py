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
    (row,) = score_differences(result(a=TaskResult(0.5, "spearman", {})), result(a=task([0.7, 0.8])))
    assert (row.before, row.difference, row.low, row.high) == (0.5, pytest.approx(0.25), None, None)


def test_only_the_same_items_of_the_same_tasks_compare():
    with pytest.raises(UserError, match="found the tasks sts/a; expected sts/b"):
        score_differences(result(a=task([1.0])), result(b=task([1.0])))
    with pytest.raises(UserError, match="sts/a: found 1 items before and 2 after"):
        score_differences(result(a=task([1.0])), result(a=task([1.0, 2.0])))


def pair_task(metric, content=None, **scores):
    return TaskResult(scores[metric], metric, scores, items=[scores[metric]], content=content)


def test_only_one_metric_is_compared_with_itself():
    """mteb's accuracy and our average precision of one set: whichever both have; else a sentence."""
    ours = pair_task("ap", ap=0.61, accuracy=0.81)
    for theirs, expected in (
        (pair_task("accuracy", ap=0.6, accuracy=0.8), ("ap", 0.6, 0.61)),
        (pair_task("accuracy", accuracy=0.8), ("accuracy", 0.8, 0.81)),
    ):
        (row,) = score_differences(result(a=theirs), result(a=ours))
        assert (row.metric, row.before, row.after) == expected
        assert row.difference == pytest.approx(0.01)
        assert row.low is None and row.high is None  # the items are those of other scores
    with pytest.raises(UserError, match="sts/a: found f1 before and ap after, which cannot be compared"):
        score_differences(result(a=pair_task("f1", f1=0.5)), result(a=ours))


def test_results_of_other_data_of_the_same_size_are_refused():
    one, two = pair_task("ap", "x", ap=0.6), pair_task("ap", "y", ap=0.7)
    with pytest.raises(UserError, match="sts/a: found other data before and after; expected the same set"):
        score_differences(result(a=one), result(a=two))
    older = pair_task("ap", ap=0.5)  # written before hashes were
    assert score_differences(result(a=older), result(a=two))[0].difference == pytest.approx(0.2)
