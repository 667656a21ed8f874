"""Order without state: bijections, and epochs that hold each example once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.texts.permutation import hashed, nth_of_epochs, permuted

keys = st.lists(st.integers(0, 2**31), min_size=1, max_size=4)


@given(st.integers(1, 3000), keys)
def test_a_permutation_is_a_bijection(size, keys):
    assert np.array_equal(np.sort(permuted(np.arange(size), size, *keys)), np.arange(size))


@given(st.integers(1, 10**15), st.lists(st.integers(0, 10**15), max_size=20), keys)
def test_each_place_is_computed_alone(size, places, keys):
    """Of any number of places, in any order: the same answer, within the range."""
    places = np.array(places, np.int64) % size
    together = permuted(places, size, *keys)
    alone = [int(permuted(places[i : i + 1], size, *keys)[0]) for i in range(len(places))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < size)).all()


@given(st.integers(1, 200), st.integers(0, 5), keys)
def test_every_epoch_holds_each_example_once(size, epochs, keys):
    order = nth_of_epochs(np.arange(size * epochs), size, *keys)
    for epoch in range(epochs):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(st.integers(1, 50), st.integers(0, 60), st.integers(0, 40), keys)
def test_any_stretch_is_part_of_the_same_sequence(size, start, count, keys):
    whole = nth_of_epochs(np.arange(start + count), size, *keys)
    assert nth_of_epochs(np.arange(start, start + count), size, *keys).tolist() == whole[start:].tolist()


def test_epochs_and_seeds_differ():
    orders = [nth_of_epochs(np.arange(2000), 1000, seed) for seed in range(3)]
    halves = [half for order in orders for half in (order[:1000], order[1000:])]
    for i in range(len(halves)):
        for j in range(i):
            assert (halves[i] == halves[j]).mean() < 0.02


def test_an_order_looks_shuffled():
    """Neighbours are unrelated and every place is hit evenly: correlation and chi-squared within five sigma."""
    size = 4096
    order = nth_of_epochs(np.arange(size), size, 7)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(size)
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 5 / np.sqrt(size)
    firsts = np.array([nth_of_epochs(np.array([0]), 16, seed)[0] for seed in range(1600)])
    squared = ((np.bincount(firsts, minlength=16) - 100) ** 2 / 100).sum()
    assert squared < 15 + 5 * np.sqrt(30)


def test_hashes_hang_on_every_key():
    values = np.arange(100)
    assert not np.array_equal(hashed(values, 1, 2), hashed(values, 2, 1))
    assert len(np.unique(hashed(values, 1))) == 100
