"""How a model answers the reported questions, one by one, and the sets of other domains.

    scores/base.parquet, tuned.parquet, bm25.parquet    query, ndcg_at_10, found: doc_ids of the first passages
    scores/base-elsewhere.json, tuned-elsewhere.json    of each set of other domains, numbers whose mean is its score

What an earlier, killed run wrote is read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from conan_embed.evaluation import metrics, sets
from conan_embed.evaluation.bm25 import bm25_top_k
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.results import TaskResult
from conan_embed.evaluation.scorers import RetrievalScorer, gains
from conan_embed.evaluation.statistics import with_mean
from conan_embed.files import atomic_write, read_json, write_json

SHOWN = 3
"""Passages of each question that are kept, to be shown."""


@dataclass(frozen=True)
class Scores:
    """Attributes:
    questions: query, ndcg_at_10, found.
    elsewhere: of each task of other domains, numbers whose mean is its score (a fraction of one).
    """

    questions: pl.DataFrame
    elsewhere: dict[str, list[float]]

    @property
    def items(self) -> list[float]:
        return self.questions["ndcg_at_10"].to_list()


def score_model(folder: Path, name: str, model: CachedEncoder, test: Path, other: Path) -> Scores:
    """Score a model, or read its scores.

    Args:
        folder: of the files above; `name`: of the model in it.
        model: what it encodes here it need not encode again.
        test: the set of reported questions (corpus, queries, qrels).
        other: evaluation folder of other domains.
    """
    file, means = folder / f"{name}.parquet", folder / f"{name}-elsewhere.json"
    if not file.exists():
        scorer = RetrievalScorer(model, test, None)
        _write(file, test, scorer.data, scorer.found())
    if not means.exists():
        write_json(means, {key: _items(task) for key, task in evaluate(model, other, items=True).items()})
    return Scores(pl.read_parquet(file), read_json(means))


def _items(task: TaskResult) -> list[float]:
    """Return numbers whose mean is the main score: those of single items, where the task has such."""
    if task.items is None:
        return [task.main]
    return list(with_mean(np.asarray(task.items, np.float64), task.main).tolist())


def score_bm25(folder: Path, test: Path) -> pl.DataFrame:
    """Score BM25 on the reported questions, or read its scores."""
    file = folder / "bm25.parquet"
    if not file.exists():
        data = sets.read_retrieval(test)
        _write(file, test, data, bm25_top_k(data.queries, data.documents, metrics.RETRIEVAL_DEPTH))
    return pl.read_parquet(file)


def _write(file: Path, test: Path, data: sets.RetrievalSet, found_QK: NDArray[np.int64]) -> None:
    ndcg_Q = metrics.ndcg_by_query(gains(found_QK, data), data.judged_query, data.judged_gain)
    # The order of `RetrievalSet.documents`.
    names = pl.read_parquet(test / "corpus.parquet", columns=["doc_id"])["doc_id"].sort(descending=True)
    shown = [names[row[row >= 0]].to_list() for row in found_QK[:, :SHOWN]]
    with atomic_write(file) as aside:
        pl.DataFrame(
            {"query": data.queries, "ndcg_at_10": ndcg_Q, "found": shown},
            schema_overrides={"found": pl.List(pl.String)},
        ).write_parquet(aside)
