"""Character n-grams agree with sets of Python strings."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.filtering.grams import code_points, grams, jaccard, num_distinct, overlap

text = st.text(alphabet="ab中文 1!\n😀かé", max_size=40)


def gram_set(value: str, n: int) -> set[str]:
    padded = value.ljust(n, "\0")
    return {padded[i : i + n] for i in range(len(padded) - n + 1)}


@given(st.lists(st.tuples(text, text), min_size=1, max_size=6), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_overlap_and_jaccard_are_those_of_the_sets(pairs, n):
    left, right = (pl.Series([pair[side] for pair in pairs], dtype=pl.String) for side in (0, 1))
    common, left_size, right_size = overlap(left, right, n)
    similar = jaccard(left, right, n)
    for i, (a, b) in enumerate(pairs):
        one, two = gram_set(a, n), gram_set(b, n)
        assert (common[i], left_size[i], right_size[i]) == (len(one & two), len(one), len(two))
        assert similar[i] == pytest.approx(len(one & two) / len(one | two))


def test_grams_of_a_text_do_not_depend_on_its_neighbours():
    alone, _ = grams(pl.Series(["中文和英文混排"]), 5)
    hashes, offsets = grams(pl.Series(["前面的一句话", "中文和英文混排", "x"]), 5)
    np.testing.assert_array_equal(hashes[offsets[1] : offsets[2]], alone)
    assert num_distinct(hashes, np.diff(offsets)).tolist() == [2, 3, 1]


@given(st.lists(st.text(max_size=12), max_size=8), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_code_points_are_those_of_each_text(texts, start):
    """Of characters of every plane, also where a column is a part of another."""
    column = pl.Series(texts, dtype=pl.String)[start:]
    points, offsets = code_points(column)
    found = [points[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == [[ord(character) for character in value] for value in texts[start:]]


@pytest.mark.parametrize("different", [1, 3, 100, 5000])
@pytest.mark.parametrize("factor", [1, 1 << 40, 0x9E3779B97F4A7C15])
def test_num_distinct_is_right_however_badly_hashes_are_mixed(different, factor):
    """Hashes that share their upper or lower bits all meet in one slot of a table."""
    rng = np.random.default_rng(0)
    counts = np.array([0, 1, 700, 0, 2500, 3])
    hashes = rng.integers(0, different, counts.sum()).astype(np.uint64) * np.uint64(factor)
    texts = np.split(hashes, np.cumsum(counts)[:-1])
    assert num_distinct(hashes, counts).tolist() == [len(set(each.tolist())) for each in texts]
