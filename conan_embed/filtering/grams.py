"""Texts as arrays: code points of whole columns, and their character n-grams as hashes.

A column of strings becomes one long array of code points and its offsets; everything else is numpy over that array.
The measures (`measures.py`) count over it, near-duplicates (`minhash.py`) are found and compared by the hashes.

Letters of the shapes: N texts, C characters, G n-grams.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from scipy.sparse import csr_array

_PART_CHARACTERS = 1 << 21  # decoded at a time
_CHUNK_CHARACTERS = 1 << 16  # processed at a time: keeps the arrays in the cache


def code_points(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the code points of all texts end to end (uint32 [C]) and where each text starts (int64 [N + 1])."""
    # Arrow stores the texts one after the other, so they decode as one string: two thirds of the time of one each.
    column = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, bounds, encoded = column.buffers()
    if not len(column) or encoded is None:
        return np.empty(0, np.uint32), np.zeros(len(texts) + 1, np.int64)
    first, last = np.frombuffer(bounds, np.int64)[[column.offset, column.offset + len(column)]]
    joined = str(memoryview(encoded)[first:last], "utf-8")
    points_C = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(texts.str.len_chars().to_numpy(), out=offsets[1:])
    return points_C, offsets


def chunks(sizes: np.ndarray, max_size: int) -> Iterator[slice]:
    """Yield row ranges whose sizes sum up to about `max_size` (a larger row is a range of its own)."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + max_size, side="right")))
        yield slice(start, stop)
        start = stop


def decode_chunks(texts: pl.Series) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the rows of each chunk with its code points and offsets (see `code_points`).

    Texts are decoded in large parts, since a call into polars costs as much as some thousand characters, and yielded in
    small ones, which fit into the cache.
    """
    for part in chunks(texts.str.len_chars().to_numpy(), _PART_CHARACTERS):
        points_C, offsets = code_points(texts[part])
        for rows in chunks(np.diff(offsets), _CHUNK_CHARACTERS):
            bounds = offsets[rows.start : rows.stop + 1]
            chunk = slice(part.start + rows.start, part.start + rows.stop)
            yield chunk, points_C[bounds[0] : bounds[-1]], bounds - bounds[0]


def gram_hashes(points: np.ndarray, n: int) -> np.ndarray:
    """Hash every window of `n` code points, also those across two texts: uint64 [C - n + 1], well mixed."""
    # A polynomial of the window's characters, modulo 2^64. A window is two windows of half its width and, where n is
    # odd, one more character, so few passes are needed.
    hashes, width = points.astype(np.uint64), 1
    single = hashes
    for digit in bin(n)[3:]:
        hashes = hashes[:-width] * _power(width) + hashes[width:]
        width *= 2
        if digit == "1":
            hashes = hashes[:-1] * _power(1) + single[width:]
            width += 1
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    return hashes


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(0x9E3779B97F4A7C15, exponent, 1 << 64))


def windows_inside(offsets: np.ndarray, n: int) -> np.ndarray:
    """Return which windows of `n` characters lie within one text: boolean [C - n + 1]."""
    inside = np.ones(n - 1 + offsets[-1], bool)  # a short first text also marks what would lie before it
    for back in range(n - 1):
        inside[offsets[1:] + back] = False
    return inside[n - 1 : offsets[-1]]


