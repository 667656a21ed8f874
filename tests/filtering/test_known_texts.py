"""Known texts are found by their hashes, and compared as sets of 5-grams."""

import numpy as np
import polars as pl
import pytest

from conan_embed.filtering import known_texts
from conan_embed.filtering.grams import grams, jaccard
from conan_embed.filtering.known_texts import HashIndex, KnownTexts
from conan_embed.filtering.minhash import GRAM, signatures
from tests.support.texts import WORDS


def bands_of(texts: pl.Series) -> np.ndarray:
    return signatures(*grams(texts, GRAM), 6, 3)


@pytest.mark.parametrize("pairs_at_once", [1, 100, 1 << 22])
def test_the_highest_similarity_of_those_that_share_a_band(monkeypatch, pairs_at_once):
    monkeypatch.setattr(known_texts, "_PAIRS_AT_ONCE", pairs_at_once)
    generator = np.random.default_rng(0)
    texts = [generator.choice(WORDS, 20).tolist() for _ in range(40)]
    for number in range(60):
        copy = list(texts[number % 40])
        copy[: number % 9] = generator.choice(WORDS, number % 9).tolist()
        texts.append(copy)
    own, known = (
        pl.Series(["".join(t) for t in texts[40:]] + ["", "lamp"]),
        pl.Series(["".join(t) for t in texts[:40]]),
    )
    own_bands, known_bands = bands_of(own), bands_of(known)
    shared = (own_bands[:, None] == known_bands).any(axis=2)
    expected = np.zeros(len(own))
    for row, column in zip(*np.nonzero(shared), strict=True):
        expected[row] = max(expected[row], jaccard(own[[int(row)]], known[[int(column)]], GRAM)[0])
    index = KnownTexts(known, known_bands)
    assert (index.share_a_band(own_bands) == shared.any(axis=1)).all()
    assert index.similarity(own, own_bands).tolist() == expected.tolist()
    assert 20 < (expected > 0.5).sum() < len(own) - 2


def test_no_texts_on_either_side():
    none = pl.Series([], dtype=pl.String)
    some = pl.Series(["a text", "another"])
    for known, own in ((none, some), (some, none), (none, none)):
        index = KnownTexts(known, bands_of(known))
        assert not index.share_a_band(bands_of(own)).any()
        assert index.similarity(own, bands_of(own)).tolist() == [0.0] * len(own)


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
@pytest.mark.parametrize("size", [0, 1, 50, 3000])
def test_all_equal_values_are_found(kind, size):
    """Also of values that repeat on either side, and of the lowest and the highest."""
    rng = np.random.default_rng(size)
    most = np.iinfo(kind).max
    pool = np.append(rng.integers(0, most, 1000, dtype=kind), np.array([0, most], kind))
    column, values = rng.choice(pool, size), rng.choice(pool, 500)
    indices = HashIndex(column).find(values)
    expected = {(i, j) for i, value in enumerate(values) for j in np.flatnonzero(column == value)}
    assert len(indices[0]) == len(expected)
    assert set(zip(*(each.tolist() for each in indices), strict=True)) == expected
    assert (HashIndex(column).contains(values) == np.isin(values, column)).all()
    assert HashIndex(column).find(values[:0])[0].size == 0
