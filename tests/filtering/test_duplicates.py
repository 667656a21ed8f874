"""Planted duplicates are found, and only those; compared with all pairs of texts, one by one."""

import random

import duckdb
import numpy as np
import polars as pl
import pytest

from conan_embed.filtering import duplicates
from conan_embed.filtering.duplicates import (
    SKETCH,
    find_duplicates,
    fingerprints,
    keys,
    may_resemble,
    plain,
    signatures,
    sketches,
)
from conan_embed.filtering.measures import code_points, jaccard
from conan_embed.filtering.measures import grams as grams_of
from conan_embed.filtering.recipe import Duplicates

LETTERS = {"zh": [chr(c) for c in range(0x4E00, 0x4E00 + 3000)], "en": list("abcdefghijklmnopqrstuvwxyz")}


def grams(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(max(len(text) - 4, 1))}


def similarity(a: str, b: str) -> float:
    one, two = grams(a), grams(b)
    return len(one & two) / len(one | two)


def changed(rng: random.Random, text: str, letters: list[str], times: int) -> str:
    characters = list(text)
    for place in rng.sample(range(len(text)), times):
        characters[place] = rng.choice(letters)
    return "".join(characters)


def planted(language: str, number: int, seed: int) -> list[tuple[str, str, float]]:
    """Texts and their changed copies with similarities between about 0.3 and 1."""
    rng = random.Random(seed)
    letters = LETTERS[language]
    found = []
    for _ in range(number):
        text = "".join(rng.choices(letters, k=rng.randint(80, 300)))
        copy = changed(rng, text, letters, rng.randint(1, max(2, len(text) // 20)))
        found.append((text, copy, similarity(text, copy)))
    return found


def run(tmp_path, shards, setting=None, **more):
    """Find the duplicates of shards of (query, positive); return id to (reason, value, duplicate_of)."""
    setting = setting or Duplicates(query_at_most=None, positive_at_most=None, **more)
    folders = []
    for number, pairs in enumerate(shards):
        frame = pl.DataFrame(
            {
                "id": pl.Series([(number << 32) + row for row in range(len(pairs))], dtype=pl.UInt64),
                "query": [pair[0] for pair in pairs],
                "positive": [pair[1] for pair in pairs],
            }
        )
        folder = tmp_path / f"shard{number}"
        folder.mkdir()
        pair_keys, texts = fingerprints(frame, setting, near=setting.near)
        frame.write_parquet(folder / "pairs.parquet")
        pair_keys.write_parquet(folder / "keys.parquet")
        texts.write_parquet(folder / "texts.parquet")
        folders.append(folder)
    found = find_duplicates(folders, tmp_path / "out", setting, memory="500MB", work=tmp_path / "work")
    gone = pl.read_parquet(tmp_path / "out" / "*.parquet")
    return found, {row[0]: row[1:] for row in gone.iter_rows()}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_planted_near_duplicates_are_found(tmp_path, language):
    cases = planted(language, 600, seed=1)
    originals = [(f"问题{i}号" * 3, text) for i, (text, _, _) in enumerate(cases)]
    copies = [(f"问题{i}号" * 3, copy) for i, (_, copy, _) in enumerate(cases)]
    _, gone = run(tmp_path, [originals, copies])
    expected = {(1 << 32) + i for i, case in enumerate(cases) if case[2] >= 0.8}
    assert 200 < len(expected) < 500  # both sides of the threshold are there
    assert len(expected & set(gone)) >= 0.98 * len(expected)
    assert not set(gone) - expected
    for number in gone:
        reason, value, original = gone[number]
        i = number - (1 << 32)
        assert original == i
        assert reason == ("exact_duplicate" if cases[i][2] == 1 else "near_duplicate")
        assert value == pytest.approx(cases[i][2], abs=1e-6)


def test_a_pair_is_a_duplicate_when_both_sides_are(tmp_path):
    rng = random.Random(2)
    one, two = ("".join(rng.choices(LETTERS["zh"], k=120)) for _ in range(2))
    near_one, near_two = (changed(rng, text, LETTERS["zh"], 1) for text in (one, two))
    _, gone = run(tmp_path, [[(one, two), (near_one, near_two), (one, near_two)], [(two, one), (one, one)]])
    assert {number: reason for number, (reason, _, _) in gone.items()} == {
        1: "near_duplicate",
        2: "near_duplicate",
    }


def test_exact_duplicates_ignore_case_space_and_punctuation(tmp_path):
    pairs = [("What is C++?", "A language."), ("what is c++", "a  language"), ("What is C#?", "A language.")]
    _, gone = run(tmp_path, [pairs], near=False)
    assert gone == {1: ("exact_duplicate", 1.0, 0)}


def test_a_false_neighbour_does_not_hide_a_true_one(tmp_path, monkeypatch):
    """All texts share a band; each has one twin among many strangers."""
    rng = random.Random(3)
    texts = ["".join(rng.choices(LETTERS["zh"], k=100)) for _ in range(8)]
    twins = [changed(rng, text, LETTERS["zh"], 1) for text in texts]
    monkeypatch.setattr(
        duplicates,
        "signatures",
        lambda hashes, offsets, bands, rows: np.ones((len(offsets) - 1, bands), np.uint32),
    )
    found, gone = run(tmp_path, [[("q", text) for text in (*texts, *twins)]])
    assert sorted(gone) == list(range(8, 16))
    assert found.undecided == 0


def test_limits_of_a_side_count_near_duplicates(tmp_path):
    rng = random.Random(4)
    base = "".join(rng.choices(LETTERS["zh"], k=150))
    queries = ["".join(rng.choices(LETTERS["zh"], k=50)) for _ in range(6)]
    pairs = [(query, changed(rng, base, LETTERS["zh"], i % 2)) for i, query in enumerate(queries)]
    setting = Duplicates(query_at_most=None, positive_at_most=4)
    _, gone = run(tmp_path, [pairs[:3], pairs[3:]], setting)
    assert gone == {(1 << 32) + 1: ("positive_repeats", 6.0, 0), (1 << 32) + 2: ("positive_repeats", 6.0, 0)}


def test_outcome_does_not_depend_on_the_cut_into_shards(tmp_path):
    cases = planted("en", 60, seed=5)
    pairs = [(f"query {'abcdefgh'[i % 8] * 9}", text) for i, case in enumerate(cases) for text in case[:2]]

    def texts_gone(folder, shards):
        _, gone = run(folder, shards)
        return sorted(shards[number >> 32][number & 0xFFFFFFFF] for number in gone)

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = texts_gone(tmp_path / "whole", [pairs])
    assert whole
    assert texts_gone(tmp_path / "cut", [pairs[:7], pairs[7:50], pairs[50:]]) == whole


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
    """The files of a run are read by other processes, so hashes must not hang on a process's seed."""
    bare = plain(pl.Series(["北京是中国的首都。", "The capital of China", "?!"]))
    assert bare.to_list() == ["北京是中国的首都", "thecapitalofchina", "?!"]
    assert len(set(keys(*code_points(bare)))) == 3
    assert keys(*code_points(pl.Series(["abc"]))) == [
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
            place = (gram >> 32) * values >> 32
            minima[place] = min(minima[place], gram & 0xFFFFFF | min(round_, 255) << 24)
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
    """Texts of any number of grams, whatever is worked on together."""
    rng = np.random.default_rng(1)
    counts = np.array([1, 200, 2, 179, 180, 181, 1, 7, 90, 3, 59, 60, 61, 1000])
    hashes = rng.integers(0, 1 << 64, counts.sum(), dtype=np.uint64)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    expected = [slow_signature(each.tolist(), bands, rows) for each in np.split(hashes, offsets[1:-1])]
    assert signatures(hashes, offsets, bands, rows).tolist() == expected
    monkeypatch.setattr(duplicates, "_PIECE", 100)
    monkeypatch.setattr(duplicates, "_CHUNK", 300)
    monkeypatch.setattr(duplicates, "_GATHERED", 700)
    assert signatures(hashes, offsets, bands, rows).tolist() == expected


def test_fingerprints_do_not_depend_on_what_is_gathered(monkeypatch):
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
    monkeypatch.setattr(duplicates, "_GATHERED", 1)
    monkeypatch.setattr("conan_embed.filtering.measures._CHUNK_CHARACTERS", 50)
    keys_cut, texts_cut = fingerprints(pairs, Duplicates())
    assert keys_cut.equals(keys_whole)
    assert texts_cut.equals(texts_whole)
