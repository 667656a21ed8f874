"""Scores of single questions: in their order, against a slow reference, and read again instead of computed."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.tuning.scores import SHOWN, score_bm25, score_model
from tests.tiny_models import make_tiny_model

TEXTS = [
    f"{one} and {two} together" for one in ("file", "line", "memory") for two in ("park", "model", "answer")
]


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    folder = tmp_path / "retrieval" / "small"
    folder.mkdir(parents=True)
    ids = [f"d{number}" for number in range(len(TEXTS))]
    queries = ["memory and park", "a model of a line", "answer"]
    pl.DataFrame({"doc_id": ids, "text": TEXTS}).write_parquet(folder / "corpus.parquet")
    pl.DataFrame({"query_id": ["b", "a", "c"], "text": queries}).write_parquet(folder / "queries.parquet")
    judged = {"query_id": ["b", "a", "c", "c"], "doc_id": ["d6", "d4", "d2", "d5"], "score": [1, 1, 1, 1]}
    pl.DataFrame(judged).write_parquet(folder / "qrels.parquet")
    return folder


def test_each_question_has_its_ndcg_and_first_passages(test_set: Path, tmp_path: Path) -> None:
    model = make_tiny_model("bert")
    scores = score_model(tmp_path / "scores", "base", CachedEncoder(model), test_set, tmp_path)
    similarity = (
        model.encode_query(scores.questions["query"].to_list(), precision="float32")
        @ model.encode_document(TEXTS, precision="float32").T
    )
    relevant = {"memory and park": {6}, "a model of a line": {4}, "answer": {2, 5}}
    for (query, ndcg, found), row in zip(scores.questions.iter_rows(), similarity, strict=True):
        order = np.argsort(-row)
        gain = [1 / np.log2(2 + rank) for rank, place in enumerate(order) if place in relevant[query]]
        best = sum(1 / np.log2(2 + rank) for rank in range(len(relevant[query])))
        assert ndcg == pytest.approx(sum(gain) / best, abs=1e-6)
        assert found == [f"d{place}" for place in order[:SHOWN]]
    assert scores.items == scores.questions["ndcg_at_10"].to_list()
    assert scores.elsewhere["retrieval/small"] == pytest.approx(scores.items, abs=1e-6), "here the set itself"


def test_what_is_there_is_read(test_set: Path, tmp_path: Path) -> None:
    model = CachedEncoder(make_tiny_model("bert"))
    first = score_model(tmp_path / "scores", "base", model, test_set, tmp_path)
    again = score_model(tmp_path / "scores", "base", None, test_set, tmp_path)  # type: ignore[arg-type]
    assert again.questions.equals(first.questions) and again.elsewhere == first.elsewhere


def test_word_search_has_the_same_questions_in_the_same_order(test_set: Path, tmp_path: Path) -> None:
    words = score_bm25(tmp_path / "scores", test_set)
    model = score_model(
        tmp_path / "scores", "base", CachedEncoder(make_tiny_model("bert")), test_set, tmp_path
    )
    assert words["query"].equals(model.questions["query"])
    row = words.filter(query="memory and park").row(0, named=True)
    assert row["ndcg_at_10"] == pytest.approx(1.0) and row["found"][0] == "d6"
