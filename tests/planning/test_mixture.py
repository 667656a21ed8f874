"""The order of examples: shares close to the weights, counts that a slow count agrees with."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.planning.mixture import Interleaved, Mixture


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_shares_differ_from_the_weights_by_less_than_one_place(weights):
    mixture = Mixture([1] * len(weights), weights, 0)
    exact = np.array(weights) / sum(weights) * 1024
    assert mixture.sets.quota.sum() == 1024
    assert mixture.sets.quota.min() >= 1
    if exact.min() >= 1:  # else some were raised to one place
        assert np.abs(mixture.sets.quota - exact).max() < 1


@given(st.integers(0, 100), st.lists(st.integers(0, 5000), min_size=1, max_size=10))
def test_how_often_a_kind_came_before(seed, positions):
    sequence = Interleaved(np.array([700, 300, 24]), seed)
    kinds, before = sequence.at(np.arange(max(positions) + 1))
    found_kinds, found_before = sequence.at(np.array(positions))
    for position, kind, count in zip(positions, found_kinds, found_before, strict=True):
        assert kind == kinds[position]
        assert count == before[position] == (kinds[:position] == kind).sum()


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 50),
    st.sampled_from([None, 1.0, 2.0]),
)
def test_a_stretch_is_the_same_however_it_is_cut(sizes, start, temperature):
    mixture = Mixture(sizes, [None] * len(sizes), 3, temperature=temperature)
    whole, before = mixture.take(start, 30)
    cut = [mixture.take(start + i, n) for i, n in ((0, 1), (1, 12), (13, 17))]
    np.testing.assert_array_equal(np.concatenate([examples for examples, _ in cut]), whole)
    np.testing.assert_array_equal(np.concatenate([visits for _, visits in cut]), before)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(0, 9))
def test_how_often_an_example_came_before_is_its_epoch(sizes, seed):
    mixture = Mixture(sizes, [1.0] * len(sizes), seed)
    examples, before = mixture.take(0, 400)
    for position in (0, 17, 399):
        assert before[position] == (examples[:position] == examples[position]).sum()


def test_a_temperature_flattens_the_shares():
    quota = {t: Mixture([100, 10_000], [None, None], 0, temperature=t).sets.quota for t in (1.0, 2.0, 1e9)}
    assert [round(quota[t][0] / 1024, 2) for t in quota] == [0.01, 0.09, 0.5]
