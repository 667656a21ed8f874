"""Texts that must not be trained on, in which others are looked up: those of evaluation sets, and held-out ones.

Similar texts share a MinHash band (`minhash.py`). Those that share one are compared by the Jaccard similarity of their
character 5-grams, as products of sets of grams: where thousands of pages nearly equal one another, so do nearly all
pairs of them, and pair by pair took 400 s where this takes seconds (benchmarks/held_out_copies.py).

Shapes: N texts, H known texts, B bands.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from conan_embed.filtering.grams import jaccard_matrix
from conan_embed.filtering.minhash import GRAM
from conan_embed.texts.ragged import expand_ranges

_PAIRS_AT_ONCE = 1 << 22  # of a text and a known one: 32 MB of similarities


class HashIndex:
    """The positions of values in a column of hashes; a join would read the whole column for each shard and band.

    A bitmap over the upper bits of the hashes rules out nine in ten of the values that are not there; the others are
    looked up by bisection.
    """

    def __init__(self, column: np.ndarray) -> None:
        """Index the column: uint32 or uint64 [H], well mixed."""
        bits = max(16 * len(column), 2).bit_length() - 1
        self.shift = column.dtype.type(8 * column.itemsize - bits)
        self.bitmap = np.zeros(1 << bits, bool)
        self.bitmap[column >> self.shift] = True
        self.order = np.argsort(column)
        self.sorted = column[self.order]

    def find(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of all M equal pairs of a value and an entry of the column: int64 [M] each."""
        candidates, start, count = self._ranges(values)
        return np.repeat(candidates, count), self.order[expand_ranges(start, count)]

    def contains(self, values: np.ndarray) -> NDArray[np.bool_]:
        """Return which values are in the column."""
        candidates, _, count = self._ranges(values)
        found = np.zeros(len(values), bool)
        found[candidates[count > 0]] = True
        return found

    def _ranges(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        candidates = np.flatnonzero(np.take(self.bitmap, values >> self.shift, mode="clip"))
        start = np.searchsorted(self.sorted, values[candidates], side="left")
        return candidates, start, np.searchsorted(self.sorted, values[candidates], side="right") - start


class KnownTexts:
    """Known texts, ready to be compared with others."""

    def __init__(self, texts: pl.Series, bands_HB: np.ndarray) -> None:
        """Index the plain texts: String [H], and their MinHash bands: uint32 [H, B]."""
        self.texts = texts
        self._bands = [HashIndex(column) for column in bands_HB.T.copy()]

    def share_a_band(self, bands_NB: np.ndarray) -> NDArray[np.bool_]:
        """Return which texts share a band with any known text: [N]."""
        found_N = np.zeros(len(bands_NB), bool)
        for index, value_N in zip(self._bands, bands_NB.T.copy(), strict=True):
            found_N |= index.contains(value_N)
        return found_N

    def similarity(self, texts: pl.Series, bands_NB: np.ndarray) -> NDArray[np.float64]:
        """Return the highest similarity of each plain text with a known one that shares a band, else 0: [N]."""
        rows = max(1, _PAIRS_AT_ONCE // max(len(self.texts), 1))
        parts = [
            self._best(texts[start : start + rows], bands_NB[start : start + rows])
            for start in range(0, len(texts), rows)
        ]
        return np.concatenate([np.empty(0), *parts])

    def _best(self, texts: pl.Series, bands_NB: np.ndarray) -> NDArray[np.float64]:
        shared_NH = np.zeros((len(texts), len(self.texts)), bool)
        for index, value_N in zip(self._bands, bands_NB.T.copy(), strict=True):
            shared_NH[index.find(value_N)] = True
        known = np.flatnonzero(shared_NH.any(axis=0))
        similarity_NK = jaccard_matrix(texts, self.texts[known], GRAM)
        return np.where(shared_NH[:, known], similarity_NK, 0).max(axis=1, initial=0)
