"""Steps with nothing to learn, against the whole matrix of relations; and runs of nothing but such steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.errors import UserError
from conan_embed.objectives.relations import NEGATIVE, POSITIVE, Relations
from conan_embed.planning.contrast import (
    check_contrast,
    has_contrast,
    pairs_have_contrast,
    queries_have_contrast,
)
from conan_embed.planning.plan import PairTexts, StepPlan, StsPlan
from conan_embed.planning.planner import Planner
from conan_embed.recipes.sections import Step
from conan_embed.texts.store import Texts
from tests.support.planned_tasks import random_tasks, tasks_of


@st.composite
def relations(draw):
    """Groups and exceptions as a plan has them."""
    queries, candidates = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    group_Q = draw(st.lists(st.integers(-1, 2), min_size=queries, max_size=queries))
    group_C = draw(st.lists(st.sampled_from([-2, 0, 1, 2]), min_size=candidates, max_size=candidates))
    cells = st.tuples(st.integers(0, queries - 1), st.integers(0, candidates - 1))
    exceptions = draw(st.dictionaries(cells, st.sampled_from([1, 0, -1]), max_size=12))
    rows = sorted(exceptions)
    return Relations(
        torch.tensor(group_Q),
        torch.tensor(group_C),
        torch.tensor([row for row, _ in rows], dtype=torch.int64),
        torch.tensor([column for _, column in rows], dtype=torch.int64),
        torch.tensor([exceptions[cell] for cell in rows], dtype=torch.int8),
    )


@settings(max_examples=200)
@given(relations())
def test_a_query_needs_a_positive_and_a_negative(found):
    dense = found.to_dense()
    expected = ((dense == POSITIVE).any(1) & (dense == NEGATIVE).any(1)).any()
    assert queries_have_contrast(found) == bool(expected)


@pytest.mark.parametrize(
    ("labels", "groups", "expected"),
    [
        ([1, 1, 1], [0, 0, 0], False),
        ([1, 1, 2], [0, 0, 0], True),
        ([1, 2], [0, 1], False),  # data sets are not compared with one another
        ([3], [0], False),
        ([1, 2, 2], [0, 1, 0], True),
    ],
)
def test_pairs_need_another_grade_of_their_data_set(labels, groups, expected):
    zeros = torch.zeros(len(labels), dtype=torch.int64)
    plan = StsPlan(zeros, zeros, torch.tensor(labels, dtype=torch.float32), torch.tensor(groups))
    assert pairs_have_contrast(plan) == expected


def step(**settings):
    return Step(**{"queries": 4, "num_negatives": 0, "sts_pairs": 0} | settings)


def same_positive(count):
    return [(f"q{i}", ["yes"]) for i in range(count)]


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        ([("q", ["a"])], step()),
        ([("q", ["a"]), ("q", ["b"]), ("q", ["c"])], step()),
        (same_positive(6), step()),
        ([(f"q{i}", [f"p{i}"]) for i in range(6)], step(queries=1)),
        ([(f"q{i}", [f"p{i}"]) for i in range(6)], step(in_batch="none")),
        ([(f"q{i}", [f"p{i}"]) for i in range(6)], step(in_batch="step_hard")),
    ],
    ids=["one query", "one query, more rows", "one positive", "one query a step", "no batch", "hard only"],
)
def test_a_run_without_any_negative_is_refused(tmp_path, rows, settings):
    with pytest.raises(UserError, match=r"data.retrieval: nothing to learn: .*step.num_negatives"):
        check_contrast(Planner(tasks_of(tmp_path, rows), settings, 0), None, 100)


def test_a_data_set_of_one_query_beside_others_is_not_refused_and_its_steps_are_known(tmp_path):
    rows = [("q", ["a"])], [(f"q{i}", [f"p{i}"]) for i in range(6)]
    planner = Planner(tasks_of(tmp_path, *rows), step(one_dataset=True), 0)
    check_contrast(planner, None, 100)
    found = {}
    for number in range(30):
        plan = planner.step(number, None)
        data_set = planner.queries.set_of_query[plan.retrieval.rows[0]]
        found.setdefault(int(data_set), set()).add(has_contrast(plan))
    assert found == {0: {False}, 1: {True}}


class Grades:
    """A source of STS pairs alone, with these scores in each step."""

    def __init__(self, *steps):
        self.steps = steps

    def steps_for(self, epochs):
        return round(epochs * len(self.steps))

    def step(self, number, table):
        labels = np.array(self.steps[number], np.float32)
        texts = Texts(np.zeros(2, np.int32), np.arange(3), np.arange(2))
        zeros = np.zeros(len(labels), np.int64)
        return StepPlan.of(number, 0.0, texts, None, PairTexts(zeros, zeros + 1, labels, zeros))


@pytest.mark.parametrize("steps", [([1, 1], [1, 1]), ([1, 1], [0, 0]), ([3], [5], [1])])
def test_a_run_of_one_grade_a_step_is_refused(steps):
    with pytest.raises(UserError, match=r"data.sts: nothing to learn: .*step.sts_pairs of at least 2"):
        check_contrast(Grades(*steps), None, 100)


def test_one_good_step_is_enough():
    check_contrast(Grades([1, 1], [1, 1], [1, 2]), None, 100)
    with pytest.raises(UserError, match="nothing to learn"):
        check_contrast(Grades([1, 1], [1, 1], [1, 2]), None, 2)  # a run that never comes to it


def test_ordinary_runs_pass():
    tasks, table = random_tasks(1)
    check_contrast(Planner(tasks, Step(queries=4, num_negatives=3, sts_pairs=4), 0), table, 10)
    check_contrast(
        Planner(tasks, Step(queries=4, num_negatives=3, sts_pairs=4, mixing="sequential"), 0), table, 10
    )
