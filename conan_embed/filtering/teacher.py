"""Teacher scores: the cosine of query and positive under a given embedding model, and the positive's rank.

Pairs under the recipe's minimum go (0.4 with bge-large-zh-v1.5 in the paper, section 2.1); the score stays as
a column. With ranking consistency, the positive must also be among the `top` passages nearest to its query,
of a pool taken from the same shard: a positive that fits every query scores well and ranks badly.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import polars as pl

from conan_embed.filtering.recipe import Teacher
from conan_embed.filtering.stage import Outcome, split

_BLOCK = 1024  # queries whose scores with the whole pool are in memory at once


class Encoder(Protocol):
    """Anything that embeds texts; `conan_embed.encoder.model` does."""

    @property
    def prompts(self) -> Mapping[str, str]: ...

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> np.ndarray:
        """Return float32 [N, D] with rows of length 1."""
        ...


def score_pairs(pairs: pl.DataFrame, encoder: Encoder, setting: Teacher) -> pl.DataFrame:
    """Score every pair; each distinct text is encoded once.

    Returns:
        `id`, `score` (Float32, the cosine) and, with ranking, `rank` (UInt32, 1 where no passage of the pool
        scores above the positive).
    """
    prompts = encoder.prompts
    sides = {
        "query": setting.query_prompt if setting.query_prompt is not None else prompts.get("query", ""),
        "positive": setting.positive_prompt
        if setting.positive_prompt is not None
        else prompts.get("passage", ""),
    }
    vectors, places = {}, {}
    for side, prompt in sides.items():
        texts = pairs[side].unique(maintain_order=True)
        numbers = pl.DataFrame({side: texts, "place": np.arange(len(texts))})
        places[side] = (
            pairs.select(side).join(numbers, on=side, how="left", maintain_order="left")["place"].to_numpy()
        )
        vectors[side] = (
            encoder.encode(texts.to_list(), prompt=prompt) if len(texts) else np.zeros((0, 1), np.float32)
        )
    score = np.empty(pairs.height, np.float32)
    rank = np.empty(pairs.height, np.uint32)
    pool = vectors["positive"][: setting.ranking.pool]
    for start in range(0, pairs.height, _BLOCK):
        block = slice(start, start + _BLOCK)
        query_QD = vectors["query"][places["query"][block]]
        score[block] = np.einsum("qd,qd->q", query_QD, vectors["positive"][places["positive"][block]])
        if setting.ranking.enabled:
            # A positive that is in the pool itself must not outrank itself by rounding.
            rank[block] = 1 + (query_QD @ pool.T > score[block, None] + 1e-5).sum(1)
    scores = pl.DataFrame({"id": pairs["id"], "score": score})
    return scores.with_columns(pl.Series("rank", rank)) if setting.ranking.enabled else scores


def check_teacher(pairs: pl.DataFrame, setting: Teacher) -> Outcome:
    """Drop pairs by `teacher_score` (under the minimum) and `teacher_rank` (not among the top); they carry
    `score`, `rank`.
    """
    reasons = {"teacher_score": (pl.col("score") < setting.minimum, pl.col("score"))}
    if setting.ranking.enabled:
        reasons["teacher_rank"] = (pl.col("rank") > setting.ranking.top, pl.col("rank"))
    return split(pairs, "teacher", reasons)
