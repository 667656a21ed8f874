"""Keep evaluation texts out of the training data: no side of a kept pair equals one, or nearly does.

The evaluation texts become a small index (keys and MinHash bands, see `minhash.py`), in which the texts of a shard are
looked up; texts that share a band are compared by the exact Jaccard similarity of their character 5-grams. Paraphrases,
translations, and a short evaluation text inside a long one are not caught.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from conan_embed.filtering.grams import code_points, grams, jaccard
from conan_embed.filtering.minhash import GRAM, SIDES, plain, signatures, text_keys
from conan_embed.filtering.normalise import normalise_texts
from conan_embed.filtering.readers import read_texts
from conan_embed.filtering.recipe import Decontaminate, Duplicates, Normalise
from conan_embed.filtering.stage import Outcome, split
from conan_embed.texts.ragged import expand_ranges


def read_evaluation(setting: Decontaminate, normal: Normalise) -> pl.DataFrame:
    """Return the distinct evaluation texts, normalised as pairs are and then made plain: `text`, `key`.

    Raises:
        UserError: a path has no files, or none of them has text in one of the columns.
    """
    texts = pl.concat([read_texts(path, setting.columns) for path in setting.paths])
    texts = texts.drop_nulls().unique(maintain_order=True)
    if normal.enabled:
        texts = normalise_texts(texts, normal)
    frame = plain(texts).to_frame("text")
    frame = frame.filter(pl.col("text").str.len_chars() >= setting.min_characters)
    key = pl.Series("key", text_keys(*code_points(frame["text"])), dtype=pl.UInt64)
    return frame.with_columns(key).unique("key", maintain_order=True)


def index_evaluation(texts: pl.DataFrame, cut: Duplicates) -> pl.DataFrame:
    """Add the MinHash bands to the evaluation texts, in the number that the recipe has for the pairs."""
    bands = signatures(*grams(texts["text"], GRAM), cut.bands, cut.rows)
    return texts.hstack([pl.Series(f"band_{i}", bands[:, i]) for i in range(cut.bands)])


class HashIndex:
    """The positions of values in a column of hashes; a join would read the whole column for each shard and band.

    A bitmap over the upper bits of the hashes rules out nine in ten of the values that are not there; the others are
    looked up by bisection.
    """

    def __init__(self, column: np.ndarray) -> None:
        """Index the column: uint32 or uint64 [N], well mixed."""
        bits = max(16 * len(column), 2).bit_length() - 1
        self.shift = column.dtype.type(8 * column.itemsize - bits)
        self.bitmap = np.zeros(1 << bits, bool)
        self.bitmap[column >> self.shift] = True
        self.order = np.argsort(column)
        self.sorted = column[self.order]

    def find(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of all M equal pairs of a value and an entry of the column: int64 [M] each."""
        candidates = np.flatnonzero(np.take(self.bitmap, values >> self.shift, mode="clip"))
        start = np.searchsorted(self.sorted, values[candidates], side="left")
        count = np.searchsorted(self.sorted, values[candidates], side="right") - start
        return np.repeat(candidates, count), self.order[expand_ranges(start, count)]


class EvaluationIndex:
    """The evaluation texts, ready to be looked up by their columns.

    Attributes:
        texts: of `index_evaluation` (or `read_evaluation`, where only equal texts count).
    """

    def __init__(self, texts: pl.DataFrame) -> None:
        self.texts = texts

    @cached_property
    def keys(self) -> HashIndex:
        return HashIndex(self.texts["key"].to_numpy())

    @cached_property
    def bands(self) -> dict[str, HashIndex]:
        names = [name for name in self.texts.columns if name.startswith("band_")]
        return {name: HashIndex(self.texts[name].to_numpy()) for name in names}


def resemblance(
    pairs: pl.DataFrame, texts: pl.DataFrame, index: EvaluationIndex, setting: Decontaminate
) -> pl.DataFrame:
    """Compare the distinct texts of a shard with the evaluation texts.

    Args:
        pairs: the shard's pairs, of which the fingerprints were taken.
        texts: `texts` of `minhash.fingerprints`.

    Returns:
        `side`, `key`, `similarity` (Float64; 1 where the texts are equal) of those at the threshold or above.
    """
    equal = np.zeros(texts.height, bool)
    equal[index.keys.find(texts["key"].to_numpy())[0]] = True
    similar = texts.filter(equal).select("side", "key", pl.lit(1.0).alias("similarity"))
    if setting.near:
        near = _near(pairs, texts.filter(~equal), index)
        similar = pl.concat([similar, near.filter(pl.col("similarity") >= setting.threshold)])
    return similar.group_by("side", "key").agg(pl.col("similarity").max())


def _near(pairs: pl.DataFrame, texts: pl.DataFrame, index: EvaluationIndex) -> pl.DataFrame:
    """Return `side`, `key`, `similarity` of the texts and the evaluation texts with which they share a band."""
    hits = [index.bands[name].find(texts[name].to_numpy()) for name in index.bands]
    own, theirs = np.unique(np.concatenate(hits, axis=1), axis=1)
    candidates = texts.select("side", "key", "id")[own].hstack([index.texts["text"].gather(theirs)])
    sides = [
        candidates.filter(side=number).join(pairs.select("id", own=side), on="id")
        for number, side in enumerate(SIDES)
    ]
    compared = pl.concat(sides)
    similarity = jaccard(plain(compared["own"]), compared["text"], GRAM)
    return compared.select("side", "key", pl.Series("similarity", similarity, dtype=pl.Float64))


@dataclass(frozen=True)
class Decontamination:
    """The stage: drop pairs with a side that resembles an evaluation text.

    Reasons: `evaluation_text` (equal) and `near_evaluation_text`; the value is the similarity.

    Attributes:
        shard: the pairs of which `keys` and `texts` were taken (see `minhash.fingerprints`).
    """

    index: EvaluationIndex
    setting: Decontaminate
    shard: pl.DataFrame
    keys: pl.DataFrame
    texts: pl.DataFrame
    name: str = "decontamination"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        similar = resemblance(self.shard, self.texts, self.index, self.setting)
        compared = pairs.join(self.keys, on="id", how="left", maintain_order="left")
        for number, side in enumerate(SIDES):
            one = similar.filter(side=number).select(
                pl.col("key").alias(f"{side}_key"), pl.col("similarity").alias(f"_{side}")
            )
            compared = compared.join(one, on=f"{side}_key", how="left", maintain_order="left")
        value = pl.max_horizontal("_query", "_positive")
        reasons = {"evaluation_text": (value == 1.0, value), "near_evaluation_text": (value < 1.0, value)}
        outcome = split(compared, self.name, reasons)
        return replace(outcome, kept=outcome.kept.select(pairs.columns))
