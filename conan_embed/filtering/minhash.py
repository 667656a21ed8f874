"""Fingerprints of texts: what near-duplicates are found by.

A text is first made plain (lower case, without white space and punctuation). Its key is a hash of that; its MinHash
bands and a sketch of 256 bits come from the character 5-grams. `duplicates.py` joins them over all shards,
`decontamination.py` looks them up among evaluation texts.

Letters of the shapes: N texts, G 5-grams of all of them, K values of a MinHash.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from conan_embed.filtering.grams import chunks, code_points, decode_chunks, hash_grams
from conan_embed.filtering.recipe import Duplicates
from conan_embed.texts.ragged import expand_ranges

GRAM = 5  # characters
SIDES = ("query", "positive")
SKETCH = tuple(f"sketch_{i}" for i in range(4))  # words of 64 bits
_CHUNK = 1 << 17  # gram hashes processed at a time, so that the minima stay in the cache
_PIECE = 1 << 15  # hashes of further rounds processed at a time
_BATCH = 1 << 20  # gram hashes whose bands are computed together, so that many short texts share their rounds
_SALT = np.uint64(0x9E3779B97F4A7C15)
# Each text gets at least so many (gram, round) hashes for each of its K values. The share of values that get none,
# exp(-3), is then small enough for bands of such values alone to be rare.
_HASHES_PER_VALUE = 3


@cache
def _plain_character() -> np.ndarray:
    """Return the code point that each one becomes in a plain text, 0 where it is removed: uint32 [0x110000]."""
    known = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x34000), np.arange(0xE0000, 0xE1000)])
    characters = pl.Series(list(known.astype(np.uint32).tobytes().decode("utf-32-le")))
    lower = pl.Series(pc.utf8_lower(characters.to_arrow()), dtype=pl.String)  # one character for each
    stays = lower.str.contains(r"^[\p{L}\p{M}\p{N}\p{S}#%]$").to_numpy()
    point = np.zeros(0x110000, np.uint32)
    point[known] = np.where(stays, code_points(lower)[0], 0)
    return point


def _plain_points(texts: pl.Series) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the code points and offsets (see `measures.code_points`) of the plain texts, chunk by chunk."""
    for _, points_C, offsets in decode_chunks(texts):
        plain_C = np.take(_plain_character(), points_C, mode="clip")  # half the time of checked bounds
        stays_C = plain_C != 0
        index = np.flatnonzero(stays_C)
        plain_offsets = np.searchsorted(index, offsets)
        # Texts of punctuation alone stay as they are: nothing else distinguishes them.
        bare = np.flatnonzero((np.diff(plain_offsets) == 0) & (np.diff(offsets) > 0))
        if len(bare):
            for text in bare:
                whole = slice(offsets[text], offsets[text + 1])
                plain_C[whole], stays_C[whole] = points_C[whole], True
            index = np.flatnonzero(stays_C)
            plain_offsets = np.searchsorted(index, offsets)
        yield plain_C[index], plain_offsets


def plain(texts: pl.Series) -> pl.Series:
    """Return the texts in lower case, with only letters, digits, and the symbols that carry meaning (C++, C#)."""
    parts: list[str] = []
    for points_C, offsets in _plain_points(texts):
        joined = points_C.tobytes().decode("utf-32-le")
        parts += (joined[start:end] for start, end in pairwise(offsets.tolist()))
    return pl.Series(texts.name, parts, dtype=pl.String)


def text_keys(points_C: np.ndarray, offsets: np.ndarray) -> list[int]:
    """Return a key of each (plain) text, 64 bits: XXH3 of its UTF-8, so equal texts have equal keys on every machine.

    Args:
        points_C, offsets: of `grams.code_points`.
    """
    encoded = memoryview(points_C.tobytes().decode("utf-32-le").encode())
    # UTF-8 bytes of each character beyond the first.
    extra = (
        (points_C > 0x7F).view(np.int8) + (points_C > 0x7FF).view(np.int8) + (points_C > 0xFFFF).view(np.int8)
    )
    extra_before = np.zeros(len(points_C) + 1, np.int64)
    np.cumsum(extra, out=extra_before[1:])
    bounds = offsets + extra_before[offsets]
    return [xxh3_64_intdigest(encoded[start:stop]) for start, stop in pairwise(bounds.tolist())]


