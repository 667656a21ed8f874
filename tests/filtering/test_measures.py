"""Measures agree with a slow reading of each text, character by character."""

import itertools
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.filtering import grams
from conan_embed.filtering.measures import measure

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
    monkeypatch.setattr(grams, "_PART_CHARACTERS", 20)
    monkeypatch.setattr(grams, "_CHUNK_CHARACTERS", 7)
    assert measure(pl.Series(TEXTS * 3)).equals(whole)


def test_no_texts_have_no_measures():
    assert measure(pl.Series([], dtype=pl.String)).height == 0
