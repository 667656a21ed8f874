"""Teacher scores: the cosine of query and positive under a given embedding model, and the positive's rank.

Pairs under the recipe's minimum go (0.4 with bge-large-zh-v1.5 in the paper, section 2.1); the score stays as a column.
With `max_rank`, the positive must also be among the passages nearest to its query, in a pool taken from the same shard:
a positive that fits every query scores well and ranks badly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl

from conan_embed.errors import NotFinite
from conan_embed.filtering.recipe import Teacher
from conan_embed.filtering.stage import Outcome, split

_BLOCK = 1024  # queries whose scores with the whole pool are in memory at once


class Encoder(Protocol):
    """Anything that embeds texts; `conan_embed.encoder.model.EmbeddingModel` does."""

    @property
    def prompts(self) -> Mapping[str, str]: ...

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> np.ndarray:
        """Return float32 [N, D] with rows of length 1."""
        ...


def score_pairs(pairs: pl.DataFrame, encoder: Encoder, setting: Teacher) -> pl.DataFrame:
    """Score every pair; each distinct text is encoded once.

    Returns:
        `id`, `score` (Float32, the cosine) and, with `max_rank`, `rank` (UInt32, 1 where no passage of the pool
        scores above the positive).
    """
    query_UD, query_index = _encode(pairs["query"], encoder, _prompt(setting.query_prompt, encoder, "query"))
    passage_UD, passage_index = _encode(
        pairs["positive"], encoder, _prompt(setting.positive_prompt, encoder, "passage")
    )
    score = np.empty(pairs.height, np.float32)
    rank = np.empty(pairs.height, np.uint32)
    pool_PD = passage_UD[: setting.rank_pool]
    for start in range(0, pairs.height, _BLOCK):
        block = slice(start, start + _BLOCK)
        query_QD = query_UD[query_index[block]]
        score[block] = np.einsum("qd,qd->q", query_QD, passage_UD[passage_index[block]])
        if setting.max_rank is not None:
            # A positive that is in the pool itself must not outrank itself by rounding.
            rank[block] = 1 + (query_QD @ pool_PD.T > score[block, None] + 1e-5).sum(1)
    scores = pl.DataFrame({"id": pairs["id"], "score": score})
    return scores if setting.max_rank is None else scores.with_columns(pl.Series("rank", rank))


def _prompt(prompt: str | None, encoder: Encoder, name: str) -> str:
    return encoder.prompts.get(name, "") if prompt is None else prompt


def _encode(texts: pl.Series, encoder: Encoder, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings of the distinct texts (float32 [U, D]) and the index of each text's among them (int64 [N])."""
    distinct = texts.unique(maintain_order=True)
    if not len(distinct):
        return np.zeros((0, 1), np.float32), np.zeros(0, np.int64)
    numbered = pl.DataFrame({texts.name: distinct, "index": np.arange(len(distinct))})
    index = texts.to_frame().join(numbered, on=texts.name, how="left", maintain_order="left")["index"]
    vectors_UD = encoder.encode(distinct.to_list(), prompt=prompt)
    finite_U = np.isfinite(vectors_UD).all(axis=1)
    if not finite_U.all():  # such a score is below no bound, so that its pair would be kept
        text = distinct[int(finite_U.argmin())]
        raise NotFinite(
            f"the teacher's embedding of {text[:60]!r} holds NaN or infinity, expected finite numbers."
        )
    return vectors_UD, index.to_numpy()


@dataclass(frozen=True)
class TeacherScores:
    """The stage: drop pairs by `teacher_score` and `teacher_rank`; the pairs carry `score` and `rank`."""

    setting: Teacher
    name: str = "teacher"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        score, rank = pl.col("score"), pl.col("rank")
        reasons = {"teacher_score": (score < self.setting.min_score, score)}
        if self.setting.max_rank is not None:
            reasons["teacher_rank"] = (rank > self.setting.max_rank, rank)
        return split(pairs, self.name, reasons)