def signatures(hashes: np.ndarray, offsets: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Return the MinHash bands of texts: uint32 [N, bands], each a hash of `rows` minima.

    One permutation instead of K = bands * rows: a gram's hash chooses one of the K values and competes for it, so a
    gram costs one operation instead of K. The grams of a short text go through several rounds of hashing, until there
    are three hashes a value; earlier rounds win, so it does not matter how many rounds a similar text takes. A value
    without any hash is the largest number: two texts share it where neither has a gram.

    Args:
        hashes: uint64 [G], well mixed.
        offsets: int64 [N + 1], where each text's grams start; every text has one.
    """
    out = np.empty((len(offsets) - 1, bands), np.uint32)
    for part in chunks(np.maximum(np.diff(offsets), _HASHES_PER_VALUE * bands * rows), _BATCH):
        bounds = offsets[part.start : part.stop + 1]
        minima = _minima(hashes[bounds[0] : bounds[-1]], bounds - bounds[0], bands * rows)
        minima = minima.reshape(-1, bands, rows)
        mixed = np.zeros(minima.shape[:2], np.uint64)
        for row in range(rows):
            mixed = (mixed ^ minima[:, :, row]) * _SALT
            mixed ^= mixed >> np.uint64(31)
        out[part] = mixed.astype(np.uint32)
    return out


def _minima(hashes: np.ndarray, offsets: np.ndarray, values: int) -> np.ndarray:
    """Return the lowest hash for each value of each text: uint32 [N * K]."""
    count, wanted = np.diff(offsets), _HASHES_PER_VALUE * values
    minima = np.full(len(count) * values, np.iinfo(np.uint32).max, np.uint32)
    first = np.arange(0, len(minima), values, dtype=np.uint64)  # value of each text
    for part in chunks(np.maximum(count, wanted), _CHUNK):
        own = slice(offsets[part.start], offsets[part.stop])
        _compete(minima, values, np.repeat(first[part], count[part]), hashes[own], np.uint32(0))
    _further_rounds(minima, values, hashes, offsets, -(-wanted // count) - 1)
    return minima


def _further_rounds(
    minima: np.ndarray, values: int, hashes: np.ndarray, offsets: np.ndarray, num_rounds: np.ndarray
) -> None:
    """Hash the grams of short texts again, `num_rounds` (int64 [N]) times.

    Texts that need the same number of rounds go together, so that all their rounds are one array.
    """
    texts = np.argsort(num_rounds, kind="stable")[np.count_nonzero(num_rounds == 0) :]
    sizes = np.diff(offsets)[texts]
    hashes, start = (
        hashes[expand_ranges(offsets[texts], sizes)],
        np.repeat(texts * values, sizes).astype(np.uint64),
    )
    grams_per_round = np.bincount(num_rounds[texts], sizes).astype(np.int64)
    ends = np.cumsum(grams_per_round).tolist()
    for rounds in np.flatnonzero(grams_per_round).tolist():
        round_ = np.arange(1, rounds + 1, dtype=np.uint64)[:, None]
        weight = np.minimum(round_, 255).astype(np.uint32)
        step = max(_PIECE // rounds, 1)
        for begin in range(ends[rounds - 1], ends[rounds], step):
            piece = slice(begin, min(begin + step, ends[rounds]))
            _compete(minima, values, start[piece], _rehash(hashes[piece] ^ (round_ * _SALT)), weight)


def _rehash(hashes: np.ndarray) -> np.ndarray:
    """Mix the bits of hashes, in place."""
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _compete(
    minima: np.ndarray, values: int, start: np.ndarray, hashes: np.ndarray, round_: np.ndarray | np.uint32
) -> None:
    """Let hashes compete: the upper half chooses the value; the round, then the lowest 24 bits decide who wins it."""
    index = hashes >> np.uint64(32)
    index *= np.uint64(values)
    index >>= np.uint64(32)
    index += start
    weight = hashes.astype(np.uint32)
    weight &= np.uint32(0xFFFFFF)
    weight |= round_ << np.uint32(24)
    np.minimum.at(minima, index.view(np.int64).ravel(), weight.ravel())


def sketches(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return 256 bits for each text, of which every gram sets one: uint64 [N, 4]. See `may_resemble`."""
    bits = 64 * len(SKETCH)
    out = np.empty((len(offsets) - 1, len(SKETCH)), np.uint64)
    for part in chunks(np.maximum(np.diff(offsets), bits), _CHUNK):
        bounds = offsets[part.start : part.stop + 1]
        start = np.repeat(np.arange(0, bits * (len(bounds) - 1), bits), np.diff(bounds))
        grid = np.zeros(bits * (len(bounds) - 1), bool)
        grid[start + (hashes[bounds[0] : bounds[-1]] & np.uint64(bits - 1)).astype(np.int64)] = True
        out[part] = np.packbits(grid).view(np.uint64).reshape(-1, len(SKETCH))
    return out


def may_resemble(one: str, two: str, threshold: float) -> str:
    """Return a condition in SQL that always holds for texts of at least this Jaccard similarity, and rarely for others.

    A bit that only one of two sketches has is a gram that only that text has, so the bits that differ bound the
    symmetric difference D of the sets of grams from below; and J = (A + B - D) / (A + B + D), so J >= t means
    D <= (A + B) (1 - t) / (1 + t). `grams` counts repeated grams too, so it bounds A and B from above.

    Args:
        one, two: names of tables with `grams` and SKETCH.
    """
    different = " + ".join(f"bit_count(xor({one}.{word}, {two}.{word}))::integer" for word in SKETCH)
    most = (1 - threshold) / (1 + threshold)
    # The thousandth allows for rounding where the similarity is exactly the threshold.
    return f"{different} <= ({one}.grams + {two}.grams) * {most!r}::double + 0.001"


def fingerprints(
    pairs: pl.DataFrame, setting: Duplicates, *, near: bool = True
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what the search for duplicates, and for evaluation texts, needs of one shard.

    Returns:
        keys: `id`, `query_key`, `positive_key` (UInt64), one row a pair.
        texts: `side` (UInt8, index in SIDES), `key`, `id` of the first pair with it, and, with `near`, `grams` (UInt32,
            their number), SKETCH (UInt64), `band_0`, ... (UInt32); one row for each distinct key of a side.
    """
    key_of_pair, texts = [pairs["id"]], []
    for number, side in enumerate(SIDES):
        key_of_row, columns = _fingerprints_of_side(pairs[side], setting, near)
        key_of_pair.append(key_of_row.alias(f"{side}_key"))
        side_number = pl.lit(number, dtype=pl.UInt8).alias("side")
        first_id = pairs["id"].gather(columns["row"])
        texts.append(columns.select(side_number, "key", first_id, pl.exclude("key", "row")))
    return pl.DataFrame(key_of_pair), pl.concat(texts)


def _fingerprints_of_side(
    texts: pl.Series, setting: Duplicates, near: bool
) -> tuple[pl.Series, pl.DataFrame]:
    """Return the key of each text; and for each distinct key `key`, its first `row`, and what `near` adds.

    Chunk by chunk, so that plain texts and their grams, many times the size of the result, never leave the cache.
    """
    key_of_row: list[int] = []
    first_row: dict[int, int] = {}
    pending = [hash_grams(*code_points(texts.clear()), GRAM)]
    near_parts = []
    for points_C, offsets in _plain_points(texts):
        start = len(key_of_row)
        key_of_row += text_keys(points_C, offsets)
        is_new = [first_row.setdefault(key, row) == row for row, key in enumerate(key_of_row[start:], start)]
        if near and any(is_new):
            if not all(is_new):
                lengths = np.diff(offsets)
                points_C = points_C[np.repeat(is_new, lengths)]
                offsets = np.concatenate(([0], np.cumsum(lengths[is_new])))
            pending.append(hash_grams(points_C, offsets, GRAM))
            if sum(len(hashes) for hashes, _ in pending) >= _BATCH:
                near_parts.append(_near_fingerprints(pending, setting))
                pending.clear()
    if pending:
        near_parts.append(_near_fingerprints(pending, setting))
    columns = [
        pl.Series("key", list(first_row), dtype=pl.UInt64),
        pl.Series("row", list(first_row.values()), dtype=pl.UInt32),
    ]
    if near:
        num_grams, sketch, bands = (np.concatenate(parts) for parts in zip(*near_parts, strict=True))
        columns += [
            pl.Series("grams", num_grams, dtype=pl.UInt32),
            *(pl.Series(name, sketch[:, i]) for i, name in enumerate(SKETCH)),
            *(pl.Series(f"band_{i}", bands[:, i]) for i in range(setting.bands)),
        ]
    return pl.Series(key_of_row, dtype=pl.UInt64), pl.DataFrame(columns)


def _near_fingerprints(
    pending: list[tuple[np.ndarray, np.ndarray]], setting: Duplicates
) -> tuple[np.ndarray, ...]:
    """Return the number of grams, the sketch and the bands of each text, given by its grams."""
    hashes = np.concatenate([hashes for hashes, _ in pending])
    counts = np.concatenate([np.diff(offsets) for _, offsets in pending])
    offsets = np.concatenate(([0], np.cumsum(counts)))
    return counts, sketches(hashes, offsets), signatures(hashes, offsets, setting.bands, setting.rows)
