"""Numbers of a text, for whole columns at once: how many characters of which kind, and its character n-grams
as hashes.

A column of strings becomes one long array of code points and its offsets; everything else is numpy over that
array. Rules (`rules.py`) are then expressions over these numbers, and near-duplicates (`duplicates.py`) are
compared by the same n-gram hashes.

Letters of the shapes: N texts, C characters, G n-grams.
"""

import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np
import polars as pl

HAN, KANA, HANGUL, LETTER, DIGIT, PUNCTUATION, SYMBOL, EMOJI, SPACE, OTHER = range(10)
KINDS = ("han", "kana", "hangul", "letters", "digits", "punctuation", "symbols", "emoji", "spaces", "others")
REPEAT_GRAM = 8  # characters; shorter repeats are ordinary language in Chinese
_LONG = (
    512  # grams; of a longer text a quarter is looked at, chosen by their hashes, so repeats stay together
)
_CHUNK_CHARACTERS = 1 << 18  # keeps the working arrays in the cache


@cache
def _kinds() -> np.ndarray:
    """Return the kind of every code point: uint8 [0x110000]."""
    kind = np.full(0x110000, OTHER, np.uint8)
    by_category = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "Z": SPACE}
    for point in range(0x32000):
        kind[point] = by_category.get(unicodedata.category(chr(point))[0], OTHER)
    for first, last in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3134F)):
        kind[first : last + 1] = HAN
    kind[0x3007] = HAN
    kind[0x3041:0x3100] = KANA
    kind[0x1100:0x1200] = HANGUL
    kind[0xAC00:0xD7A4] = HANGUL
    kind[[0x09, 0x0A, 0x0D]] = SPACE
    kind[0x1F000:0x1FAFF] = EMOJI
    kind[0x2600:0x27C0] = EMOJI
    # What holds LaTeX, code and prices together is punctuation here, so that `symbols` means decoration and
    # debris.
    kind[[ord(c) for c in "+<=>^`|~$～⋯→←"]] = PUNCTUATION
    kind[ord("○")] = DIGIT  # a zero in Chinese numbers
    return kind


