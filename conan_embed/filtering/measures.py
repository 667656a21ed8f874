"""What the rules look at: how many characters of which kind a text has, how many tokens, how much it repeats itself.

Letters of the shapes: N texts, C characters.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl

from conan_embed.filtering.grams import decode_chunks, gram_hashes, num_distinct, windows_inside
from conan_embed.filtering.stage import Outcome, keep_all

HAN, KANA, HANGUL, LETTER, DIGIT, PUNCTUATION, SYMBOL, EMOJI, SPACE, OTHER = range(10)
KINDS = ("han", "kana", "hangul", "letters", "digits", "punctuation", "symbols", "emoji", "spaces", "others")
REPEAT_GRAM = 8  # characters; shorter repeats are ordinary language in Chinese
# Of texts with more n-grams than this only a quarter is looked at, chosen by hash so that repeats stay together.
_LONG_GRAMS = 512


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
    # Operators of LaTeX, code and prices count as punctuation, so that `symbols` means decoration and debris.
    kind[[ord(c) for c in "+<=>^`|~$～⋯→←"]] = PUNCTUATION
    kind[ord("○")] = DIGIT  # a zero in Chinese numbers
    return kind


def _count_kinds(kind_C: np.ndarray, offsets: np.ndarray, num_kinds: int) -> np.ndarray:
    """Count each kind in each text: int64 [N, num_kinds]."""
    texts = len(offsets) - 1
    cell_C = np.repeat(np.arange(0, texts * num_kinds, num_kinds), np.diff(offsets))
    cell_C += kind_C
    return np.bincount(cell_C, minlength=texts * num_kinds).reshape(texts, num_kinds)


def _repeated_share(points_C: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the share of each text's n-grams that repeat an earlier one: float64 [N]."""
    lengths = np.diff(offsets)
    rows = len(lengths)
    if not rows or lengths.max() < REPEAT_GRAM:
        return np.zeros(rows)
    hashes = gram_hashes(points_C, REPEAT_GRAM)
    counted = windows_inside(offsets, REPEAT_GRAM)
    is_short = lengths - (REPEAT_GRAM - 1) <= _LONG_GRAMS
    if not is_short.all():
        counted &= ((hashes & np.uint64(3)) == 0) | np.repeat(is_short, lengths)[: len(hashes)]
    index = np.flatnonzero(counted)
    counts = np.diff(np.searchsorted(index, offsets))
    distinct = num_distinct(hashes[index], counts)
    return np.where(counts > 0, 1 - distinct / np.maximum(counts, 1), 0.0)


def measure(texts: pl.Series) -> pl.DataFrame:
    """Count what the rules look at.

    Returns:
        One row a text: `characters`, one column for each of KINDS (characters of that kind) and `tokens` (Han and
        kana characters, and runs of letters or digits, as BERT's Chinese tokenisers cut before they look for word
        pieces), all Int32; and `repeated`, Float32: the share of its 8-grams that repeat an earlier one.
    """
    count = {name: np.zeros(len(texts), np.int32) for name in ("characters", *KINDS, "tokens")}
    repeated = np.zeros(len(texts), np.float32)
    for rows, points_C, offsets in decode_chunks(texts):
        kind_C = np.take(_kinds(), points_C, mode="clip")  # half the time of checked bounds
        count["characters"][rows] = np.diff(offsets)
        # The first character of a run of letters or digits also counts as a kind of its own.
        word_C = (kind_C >= HANGUL) & (kind_C <= DIGIT)
        begins_C = word_C.copy()
        begins_C[1:] &= ~word_C[:-1]
        firsts = offsets[:-1][np.diff(offsets) > 0]
        begins_C[firsts] = word_C[firsts]
        number = _count_kinds(kind_C + begins_C * np.uint8(len(KINDS)), offsets, 2 * len(KINDS))
        kinds, begins = number[:, : len(KINDS)], number[:, len(KINDS) :]
        for kind, name in enumerate(KINDS):
            count[name][rows] = kinds[:, kind] + begins[:, kind]
        count["tokens"][rows] = kinds[:, HAN] + kinds[:, KANA] + begins.sum(1)
        repeated[rows] = _repeated_share(points_C, offsets)
    return pl.DataFrame({**count, "repeated": repeated})


def with_measures(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add the measures of both sides as `query_*` and `positive_*`."""
    for side in ("query", "positive"):
        pairs = pairs.hstack(measure(pairs[side]).select(pl.all().name.prefix(f"{side}_")))
    return pairs


@dataclass(frozen=True)
class Measures:
    """A stage that adds the measures and drops nothing."""

    name: str = "measures"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        return keep_all(with_measures(pairs), self.name)
