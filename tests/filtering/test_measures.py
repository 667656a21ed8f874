"""Measures agree with a slow reading of each text, character by character."""

import itertools
import unicodedata

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.filtering import measures
from conan_embed.filtering.measures import code_points, grams, jaccard, measure, num_distinct, overlap

TEXTS = [
    "",
    "a",
    "中文和English混排 42 次！",
    "哈哈哈哈哈哈哈哈哈哈哈哈",
    "かな 한글 😀😀 ♪",
    "x\n\ny  z",
    "a" * 50,
]
text = st.text(alphabet="ab中文 1!\n😀かé", max_size=40)


def gram_set(value: str, n: int) -> set[str]:
    padded = value.ljust(n, "\0")
    return {padded[i : i + n] for i in range(len(padded) - n + 1)}


def slow(value: str) -> dict[str, float]:
    han = [c for c in value if "一" <= c <= "鿿"]
    kana = [c for c in value if "ぁ" <= c <= "ヿ"]
    hangul = [c for c in value if "가" <= c <= "힣"]
    kind = [unicodedata.category(c)[0] for c in value]
    other_letters = [
        c for c, k in zip(value, kind, strict=True) if k in "LM" and c not in han + kana + hangul
    ]
    digits = [c for c, k in zip(value, kind, strict=True) if k == "N"]
    words = [
        list(group)
        for is_word, group in itertools.groupby(
            value, lambda c: c in hangul or c in other_letters or c in digits
        )
        if is_word
    ]
    padded = value.ljust(8, "\0")
    eights = [padded[i : i + 8] for i in range(len(padded) - 7)]
    return {
        "characters": len(value),
        "han": len(han),
        "kana": len(kana),
        "hangul": len(hangul),
        "letters": len(other_letters),
        "digits": len(digits),
        "spaces": sum(c in " \n" for c in value),
        "tokens": len(han) + len(kana) + len(words),
        "repeated": 1 - len(set(eights)) / len(eights),
    }


@given(st.lists(text, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_measure_is_what_one_counts_by_hand(texts):
    found = measure(pl.Series(texts, dtype=pl.String))
    for row, value in zip(found.iter_rows(named=True), texts, strict=True):
        for name, number in slow(value).items():
            assert row[name] == pytest.approx(number, abs=1e-6), (name, value)


def test_measure_does_not_depend_on_chunks(monkeypatch):
    whole = measure(pl.Series(TEXTS * 3))
    monkeypatch.setattr(measures, "_PART_CHARACTERS", 20)
    monkeypatch.setattr(measures, "_CHUNK_CHARACTERS", 7)
    assert measure(pl.Series(TEXTS * 3)).equals(whole)


def test_no_texts_have_no_measures():
    assert measure(pl.Series([], dtype=pl.String)).height == 0


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
