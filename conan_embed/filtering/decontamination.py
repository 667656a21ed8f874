"""Keep evaluation texts out of the training data: no side of a kept pair equals one, or nearly does.

The evaluation texts become a small index (keys and MinHash bands, see `minhash.py`), in which the texts of a shard are
looked up (`known_texts.py`). Paraphrases, translations, and a short evaluation text inside a long one are not caught.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from conan_embed.filtering.grams import code_points, grams
from conan_embed.filtering.known_texts import HashIndex, KnownTexts
from conan_embed.filtering.minhash import GRAM, SIDES, plain, signatures, text_keys
from conan_embed.filtering.normalise import normalise_texts
from conan_embed.filtering.readers import read_texts
from conan_embed.filtering.recipe import Decontaminate, Duplicates, Normalise
from conan_embed.filtering.stage import Outcome, split


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


class EvaluationIndex:
    """The evaluation texts, ready to be looked up.

    Args:
        texts: of `index_evaluation` (or `read_evaluation`, where only equal texts count).
    """

    def __init__(self, texts: pl.DataFrame) -> None:
        self.keys = HashIndex(texts["key"].to_numpy())
        self.similar = KnownTexts(texts["text"], _bands(texts))


def _bands(texts: pl.DataFrame) -> np.ndarray:
    return texts.select(pl.col("^band_.*$")).to_numpy()


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
    equal = index.keys.contains(texts["key"].to_numpy())
    similar = texts.filter(equal).select("side", "key", similarity=pl.lit(1.0))
    if setting.near:
        near = _near(pairs, texts.filter(~equal), index.similar)
        similar = pl.concat([similar, near.filter(pl.col("similarity") >= setting.threshold)])
    return similar


def _near(pairs: pl.DataFrame, texts: pl.DataFrame, known: KnownTexts) -> pl.DataFrame:
    """Return `side`, `key`, `similarity` of the texts that share a band with an evaluation text."""
    texts = texts.filter(known.share_a_band(_bands(texts)))
    sides = [
        texts.filter(side=number).join(pairs.select("id", own=side), on="id")
        for number, side in enumerate(SIDES)
    ]
    compared = pl.concat(sides)
    similarity = known.similarity(plain(compared["own"]), _bands(compared))
    return compared.select("side", "key", similarity=pl.Series(similarity))


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
