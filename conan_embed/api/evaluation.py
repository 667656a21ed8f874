"""Score a model on a folder of evaluation sets, or on pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import polars as pl

from conan_embed.api.model import load_model
from conan_embed.api.pairs import Frame, Pairs, read_passages
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.differences import score_differences
from conan_embed.evaluation.discovery import LocalTask
from conan_embed.evaluation.local import evaluate as evaluate_folder
from conan_embed.evaluation.results import EvaluationResult


def evaluate(
    model: EmbeddingModel | str | Path,
    data: str | Path | Pairs,
    *,
    corpus: str | Path | Frame | Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    widths: Sequence[int] | None = None,
    vectors: Sequence[Literal["int8", "binary"]] = (),
) -> EvaluationResult:
    """Score a model on evaluation sets, with the metrics of mteb; no text is encoded twice.

    Args:
        model: a loaded model, or the name or folder of one.
        data: a folder with `retrieval/NAME/`, `sts/NAME.parquet` and so on (docs/data.md), or pairs that the model was
            not trained on: they are scored as retrieval.
        corpus: of pairs, the passages to search in; by default their own positives and negatives. Positives are added.
        tasks: types ("sts") or names ("retrieval/faq") to score; all by default.
        widths: Matryoshka prefixes to score too.
        vectors: ways in which databases store vectors to save space, to score too, at the full width and at `widths`:
            `scores["retrieval/faq"].stored["binary 384"]`.

    Returns:
        the scores, as fractions of 1, by task.

    Raises:
        UserError: no such model, folder, task or width, or a bad row in a file.

    Example:
        >>> scores = ce.evaluate(model, ce.read_pairs("faq.jsonl"))
        >>> scores["retrieval/faq"].metric, round(scores["retrieval/faq"].main, 2)
        ('ndcg_at_10', 1.0)
    """
    model = model if isinstance(model, EmbeddingModel) else load_model(model)
    if not isinstance(data, Pairs):
        return evaluate_folder(model, data, tasks=tasks, widths=widths, vectors=vectors, items=True)
    with tempfile.TemporaryDirectory() as folder:
        # Under a name of ours: that of the pairs may be no name of a folder (org/faq).
        task = LocalTask("retrieval", data.name, Path(folder) / "pairs")
        _write_retrieval_set(data, corpus, task.path)
        return evaluate_folder(model, [task], tasks=tasks, widths=widths, vectors=vectors, items=True)


def compare_scores(before: EvaluationResult, after: EvaluationResult) -> pl.DataFrame:
    """Compare two evaluations on the same sets: main scores, paired differences and their 95 % intervals.

    The interval is a bootstrap over test items (queries or pairs), each item paired with itself; it says nothing about
    other seeds of training (`compare` does). An interval that leaves out 0 is a clear difference.

    Args:
        before, after: what `evaluate` returned for the two models.

    Returns:
        one row per task, in the order of `after`: `task: str`, `metric: str`, `before: f64`, `after: f64`,
        `difference: f64`, `low: f64`, `high: f64`, as fractions of 1; the ends are null where a task has no items
        (classification, clustering, bitext).

    Raises:
        UserError: the evaluations have other tasks, other data in them, or no metric in common.

    Example:
        >>> scores = ce.evaluate(model, ce.read_pairs("faq.jsonl"))
        >>> ce.compare_scores(scores, scores).select("task", "difference", "low", "high").row(0)
        ('retrieval/faq', 0.0, 0.0, 0.0)
    """
    rows = [asdict(row) for row in score_differences(before, after)]
    return pl.DataFrame(rows, schema=_DIFFERENCE)


_DIFFERENCE = {
    **{"task": pl.String, "metric": pl.String, "before": pl.Float64, "after": pl.Float64},
    **{"difference": pl.Float64, "low": pl.Float64, "high": pl.Float64},
}


def _write_retrieval_set(
    pairs: Pairs, corpus: str | Path | Frame | Sequence[str] | None, folder: Path
) -> None:
    """Write pairs as the retrieval set that evaluation reads: equal queries and equal passages once."""
    folder.mkdir(parents=True)
    rows = pairs.frame.group_by("query", maintain_order=True).agg(
        pl.col("positive").explode(), pl.col("negative").explode().drop_nulls()
    )
    queries = rows.with_row_index("query_id").with_columns(query_id=pl.format("q{}", "query_id"))
    others = rows["negative"].explode().drop_nulls() if corpus is None else read_passages(corpus)["text"]
    texts = pl.concat([rows["positive"].explode(), others]).unique(maintain_order=True)
    documents = (
        pl.DataFrame({"text": texts})
        .with_row_index("doc_id")
        .with_columns(pl.format("d{}", "doc_id").alias("doc_id"))
    )
    judgements = (
        queries.select("query_id", text="positive")
        .explode("text")
        .unique(maintain_order=True)
        .join(documents, on="text")
        .select("query_id", "doc_id", score=pl.lit(1.0))
    )
    queries.select("query_id", text="query").write_parquet(folder / "queries.parquet")
    documents.select("doc_id", "text").write_parquet(folder / "corpus.parquet")
    judgements.write_parquet(folder / "qrels.parquet")
