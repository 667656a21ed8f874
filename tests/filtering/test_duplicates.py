"""Planted duplicates are found, and only those; compared with all pairs of texts, one by one."""

import random

import numpy as np
import polars as pl
import pytest

from conan_embed.filtering import minhash
from conan_embed.filtering.duplicates import find_duplicates
from conan_embed.filtering.minhash import fingerprints
from conan_embed.filtering.recipe import Duplicates
from tests.support.texts import LETTERS, changed, planted


def run(tmp_path, shards, setting=None, **more):
    """Find the duplicates of shards of (query, positive); return id to (reason, value, duplicate_of)."""
    setting = setting or Duplicates(max_per_query=None, max_per_positive=None, **more)
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
    result = find_duplicates(folders, tmp_path / "out", setting, memory="500MB", work=tmp_path / "work")
    gone = pl.read_parquet(tmp_path / "out" / "*.parquet")
    return result, {row[0]: row[1:] for row in gone.iter_rows()}


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
        minhash,
        "signatures",
        lambda hashes, offsets, bands, rows: np.ones((len(offsets) - 1, bands), np.uint32),
    )
    result, gone = run(tmp_path, [[("q", text) for text in (*texts, *twins)]])
    assert sorted(gone) == list(range(8, 16))
    assert result.undecided == 0


def test_limits_of_a_side_count_near_duplicates(tmp_path):
    rng = random.Random(4)
    base = "".join(rng.choices(LETTERS["zh"], k=150))
    queries = ["".join(rng.choices(LETTERS["zh"], k=50)) for _ in range(6)]
    pairs = [(query, changed(rng, base, LETTERS["zh"], i % 2)) for i, query in enumerate(queries)]
    setting = Duplicates(max_per_query=None, max_per_positive=4)
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
