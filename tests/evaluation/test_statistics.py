"""Paired differences: their intervals against a slow reference, on differences planted and on none."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from conan_embed.evaluation.statistics import averages, paired_differences, stretch, with_mean


def test_types_count_the_same_and_tasks_within_a_type():
    weights = averages(["sts/A", "sts/B", "retrieval/C"])
    assert weights["sts"] == {"sts/A": 0.5, "sts/B": 0.5}
    assert weights["average"] == {"sts/A": 0.25, "sts/B": 0.25, "retrieval/C": 0.5}


def slow_interval(tasks, draws):
    """Two lists of lists [seed][item] a task, arm minus first: everything drawn again by hand, one draw at a time."""
    generator = random.Random(0)
    num_seeds = len(next(iter(tasks.values())))

    def weights(size):
        if size == 1:
            return [1.0]
        normal = [generator.gauss(0, 1) for _ in range(size)]
        return [(1 + stretch(size) * (one - sum(normal) / size)) / size for one in normal]

    values = []
    for _ in range(draws):
        seeds, value = weights(num_seeds), 0.0
        for name, share in averages(list(tasks))["average"].items():
            items = weights(len(tasks[name][0]))
            for seed, row in zip(seeds, tasks[name], strict=True):
                value += share * seed * sum(w * x for w, x in zip(items, row, strict=True))
        values.append(value)
    values.sort()
    return values[round(0.025 * draws)], values[round(0.975 * draws)]


def test_intervals_are_those_of_a_slow_reference():
    generator = np.random.default_rng(0)
    scores = {
        "retrieval/A": generator.normal(size=(2, 3, 12)) + generator.normal(size=(2, 3, 1)),
        "sts/B": generator.normal(size=(2, 3, 7)),
        "clustering/C": generator.normal(size=(2, 3, 1)),
    }
    found = paired_differences(scores, 0)["average"][1]
    differences = {name: (values[1] - values[0]).tolist() for name, values in scores.items()}
    low, high = slow_interval(differences, 4000)
    assert found.value == pytest.approx(np.mean([(v[1] - v[0]).mean() for v in scores.values()]))
    assert found.low == pytest.approx(low, abs=0.08 * (high - low))
    assert found.high == pytest.approx(high, abs=0.08 * (high - low))


def test_with_seeds_alone_the_interval_is_student_s():
    scores = np.array([[0.5, 0.5, 0.5, 0.5], [0.52, 0.51, 0.56, 0.53]])[:, :, None]
    found = paired_differences({"clustering/A": scores}, 0)["average"][1]
    expected = stats.t.interval(0.95, 3, scores[1].mean() - 0.5, stats.sem(scores[1, :, 0]))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.003)


def simulated(generator, difference, seeds=3):
    """Two arms on 40 queries: queries differ much, arms of one seed by a seed effect and noise."""
    queries = generator.normal(scale=0.2, size=(1, 1, 40))
    seed_effects = generator.normal(scale=0.01, size=(2, seeds, 1))
    scores = 0.5 + queries + seed_effects + generator.normal(scale=0.05, size=(2, seeds, 40))
    scores[1] += difference
    return {"retrieval/A": scores}


def test_a_planted_difference_is_found_and_a_null_is_not():
    generator = np.random.default_rng(1)
    trials = 60
    found = [paired_differences(simulated(generator, 0.1), 0)["average"][1] for _ in range(trials)]
    assert np.mean([estimate.low > 0 for estimate in found]) > 0.9
    assert np.mean([estimate.value for estimate in found]) == pytest.approx(0.1, abs=0.005)
    null = [paired_differences(simulated(generator, 0.0), 0)["average"][1] for _ in range(trials)]
    assert np.mean([estimate.clear for estimate in null]) <= 0.08
    # Few things drawn again are few: two seeds say less than ten, and items cannot make up for it.
    few, many = (
        np.mean(
            [
                estimate.high - estimate.low
                for estimate in (
                    paired_differences(simulated(generator, 0.0, seeds), 0)["average"][1] for _ in range(10)
                )
            ]
        )
        for seeds in (2, 10)
    )
    assert few > 3 * many


def test_pairing_takes_out_what_arms_have_in_common():
    generator = np.random.default_rng(2)
    common = generator.normal(scale=10.0, size=(1, 3, 50))
    scores = {"sts/A": common + np.array([0.0, 1.0])[:, None, None]}
    base, arm = paired_differences(scores, 0)["average"]
    assert (base.value, base.low, base.high) == (0, 0, 0)
    assert (arm.low, arm.high) == (pytest.approx(1), pytest.approx(1))


def test_nothing_repeated_has_no_interval():
    one = paired_differences({"clustering/A": np.array([[[0.1]], [[0.3]]])}, 0)["average"][1]
    assert one.value == pytest.approx(0.2)
    assert math.isnan(one.low) and not one.clear


def test_items_are_moved_to_their_score_and_differ_as_before():
    items = np.array([[0.0, 1.0], [0.5, 0.25]])
    moved = with_mean(items, np.array([0.6, 0.375]))
    np.testing.assert_allclose(moved.mean(axis=1), [0.6, 0.375])
    np.testing.assert_allclose(np.diff(moved), np.diff(items))
    np.testing.assert_allclose(with_mean(items[0], 0.5), items[0])