def code_points(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the code points of all texts end to end (uint32 [C]) and where each text starts (int64 [N +
    1]).
    """
    points_C = np.frombuffer("".join(texts.to_list()).encode("utf-32-le"), dtype=np.uint32)
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(texts.str.len_chars().to_numpy(), out=offsets[1:])
    return points_C, offsets


def _chunks(texts: pl.Series) -> Iterator[tuple[int, int]]:
    """Yield row ranges of about `_CHUNK_CHARACTERS` characters each (a longer text is a range of its own)."""
    ends = texts.str.len_chars().cast(pl.Int64).cum_sum().to_numpy()
    start = 0
    while start < len(texts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK_CHARACTERS, side="right")))
        yield start, stop
        start = stop


def _counts(kind_C: np.ndarray, offsets: np.ndarray, num_kinds: int) -> np.ndarray:
    """Count each kind in each text: int64 [N, num_kinds]."""
    texts = len(offsets) - 1
    place_C = np.repeat(np.arange(0, texts * num_kinds, num_kinds), np.diff(offsets))
    place_C += kind_C
    return np.bincount(place_C, minlength=texts * num_kinds).reshape(texts, num_kinds)


def grams(texts: pl.Series, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash every run of `n` characters of every text.

    Returns:
        hashes: uint64 [G], well mixed; a text of m characters has max(m - n + 1, 1) of them (a short text is
            one gram).
        offsets: int64 [N + 1], where each text's grams start.
    """
    points, offsets = code_points(texts.str.pad_end(n, "\0"))
    if not len(points):
        return np.empty(0, np.uint64), offsets
    wide = points.astype(np.uint64)
    last = len(wide) - n + 1
    hashes = wide[:last].copy()
    for shift in range(1, n):  # wraps round at 2^64, as meant
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += wide[shift : shift + last]
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    counts = np.diff(offsets) - (n - 1)
    gram_offsets = np.concatenate(([0], np.cumsum(counts)))
    # Windows that reach over the end of a text are left out.
    inside = np.ones(len(wide), bool)
    for back in range(1, n):
        inside[offsets[1:] - back] = False
    return hashes[inside[:last]], gram_offsets


def distinct(hashes: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted distinct (text, gram) keys, uint64, and how many each text has, int64 [N].

    A key holds the text in its upper 24 bits and 40 bits of the gram's hash below, so at most 2^24 texts go
    in.
    """
    rows = len(offsets) - 1
    assert rows < 1 << 24, "too many texts for one call"
    text = np.repeat(np.arange(rows, dtype=np.uint64), np.diff(offsets))
    keys = np.sort((text << np.uint64(40)) | (hashes >> np.uint64(24)))
    if len(keys):
        keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
    return keys, np.bincount((keys >> np.uint64(40)).astype(np.int64), minlength=rows)


def overlap(left: pl.Series, right: pl.Series, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare the n-gram sets of two columns row by row.

    Returns:
        common, left, right: int64 [N], the sizes of the intersection and of both sets.
    """
    sizes = [np.empty(len(left), np.int64) for _ in range(3)]
    for start, stop in _chunks(left + right):
        left_keys, left_count = distinct(*grams(left[start:stop], n))
        right_keys, right_count = distinct(*grams(right[start:stop], n))
        both = np.sort(np.concatenate((left_keys, right_keys)))
        shared = both[1:][both[1:] == both[:-1]]
        common = np.bincount((shared >> np.uint64(40)).astype(np.int64), minlength=stop - start)
        for size, part in zip(sizes, (common, left_count, right_count), strict=True):
            size[start:stop] = part
    return sizes[0], sizes[1], sizes[2]


def jaccard(left: pl.Series, right: pl.Series, n: int) -> np.ndarray:
    """Return the Jaccard similarity of the n-gram sets of two columns, row by row: float64 [N]."""
    common, left_count, right_count = overlap(left, right, n)
    return common / np.maximum(left_count + right_count - common, 1)


def _repeated(texts: pl.Series) -> np.ndarray:
    """Return the share of each text's grams that it said before: float64 [N]."""
    hashes, offsets = grams(texts, REPEAT_GRAM)
    counts = np.diff(offsets)
    if counts.max(initial=0) > _LONG:
        looked_at = (hashes & np.uint64(3)) == 0
        looked_at |= np.repeat(counts <= _LONG, counts)
        offsets = np.concatenate(([0], np.cumsum(looked_at)))[offsets]
        hashes = hashes[looked_at]
    return 1 - distinct(hashes, offsets)[1] / np.maximum(np.diff(offsets), 1)


def measure(texts: pl.Series) -> pl.DataFrame:
    """Count what the rules look at.

    Returns:
        One row a text: `characters`, one column for each of KINDS (characters of that kind), `tokens` (each
        Han or kana character, and each run of letters or digits, as BERT's Chinese tokenisers cut before they
        look for word pieces), all Int32, and `repeated`, Float32: the share of its 8-grams that it said
        before.
    """
    count = {name: np.zeros(len(texts), np.int32) for name in ("characters", *KINDS, "tokens")}
    repeated = np.zeros(len(texts), np.float32)
    for start, stop in _chunks(texts):
        part = texts[start:stop]
        points_C, offsets = code_points(part)
        kind_C = _kinds()[points_C]
        count["characters"][start:stop] = np.diff(offsets)
        # The first character of a run of letters or digits also counts as a kind of its own.
        word_C = (kind_C >= HANGUL) & (kind_C <= DIGIT)
        begins_C = word_C.copy()
        begins_C[1:] &= ~word_C[:-1]
        firsts = offsets[:-1][np.diff(offsets) > 0]
        begins_C[firsts] = word_C[firsts]
        number = _counts(kind_C + begins_C * np.uint8(len(KINDS)), offsets, 2 * len(KINDS))
        kinds, begins = number[:, : len(KINDS)], number[:, len(KINDS) :]
        for kind, name in enumerate(KINDS):
            count[name][start:stop] = kinds[:, kind] + begins[:, kind]
        count["tokens"][start:stop] = kinds[:, HAN] + kinds[:, KANA] + begins.sum(1)
        repeated[start:stop] = _repeated(part)
    return pl.DataFrame({**count, "repeated": repeated})


def with_measures(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add the measures of both sides as `query_*` and `positive_*`; texts that repeat are measured once."""
    for side in ("query", "positive"):
        distinct_texts = pairs.select(pl.col(side).unique(maintain_order=True))
        numbers = measure(distinct_texts[side]).select(pl.all().name.prefix(f"{side}_"))
        pairs = pairs.join(distinct_texts.hstack(numbers), on=side, how="left", maintain_order="left")
    return pairs
