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
_PART_CHARACTERS = 1 << 21  # decoded at a time
_CHUNK_CHARACTERS = 1 << 16  # worked on at a time: keeps the arrays in the cache


@cache
def _kinds() -> np.ndarray:
    """Return the kind of every code point: uint8 [0x110000]."""
    kind = np.full(0x110000, OTHER, np.uint8)
    by_category = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "Z": SPACE}
    assigned = map(unicodedata.category, map(chr, range(0x32000)))
    kind[:0x32000] = [by_category.get(category[0], OTHER) for category in assigned]
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
    # As Arrow lays them out, one after the other, all texts are one string: two thirds of the time of a string each.
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


def chunks(sizes: np.ndarray, most: int) -> Iterator[slice]:
    """Yield row ranges whose sizes sum up to about `most` (a larger row is a range of its own)."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + most, side="right")))
        yield slice(start, stop)
        start = stop


def decoded(texts: pl.Series) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the rows of each chunk with its code points and offsets (see `code_points`).

    Texts are decoded in large parts, since each call into polars costs as much as some thousand characters, and
    worked on in small ones, which the cache holds.
    """
    for part in chunks(texts.str.len_chars().to_numpy(), _PART_CHARACTERS):
        points_C, offsets = code_points(texts[part])
        for rows in chunks(np.diff(offsets), _CHUNK_CHARACTERS):
            bounds = offsets[rows.start : rows.stop + 1]
            chunk = slice(part.start + rows.start, part.start + rows.stop)
            yield chunk, points_C[bounds[0] : bounds[-1]], bounds - bounds[0]


def _counts(kind_C: np.ndarray, offsets: np.ndarray, num_kinds: int) -> np.ndarray:
    """Count each kind in each text: int64 [N, num_kinds]."""
    texts = len(offsets) - 1
    place_C = np.repeat(np.arange(0, texts * num_kinds, num_kinds), np.diff(offsets))
    place_C += kind_C
    return np.bincount(place_C, minlength=texts * num_kinds).reshape(texts, num_kinds)


def _hashes(points: np.ndarray, n: int) -> np.ndarray:
    """Hash every window of `n` code points, over the bounds of texts, too: uint64 [C - n + 1], well mixed."""
    # A polynomial of the window's characters. A window of n is one of half its width, the same again further on
    # and, where n is odd, one character: few passes, wrapping round at 2^64 as meant.
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


def _inside(offsets: np.ndarray, n: int) -> np.ndarray:
    """Mark the windows of `n` that do not reach over the end of a text: boolean [C - n + 1]."""
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
    return _hashes(points_C, n)[_inside(offsets, n)], offsets - (n - 1) * np.arange(len(offsets))


