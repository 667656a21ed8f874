"""Scores of a step by query and slot, against loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conan_embed.training.figures import by_slot, mean, mean_per_query

# Three queries with two, none and one hard negative; the first lost the one of slot 1.
PLAN = SimpleNamespace(
    retrieval=SimpleNamespace(
        rows=np.array([4, 9, 2]),
        hard_negative_pairs=(torch.tensor([0, 0, 2]), torch.tensor([5, 6, 7])),
        slot_X=np.array([0, 2, 1]),
    )
)
VALUES = np.array([0.5, 0.25, 0.8])


def test_values_stand_in_the_slot_of_their_negative():
    expected = np.full((3, 3), np.nan)
    expected[0, 0], expected[0, 2], expected[2, 1] = VALUES
    np.testing.assert_array_equal(by_slot(VALUES, PLAN, 3), expected)


def test_a_mean_over_queries_weighs_each_query_alike():
    assert mean_per_query(VALUES, PLAN) == pytest.approx(((0.5 + 0.25) / 2 + 0.8) / 2)
    assert mean_per_query(np.empty(0), PLAN) is None
    assert mean_per_query(VALUES, SimpleNamespace(retrieval=None)) is None


def test_a_mean_of_what_is_known():
    assert mean(np.array([1.0, np.nan, 4.0])) == 2.5
    assert mean(np.array([np.nan])) is None
