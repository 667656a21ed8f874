"""Keep evaluation texts out of the training data: no side of a kept pair equals one, or nearly does.

The evaluation texts become a small index (key and MinHash bands, as in `duplicates.py`), against which each
shard is joined on its own; what shares a band is compared by the exact Jaccard similarity of the character
5-grams. This does not catch paraphrases, translations, or a short evaluation text inside a long one.
"""

import polars as pl

from conan_embed.errors import UserError
from conan_embed.filtering.duplicates import GRAM, SIDES, keys, plain, signatures
from conan_embed.filtering.measures import code_points, grams, jaccard
from conan_embed.filtering.normalise import normalise_texts
from conan_embed.filtering.readers import source_files
from conan_embed.filtering.recipe import Decontaminate, Duplicates, Normalise
from conan_embed.filtering.stage import Outcome, split


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


def resemblance(
    pairs: pl.DataFrame, texts: pl.DataFrame, index: pl.DataFrame, setting: Decontaminate
) -> pl.DataFrame:
    """Compare the distinct texts of a shard with the evaluation texts.

    Args:
        pairs: the shard's pairs, as fingerprints were taken of them.
        texts: `texts` of `duplicates.fingerprints`.
        index: of `index_evaluation` (or `read_evaluation`, where only equal texts count).

    Returns:
        `side`, `key`, `similarity` (Float64; 1 where the texts are equal) of those at the threshold or above.
    """
    equal = texts.join(index.select("key"), on="key", how="semi")
    found = [equal.select("side", "key", pl.lit(1.0).alias("similarity"))]
    bands = [name for name in index.columns if name.startswith("band_")] if setting.near else []
    rest = texts.join(equal, on=["side", "key"], how="anti")
    candidates = [
        rest.select("side", "key", "id", band).join(index.select("text", band), on=band).drop(band)
        for band in bands
    ]
    if candidates:
        near = pl.concat(candidates).unique()
        own = [
            near.filter(side=number).join(pairs.select("id", own=side), on="id")
            for number, side in enumerate(SIDES)
        ]
        both = pl.concat(own)
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