def hash_grams(points_C: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash every run of `n` characters of every text (see `code_points`).

    Returns:
        hashes: uint64 [G], well mixed; a text of m characters has max(m - n + 1, 1) of them (a short text is
            one gram).
        offsets: int64 [N + 1], where each text's grams start.
    """
    lengths = np.diff(offsets)
    short = lengths < n
    if short.any():
        points_C = np.insert(points_C, np.repeat(offsets[1:][short], n - lengths[short]), 0)
        lengths = np.maximum(lengths, n)
        offsets = np.concatenate(([0], np.cumsum(lengths)))
    return gram_hashes(points_C, n)[windows_inside(offsets, n)], offsets - (n - 1) * np.arange(len(offsets))


def grams(texts: pl.Series, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `hash_grams` of a column of texts: hashes (uint64 [G]) and where each text's start (int64 [N + 1])."""
    parts = [hash_grams(points_C, offsets, n) for _, points_C, offsets in decode_chunks(texts)]
    hashes = [np.empty(0, np.uint64), *(hashes for hashes, _ in parts)]
    counts = [np.zeros(1, np.int64), *(np.diff(offsets) for _, offsets in parts)]
    return np.concatenate(hashes), np.cumsum(np.concatenate(counts))


def _repeat_indices(keys: np.ndarray) -> np.ndarray:
    """Return the indices of the keys (uint64 [G], well mixed) that repeat another one: of equal keys, all but one.

    A hash table without collision handling: every key writes its index into a slot, and the last to write wins it. A
    key that lost to an equal one is a repeat. One that lost to another (one in eight or less) goes to a second table,
    addressed by other bits, and what loses there, too, is sorted. Equal keys share their slots, so none are missed.
    It takes a quarter of the time of sorting all keys.
    """
    index, used_bits, repeats = np.arange(len(keys)), 0, []
    for _ in range(2):
        bits = max(4 * len(keys), 2).bit_length() - 1  # two to four slots a key
        slot = ((keys << np.uint64(used_bits)) >> np.uint64(64 - bits)).view(np.int64)
        own = np.arange(len(keys), dtype=np.int32)
        table = np.empty(1 << bits, np.int32)
        table[slot] = own
        winner = table[slot]
        lost = np.flatnonzero(winner != own)
        equal = keys[winner[lost]] == keys[lost]
        repeats.append(index[lost[equal]])
        lost = lost[~equal]
        index, keys, used_bits = index[lost], keys[lost], used_bits + bits
    order = np.argsort(keys)
    keys = keys[order]
    return np.concatenate((*repeats, index[order[1:][keys[1:] == keys[:-1]]]))


def _keys_within_texts(hashes: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Return keys (uint64 [G]) that are equal where both the hash and the text are."""
    return text.view(np.uint64) * np.uint64(0xD6E8FEB86659FD93) + hashes


def _num_distinct(keys: np.ndarray, text: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return counts - np.bincount(text[_repeat_indices(keys)], minlength=len(counts))


def num_distinct(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the number of distinct n-grams of each text: int64 [N].

    Args:
        hashes: uint64 [G], of `grams`.
        counts: int64 [N], how many of them each text has.
    """
    text = np.repeat(np.arange(len(counts)), counts)
    return _num_distinct(_keys_within_texts(hashes, text), text, counts)


def overlap(left: pl.Series, right: pl.Series, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare the n-gram sets of two columns row by row.

    Returns:
        common, left, right: int64 [N], the sizes of the intersection and of both sets.
    """
    sizes = np.empty((3, len(left)), np.int64)
    characters = left.str.len_chars().to_numpy() + right.str.len_chars().to_numpy()
    for part in chunks(characters, _PART_CHARACTERS):
        sides = [grams(texts[part], n) for texts in (left, right)]
        counts = [np.diff(offsets) for _, offsets in sides]
        for rows in chunks(counts[0] + counts[1], _CHUNK_CHARACTERS):
            keys, text, distinct = [], [], []
            for (hashes, offsets), count in zip(sides, counts, strict=True):
                text.append(np.repeat(np.arange(rows.stop - rows.start), count[rows]))
                keys.append(_keys_within_texts(hashes[offsets[rows.start] : offsets[rows.stop]], text[-1]))
                distinct.append(_num_distinct(keys[-1], text[-1], count[rows]))
            both = counts[0][rows] + counts[1][rows]
            common = sum(distinct) - _num_distinct(np.concatenate(keys), np.concatenate(text), both)
            sizes[:, part.start + rows.start : part.start + rows.stop] = common, *distinct
    return sizes[0], sizes[1], sizes[2]


def jaccard(left: pl.Series, right: pl.Series, n: int) -> np.ndarray:
    """Return the Jaccard similarity of the n-gram sets of two columns, row by row: float64 [N]."""
    common, left_count, right_count = overlap(left, right, n)
    return common / np.maximum(left_count + right_count - common, 1)


def jaccard_matrix(left: pl.Series, right: pl.Series, n: int) -> np.ndarray:
    """Return the Jaccard similarity of each text of a column with each of another (`jaccard`): float64 [N, M]."""
    hashes, offsets = grams(pl.concat([left.rename(""), right.rename("")]), n)
    column = np.unique(hashes, return_inverse=True)[1]
    sets = csr_array(
        (np.ones(len(column), np.int32), column, offsets), shape=(len(offsets) - 1, column.max(initial=0) + 1)
    )
    sets.sum_duplicates()
    sets.data[:] = 1
    sizes = np.diff(sets.indptr)
    common_NM = (sets[: len(left)] @ sets[len(left) :].T).toarray()
    return common_NM / (sizes[: len(left), None] + sizes[len(left) :] - common_NM)
