"""Fingerprints against a slow computation in Python's own numbers."""

import random

import duckdb
import numpy as np
import polars as pl
import pytest

from conan_embed.filtering import minhash
from conan_embed.filtering.grams import code_points, jaccard
from conan_embed.filtering.grams import grams as grams_of
from conan_embed.filtering.minhash import (
    SKETCH,
    fingerprints,
    may_resemble,
    plain,
    signatures,
    sketches,
    text_keys,
)
from conan_embed.filtering.recipe import Duplicates
from tests.support.texts import LETTERS, changed, planted


def test_sketches_never_rule_out_what_resembles():
    """The condition on two sketches holds wherever the exact similarity reaches the threshold, at any length."""
    rng = random.Random(5)
    texts = []
    for length in (5, 12, 40, 200, 1000, 4000):
        for changes in (0, 1, length // 60, length // 20, length // 4, length):
            text = "".join(rng.choices(LETTERS["zh"], k=length))
            texts.append((text, changed(rng, text, LETTERS["zh"], changes)))
    one, two = (pl.Series([pair[side] for pair in texts]) for side in (0, 1))
    tables = {}
    for name, side in (("x", one), ("y", two)):
        hashes, offsets = grams_of(side, 5)
        found = sketches(hashes, offsets)
        columns = {word: found[:, i] for i, word in enumerate(SKETCH)}
        tables[name] = pl.DataFrame({"row": range(len(side)), "grams": np.diff(offsets), **columns})
    x, y = tables["x"], tables["y"]  # DuckDB finds them by name
    exact = jaccard(one, two, 5)
    for threshold in (0.5, 0.8, 0.95):
        condition = may_resemble("x", "y", threshold)
        kept = (
            duckdb.sql(f"select {condition} as likely from x join y using (row) order by row")
            .pl()["likely"]
            .to_numpy()
        )
        assert kept[exact >= threshold].all()
        if threshold >= 0.8:  # and is of use, but for texts so long that their sketches are full
            assert not kept[(exact < 0.05) & (x["grams"].to_numpy() < 200)].any()
    assert len(x) == len(y) == len(texts)


def test_signatures_and_keys_are_those_of_any_process():
    """The files of a run are read by other processes, so hashes must not depend on a process's seed."""
    bare = plain(pl.Series(["北京是中国的首都。", "The capital of China", "?!"]))
    assert bare.to_list() == ["北京是中国的首都", "thecapitalofchina", "?!"]
    assert len(set(text_keys(*code_points(bare)))) == 3
    assert text_keys(*code_points(pl.Series(["abc"]))) == [
        0x78AF5F94892F3950
    ]  # XXH3 of "abc", by its specification
    first = signatures(*grams_of(bare, 5), 4, 2)
    np.testing.assert_array_equal(signatures(*grams_of(bare.reverse(), 5), 4, 2)[::-1], first)
    assert first.dtype == np.uint32


def slow_signature(hashes: list[int], bands: int, rows: int) -> list[int]:
    """Round by round, gram by gram, in Python's own numbers."""
    whole, values = (1 << 64) - 1, bands * rows
    minima = [(1 << 32) - 1] * values
    for round_ in range(max(-(-3 * values // len(hashes)), 1)):
        for gram in hashes:
            if round_:
                gram ^= round_ * 0x9E3779B97F4A7C15 & whole
                gram = gram * 0xBF58476D1CE4E5B9 & whole
                gram ^= gram >> 32
                gram = gram * 0x94D049BB133111EB & whole
                gram ^= gram >> 29
            index = (gram >> 32) * values >> 32
            minima[index] = min(minima[index], gram & 0xFFFFFF | min(round_, 255) << 24)
    found = []
    for band in range(bands):
        mixed = 0
        for minimum in minima[band * rows : (band + 1) * rows]:
            mixed = (mixed ^ minimum) * 0x9E3779B97F4A7C15 & whole
            mixed ^= mixed >> 31
        found.append(mixed & 0xFFFFFFFF)
    return found


@pytest.mark.parametrize(("bands", "rows"), [(12, 5), (3, 2)])
def test_signatures_are_those_of_each_text_gram_by_gram(bands, rows, monkeypatch):
    """Texts of any number of grams, however many are processed together."""
    rng = np.random.default_rng(1)
    counts = np.array([1, 200, 2, 179, 180, 181, 1, 7, 90, 3, 59, 60, 61, 1000])
    hashes = rng.integers(0, 1 << 64, counts.sum(), dtype=np.uint64)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    expected = [slow_signature(each.tolist(), bands, rows) for each in np.split(hashes, offsets[1:-1])]
    assert signatures(hashes, offsets, bands, rows).tolist() == expected
    monkeypatch.setattr(minhash, "_PIECE", 100)
    monkeypatch.setattr(minhash, "_CHUNK", 300)
    monkeypatch.setattr(minhash, "_BATCH", 700)
    assert signatures(hashes, offsets, bands, rows).tolist() == expected


def test_fingerprints_do_not_depend_on_batches(monkeypatch):
    texts = [
        "",
        "?!",
        "短",
        *(text for pair in planted("zh", 20, 3) for text in pair[:2]),
        "短",
        "C++",
        "c++ ",
    ]
    pairs = pl.DataFrame({"id": range(len(texts)), "query": texts, "positive": texts[::-1]})
    pairs = pairs.cast({"id": pl.UInt64})
    keys_whole, texts_whole = fingerprints(pairs, Duplicates())
    monkeypatch.setattr(minhash, "_BATCH", 1)
    monkeypatch.setattr("conan_embed.filtering.grams._CHUNK_CHARACTERS", 50)
    keys_cut, texts_cut = fingerprints(pairs, Duplicates())
    assert keys_cut.equals(keys_whole)
    assert texts_cut.equals(texts_whole)
