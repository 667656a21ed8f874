"""The plan of a step: a pure function of seed and number, fair to tasks, data sets and examples."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.errors import UserError
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.planner import Planner, check_enough_negatives
from conan_embed.recipes.sections import Step
from tests.support.planned_tasks import ids, random_tasks, steps


@settings(max_examples=60)
@given(st.integers(0, 12), steps, st.integers(0, 3000))
def test_texts_of_a_step(seed, settings, step):
    """Unique and sorted; those that only STS pairs use are marked; pairs keep scores and data sets."""
    tasks, table = random_tasks(seed)
    plan = Planner(tasks, settings, seed).step(step, table)
    used = Counter()
    if plan.retrieval is not None:
        used.update(ids(plan, plan.retrieval.query_Q).tolist())
        used.update(ids(plan, plan.retrieval.candidate_C).tolist())
    only_sts = set()
    if plan.sts is not None:
        left, right = (ids(plan, x).tolist() for x in (plan.sts.left_P, plan.sts.right_P))
        only_sts = set(left + right) - set(used)
        used.update(left + right)
        known = Counter(
            (int(a), int(b), float(s), number)
            for number, data in enumerate(tasks.sts)
            for a, b, s in zip(data.left_P, data.right_P, data.score_P, strict=True)
        )
        pairs = zip(left, right, plan.sts.label_P.tolist(), plan.sts.group_P.tolist(), strict=True)
        assert set(pairs) <= set(known)
        assert len(left) == settings.sts_pairs
    assert plan.text_ids.tolist() == sorted(used)
    assert set(plan.text_ids[plan.is_sts].tolist()) == only_sts


def same_plan(one, two):
    assert one.text_ids.tolist() == two.text_ids.tolist()
    assert (one.step, one.epoch) == (two.step, two.epoch)
    for part, names in (
        ("retrieval", ("rows", "query_Q", "candidate_C")),
        ("sts", ("left_P", "right_P", "label_P")),
    ):
        left, right = getattr(one, part), getattr(two, part)
        assert (left is None) == (right is None)
        for name in names if left is not None else ():
            assert getattr(left, name).tolist() == getattr(right, name).tolist()


@settings(max_examples=20)
@given(steps, st.lists(st.integers(0, 5000), min_size=2, max_size=6))
def test_a_step_is_a_pure_function(settings, numbers):
    """Asked twice, in any order, of one planner or of a new one."""
    tasks, table = random_tasks(1)
    planner = Planner(tasks, settings, 3)
    first = [planner.step(step, table) for step in numbers]
    for step, plan in reversed(list(zip(numbers, first, strict=True))):
        same_plan(plan, planner.step(step, table))
        same_plan(plan, Planner(tasks, settings, 3).step(step, table))


def all_rows(settings, steps, seed=0, weights=(None, None, None)):
    tasks, table = random_tasks(2, weights=weights)
    planner = Planner(tasks, settings, seed)
    return tasks, planner, [planner.step(step, table) for step in range(steps)]


@pytest.mark.parametrize("mixing", ["joint", "sequential"])
def test_without_weights_an_epoch_holds_each_query_and_each_pair_once(mixing):
    settings = Step(queries=6, sts_pairs=3, mixing=mixing)  # 18 queries, 9 pairs: 3 steps an epoch
    tasks, planner, plans = all_rows(settings, 24)
    assert planner.num_queries == 18
    assert planner.num_pairs == 9
    rows = [row for plan in plans if plan.retrieval for row in plan.retrieval.rows.tolist()]
    for epoch in range(len(rows) // 18):
        assert sorted(rows[18 * epoch : 18 * epoch + 18]) == list(range(18))
    pairs = [
        (int(a), int(b), s, g)
        for plan in plans
        if plan.sts
        for a, b, s, g in zip(
            ids(plan, plan.sts.left_P),
            ids(plan, plan.sts.right_P),
            plan.sts.label_P.tolist(),
            plan.sts.group_P.tolist(),
            strict=True,
        )
    ]
    known = sorted(
        (int(a), int(b), float(s), g)
        for g, data in enumerate(tasks.sts)
        for a, b, s in zip(data.left_P, data.right_P, data.score_P, strict=True)
    )
    for epoch in range(len(pairs) // 9):
        assert sorted(pairs[9 * epoch : 9 * epoch + 9]) == known
    per_epoch = 3 if mixing == "joint" else 6
    assert [plan.epoch for plan in plans] == pytest.approx([(i + 1) / per_epoch for i in range(24)])
    assert planner.steps_for(2.0) == 2 * per_epoch


def test_seeds_and_epochs_have_orders_of_their_own():
    settings = Step(queries=18, sts_pairs=1)
    orders = [
        tuple(plan.retrieval.rows.tolist()) for seed in (0, 1) for plan in all_rows(settings, 2, seed)[2]
    ]
    assert len(set(orders)) == 4


def test_sequential_steps_hold_one_task_each_half_of_the_time():
    _, _, plans = all_rows(Step(queries=2, sts_pairs=2, mixing="sequential"), 2048)
    kinds = [plan.retrieval is not None for plan in plans]
    assert all((plan.retrieval is None) != (plan.sts is None) for plan in plans)
    assert sum(kinds[:1024]) == sum(kinds[1024:]) == 512
    assert kinds[:1024] != kinds[1024:]
    runs = sum(a != b for a, b in itertools.pairwise(kinds))
    assert abs(runs - 1024) < 5 * np.sqrt(512)  # as random as a coin


def test_weights_are_shares_and_each_set_runs_through_its_own_epochs():
    weights = (3.0, 1.0, None)  # the third counts by size: 6 * (3 + 1) / (7 + 5) = 2
    _, planner, plans = all_rows(Step(queries=16, sts_pairs=1), 2 * 1024 // 16, weights=weights)
    rows = np.concatenate([plan.retrieval.rows for plan in plans])
    for block in (rows[:1024], rows[1024:]):
        counts = Counter(planner.queries.set_of_query[block].tolist())
        assert counts == {0: 512, 1: 171, 2: 341}
    for number, size in enumerate((7, 5, 6)):
        mine = rows[planner.queries.set_of_query[rows] == number]
        for epoch in range(len(mine) // size):
            assert len(set(mine[epoch * size : (epoch + 1) * size].tolist())) == size


@pytest.mark.parametrize("weights", [(None, None, None), (3.0, 1.0, 2.0)])
def test_steps_of_one_data_set(weights):
    _, planner, plans = all_rows(Step(queries=3, sts_pairs=1, one_dataset=True), 1024, weights=weights)
    sets = [set(planner.queries.set_of_query[plan.retrieval.rows].tolist()) for plan in plans]
    assert {len(numbers) for numbers in sets} == {1}
    shares = np.array([7, 5, 6]) / 18 if weights[0] is None else np.array([3, 1, 2]) / 6
    counts = Counter(numbers.pop() for numbers in sets)
    assert all(abs(counts[number] - 1024 * shares[number]) < 1 for number in range(3))
    for number, size in enumerate((7, 5, 6)):
        rows = np.concatenate([plan.retrieval.rows for plan in plans])
        mine = rows[planner.queries.set_of_query[rows] == number]
        for epoch in range(len(mine) // size):
            assert len(set(mine[epoch * size : (epoch + 1) * size].tolist())) == size


def test_only_pairs_or_only_queries():
    tasks, table = random_tasks(4)
    plan = Planner(tasks, Step(queries=0, sts_pairs=4), 0).step(0, None)
    assert plan.retrieval is None
    assert plan.is_sts.all()
    assert Planner(tasks, Step(queries=0, sts_pairs=3), 0).steps_for(1) == 3
    plan = Planner(tasks, Step(queries=4, sts_pairs=0), 0).step(0, table)
    assert plan.sts is None
    assert not plan.is_sts.any()


def test_too_few_negatives_are_an_error_that_names_the_data_set():
    tasks, table = random_tasks(6)
    short = int((table.available_Q[:7] < 3).sum())
    assert short
    with pytest.raises(UserError, match=f"step.num_negatives: found 3, but {short} of 7 queries of 'set0'"):
        check_enough_negatives(tasks.retrieval, table, Step(num_negatives=3))
    check_enough_negatives(tasks.retrieval, table, Step(num_negatives=3, too_few_negatives="allow"))
    check_enough_negatives(
        tasks.retrieval, NegativeTable(np.zeros((18, 3), np.int32), 3), Step(num_negatives=3)
    )