def grams(texts: pl.Series, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `hash_grams` of a column of texts: hashes (uint64 [G]) and where each text's start (int64 [N + 1])."""
    parts = [hash_grams(points_C, offsets, n) for _, points_C, offsets in decoded(texts)]
    hashes = [np.empty(0, np.uint64), *(hashes for hashes, _ in parts)]
    counts = [np.zeros(1, np.int64), *(np.diff(offsets) for _, offsets in parts)]
    return np.concatenate(hashes), np.cumsum(np.concatenate(counts))


def _repeats(keys: np.ndarray) -> np.ndarray:
    """Return the places of the keys (uint64 [G], well mixed) that repeat another one: of equal keys, all but one.

    A hash table without collision handling: every key writes its place into a slot, and the last one to write is
    the slot's winner. Who lost against an equal key is a repeat of it. Who lost against another key (one in eight or
    less) goes to a second table, by other bits, and who loses there, too, is sorted. Equal keys share their slots, so
    no pair of them is divided by this. A quarter of the time of sorting all.
    """
    place, used, repeats = np.arange(len(keys)), 0, []
    for _ in range(2):
        bits = max(4 * len(keys), 2).bit_length() - 1  # two to four slots a key
        slot = ((keys << np.uint64(used)) >> np.uint64(64 - bits)).view(np.int64)
        own = np.arange(len(keys), dtype=np.int32)
        table = np.empty(1 << bits, np.int32)
        table[slot] = own
        winner = table[slot]
        lost = np.flatnonzero(winner != own)
        equal = keys[winner[lost]] == keys[lost]
        repeats.append(place[lost[equal]])
        lost = lost[~equal]
        place, keys, used = place[lost], keys[lost], used + bits
    order = np.argsort(keys)
    keys = keys[order]
    return np.concatenate((*repeats, place[order[1:][keys[1:] == keys[:-1]]]))


def _of_text(hashes: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Return keys (uint64 [G]) that are equal where both the hashes and their texts are."""
    return text.view(np.uint64) * np.uint64(0xD6E8FEB86659FD93) + hashes


def _num_distinct(keys: np.ndarray, text: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return counts - np.bincount(text[_repeats(keys)], minlength=len(counts))


def num_distinct(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return how many different grams each text has: int64 [N].

    Args:
        hashes: uint64 [G], of `grams`.
        counts: int64 [N], how many of them each text has.
    """
    text = np.repeat(np.arange(len(counts)), counts)
    return _num_distinct(_of_text(hashes, text), text, counts)


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
                keys.append(_of_text(hashes[offsets[rows.start] : offsets[rows.stop]], text[-1]))
                distinct.append(_num_distinct(keys[-1], text[-1], count[rows]))
            both = counts[0][rows] + counts[1][rows]
            common = sum(distinct) - _num_distinct(np.concatenate(keys), np.concatenate(text), both)
            sizes[:, part.start + rows.start : part.start + rows.stop] = common, *distinct
    return sizes[0], sizes[1], sizes[2]


def jaccard(left: pl.Series, right: pl.Series, n: int) -> np.ndarray:
    """Return the Jaccard similarity of the n-gram sets of two columns, row by row: float64 [N]."""
    common, left_count, right_count = overlap(left, right, n)
    return common / np.maximum(left_count + right_count - common, 1)


def _repeated(points_C: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the share of each text's grams that it said before: float64 [N]."""
    lengths = np.diff(offsets)
    rows = len(lengths)
    if not rows or lengths.max() < REPEAT_GRAM:
        return np.zeros(rows)
    hashes = _hashes(points_C, REPEAT_GRAM)
    looked_at = _inside(offsets, REPEAT_GRAM)
    few = lengths - (REPEAT_GRAM - 1) <= _LONG
    if not few.all():
        looked_at &= ((hashes & np.uint64(3)) == 0) | np.repeat(few, lengths)[: len(hashes)]
    place = np.flatnonzero(looked_at)
    counts = np.diff(np.searchsorted(place, offsets))
    different = num_distinct(hashes[place], counts)
    return np.where(counts > 0, 1 - different / np.maximum(counts, 1), 0.0)


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
    for rows, points_C, offsets in decoded(texts):
        kind_C = np.take(_kinds(), points_C, mode="clip")  # half the time of checked bounds
        count["characters"][rows] = np.diff(offsets)
        # The first character of a run of letters or digits also counts as a kind of its own.
        word_C = (kind_C >= HANGUL) & (kind_C <= DIGIT)
        begins_C = word_C.copy()
        begins_C[1:] &= ~word_C[:-1]
        firsts = offsets[:-1][np.diff(offsets) > 0]
        begins_C[firsts] = word_C[firsts]
        number = _counts(kind_C + begins_C * np.uint8(len(KINDS)), offsets, 2 * len(KINDS))
        kinds, begins = number[:, : len(KINDS)], number[:, len(KINDS) :]
        for kind, name in enumerate(KINDS):
            count[name][rows] = kinds[:, kind] + begins[:, kind]
        count["tokens"][rows] = kinds[:, HAN] + kinds[:, KANA] + begins.sum(1)
        repeated[rows] = _repeated(points_C, offsets)
    return pl.DataFrame({**count, "repeated": repeated})


def with_measures(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add the measures of both sides as `query_*` and `positive_*`."""
    for side in ("query", "positive"):
        pairs = pairs.hstack(measure(pairs[side]).select(pl.all().name.prefix(f"{side}_")))
    return pairs
