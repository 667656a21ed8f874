"""From results to means, spreads and paired differences, per task, per type and on average."""

import json

import numpy as np
import pytest

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.comparison import Comparison, compare
from conan_embed.errors import UserError
from tests.support.planted import planted

ARMS = [Arm("base", trained=False), Arm("vanilla", ("step.mixing=sequential",)), Arm("<两者>")]


@pytest.fixture(scope="module")
def comparison():
    return compare(ARMS, [0, 1, 2], planted(ARMS, [0.0, 0.05, 0.05]), against=0, title="three arms")


def test_means_are_those_of_the_results_and_the_average_is_of_types(comparison):
    results = planted(ARMS, [0.0, 0.05, 0.05])
    scores = [result.scores for result in results[1]]
    cell = comparison.rows["retrieval/医疗"][1]
    assert cell.mean == pytest.approx(np.mean([one["retrieval/医疗"] for one in scores]))
    assert cell.spread == pytest.approx(np.std([one["retrieval/医疗"] for one in scores], ddof=1))
    by_type = [
        np.mean([(one["retrieval/医疗"] + one["retrieval/Small"]) / 2 for one in scores]),
        np.mean([one["sts/STSB"] for one in scores]),
        np.mean([one["clustering/CLS"] for one in scores]),
    ]
    average = comparison.rows["average"][1]
    assert average.mean == pytest.approx(np.mean(by_type))
    assert average.difference == pytest.approx(average.mean - comparison.rows["average"][0].mean)


def test_what_is_written_as_json_is_read_again(comparison):
    text = json.dumps(comparison.to_json(), allow_nan=False)
    assert Comparison.from_json(json.loads(text)) == comparison


def test_one_seed_has_intervals_over_items_where_there_are_any():
    found = compare(ARMS[:2], [0], planted(ARMS[:2], [0.0, 0.05], num_seeds=1), against=0)
    assert found.rows["clustering"][1].low is None
    assert found.rows["retrieval"][1].low > 0


@pytest.mark.parametrize(
    ("task", "items", "found"),
    [
        ("sts/STSB", [0.5] * 99, "99 items for vanilla, seed 1, and 100 items for base"),
        ("sts/STSB", None, "a score without items for vanilla"),
        ("clustering/CLS", "gone", "no score for vanilla"),
        ("sts/New", [0.5], "1 items for vanilla, seed 1, and no score for base"),
    ],
)
def test_results_of_other_evaluation_sets_are_refused(task, items, found):
    results = planted(ARMS, [0.0, 0.05, 0.05])
    other = results[1][1]
    if items == "gone":
        del other.scores[task]
    else:
        other.scores[task] = 0.5
        other.items.pop(task, None)
        other.items.update({} if items is None else {task: items})
    with pytest.raises(UserError, match=f"^{task}: found {found}"):
        compare(ARMS, [0, 1, 2], results, against=0)
