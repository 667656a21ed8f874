"""Keep evaluation texts out of the training data: no side of a kept pair equals one, or nearly does.

The evaluation texts become a small index (key and MinHash bands, as in `duplicates.py`), in which the texts of each
shard are looked up; what shares a band is compared by the exact Jaccard similarity of the character
5-grams. This does not catch paraphrases, translations, or a short evaluation text inside a long one.
"""

from functools import cached_property

import numpy as np
import polars as pl

from conan_embed.errors import UserError
from conan_embed.filtering.duplicates import GRAM, SIDES, keys, plain, signatures
from conan_embed.filtering.measures import code_points, grams, jaccard
from conan_embed.filtering.normalise import normalise_texts
from conan_embed.filtering.readers import source_files
from conan_embed.filtering.recipe import Decontaminate, Duplicates, Normalise
from conan_embed.filtering.stage import Outcome, split
from conan_embed.texts.ragged import expand_ranges


def read_evaluation(setting: Decontaminate, normal: Normalise) -> pl.DataFrame:
    """Return the distinct evaluation texts, normalised as pairs are and then made plain: `text`, `key`.

    Raises:
        UserError: a path has no Parquet file, or no file there has one of the columns.
    """
    texts = []
    for path in setting.paths:
        found = False
        for file in source_files(path, suffixes=(".parquet",)):
            frame = pl.read_parquet(file)
            for name in setting.columns:
                kind = frame.schema.get(name)
                if kind == pl.List(pl.String):
                    texts.append(frame[name].explode().rename("text"))
                elif kind == pl.String:
                    texts.append(frame[name].rename("text"))
                else:
                    continue
                found = True
        if not found:
            raise UserError(f"{path}: none of the columns {', '.join(setting.columns)} there holds text.")
    every = pl.concat(texts).drop_nulls().unique(maintain_order=True)
    if normal.enabled:
        every = normalise_texts(every, normal)
    bare = plain(every).to_frame("text")
    bare = bare.filter(pl.col("text").str.len_chars() >= setting.minimum_characters)
    return bare.with_columns(pl.Series("key", keys(*code_points(bare["text"])), dtype=pl.UInt64)).unique(
        "key", maintain_order=True
    )


def index_evaluation(texts: pl.DataFrame, cut: Duplicates) -> pl.DataFrame:
    """Add the bands to the evaluation texts, cut as the recipe cuts those of the pairs."""
    bands = signatures(*grams(texts["text"], GRAM), cut.bands, cut.rows)
    return texts.hstack([pl.Series(f"band_{i}", bands[:, i]) for i in range(cut.bands)])


class Places:
    """Where values stand in a column of hashes. A join would read the whole column for each shard and band.

    A bitmap by the upper bits of the hashes rules out nine in ten of the values that are not there; the others are
    looked for by bisection.
    """

    def __init__(self, column: np.ndarray) -> None:
        """Take the column: uint32 or uint64 [N], well mixed."""
        bits = max(16 * len(column), 2).bit_length() - 1
        self.shift = column.dtype.type(8 * column.itemsize - bits)
        self.seen = np.zeros(1 << bits, bool)
        self.seen[column >> self.shift] = True
        self.order = np.argsort(column)
        self.sorted = column[self.order]

    def find(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of values and of the column, int64 [M] each, for all M pairs of them that are equal."""
        asked = np.flatnonzero(np.take(self.seen, values >> self.shift, mode="clip"))
        first = np.searchsorted(self.sorted, values[asked], side="left")
        count = np.searchsorted(self.sorted, values[asked], side="right") - first
        return np.repeat(asked, count), self.order[expand_ranges(first, count)]


class EvaluationIndex:
    """The evaluation texts, ready to be looked up by their columns.

    Attributes:
        texts: of `index_evaluation` (or `read_evaluation`, where only equal texts count).
    """

    def __init__(self, texts: pl.DataFrame) -> None:
        self.texts = texts

    @cached_property
    def keys(self) -> Places:
        return Places(self.texts["key"].to_numpy())

    @cached_property
    def bands(self) -> dict[str, Places]:
        names = [name for name in self.texts.columns if name.startswith("band_")]
        return {name: Places(self.texts[name].to_numpy()) for name in names}


def resemblance(
    pairs: pl.DataFrame, texts: pl.DataFrame, index: EvaluationIndex, setting: Decontaminate
) -> pl.DataFrame:
    """Compare the distinct texts of a shard with the evaluation texts.

    Args:
        pairs: the shard's pairs, as fingerprints were taken of them.
        texts: `texts` of `duplicates.fingerprints`.

    Returns:
        `side`, `key`, `similarity` (Float64; 1 where the texts are equal) of those at the threshold or above.
    """
    equal = np.zeros(texts.height, bool)
    equal[index.keys.find(texts["key"].to_numpy())[0]] = True
    found = [texts.filter(equal).select("side", "key", pl.lit(1.0).alias("similarity"))]
    if setting.near:
        rest = texts.filter(~equal)
        places = [index.bands[name].find(rest[name].to_numpy()) for name in index.bands]
        own, theirs = np.unique(np.concatenate(places, axis=1), axis=1)
        near = rest.select("side", "key", "id")[own].hstack([index.texts["text"].gather(theirs)])
        sides = [
            near.filter(side=number).join(pairs.select("id", own=side), on="id")
            for number, side in enumerate(SIDES)
        ]
        both = pl.concat(sides)
        similarity = jaccard(plain(both["own"]), both["text"], GRAM)
        both = both.with_columns(pl.Series("similarity", similarity, dtype=pl.Float64))
        found.append(
            both.filter(pl.col("similarity") >= setting.threshold).select("side", "key", "similarity")
        )
    return pl.concat(found).group_by("side", "key").agg(pl.col("similarity").max())


def check_evaluation(pairs: pl.DataFrame, similar: pl.DataFrame) -> Outcome:
    """Drop pairs with a side that resembles an evaluation text.

    Args:
        pairs: with `query_key` and `positive_key`.
        similar: of `resemblance`.

    Reasons: `evaluation_text` (equal) and `near_evaluation_text`; the value is the similarity.
    """
    found = pairs
    for number, side in enumerate(SIDES):
        one = similar.filter(side=number).select(
            pl.col("key").alias(f"{side}_key"), pl.col("similarity").alias(f"_{side}")
        )
        found = found.join(one, on=f"{side}_key", how="left", maintain_order="left")
    value = pl.max_horizontal("_query", "_positive")
    reasons = {"evaluation_text": (value == 1.0, value), "near_evaluation_text": (value < 1.0, value)}
    outcome = split(found, "decontamination", reasons)
    return Outcome(outcome.kept.select(pairs.columns), outcome.dropped, outcome.applied)
