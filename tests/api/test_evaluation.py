"""Evaluation in Python: pairs as a retrieval set, and two results compared."""

from pathlib import Path

import numpy as np
import pytest

import conan_embed as ce
from conan_embed.encoder.model import EmbeddingModel
from tests.support.docs import FAQ
from tests.tiny_models import make_tiny_model


def test_pairs_score_as_a_reciprocal_rank_of_theirs(model: EmbeddingModel, faq: Path) -> None:
    """Each query has one positive, so that nDCG@10 is the mean of 1 / log2(rank + 2), from float64 cosines."""
    distractors = [query for query, _ in FAQ]  # a question is nearer to itself than any answer
    result = ce.evaluate(model, ce.read_pairs(faq), corpus=distractors)["retrieval/faq"]
    queries, positives = (list(side) for side in zip(*FAQ, strict=True))
    query_QD, document_CD = (
        model.encode(texts).astype(float) for texts in (queries, [*positives, *distractors])
    )
    score_QC = query_QD @ document_CD.T
    rank_Q = (score_QC > score_QC.diagonal()[:, None]).sum(axis=1)
    expected = np.where(rank_Q < 10, 1 / np.log2(rank_Q + 2), 0).mean()
    assert 0 < expected < 1
    assert result.main == pytest.approx(expected, abs=1e-6)


def test_differences_are_paired_by_item_and_their_interval_covers_them(
    model: EmbeddingModel, faq: Path
) -> None:
    pairs = ce.read_pairs(faq)
    good, bad = ce.evaluate(model, pairs), ce.evaluate(make_tiny_model("bert"), pairs)
    row = ce.compare_scores(bad, good).row(0, named=True)
    assert row["difference"] == pytest.approx(row["after"] - row["before"])
    assert 0 < row["low"] < row["difference"] < row["high"]


def test_another_corpus_cannot_be_compared(model: EmbeddingModel, faq: Path) -> None:
    pairs, corpus = ce.read_pairs(faq), [query for query, _ in FAQ[:6]]  # half of the queries get harder
    easy, hard = ce.evaluate(model, pairs), ce.evaluate(model, pairs, corpus=corpus)
    with pytest.raises(ce.UserError, match="found other data before and after"):
        ce.compare_scores(hard, easy)


def test_other_items_cannot_be_compared(model: EmbeddingModel, faq: Path) -> None:
    pairs = ce.read_pairs(faq)
    all_of_them, few = ce.evaluate(model, pairs), ce.evaluate(model, pairs.head(5))
    with pytest.raises(ce.UserError, match="12 items before and 5 after"):
        ce.compare_scores(all_of_them, few)


@pytest.mark.parametrize("name", ["org/faq", ".x", "..", "a\\b"])
def test_pairs_may_have_any_name(model: EmbeddingModel, faq: Path, name: str) -> None:
    expected = ce.evaluate(model, ce.read_pairs(faq, name="faq"))["retrieval/faq"]
    result = ce.evaluate(model, ce.read_pairs(faq, name=name))
    assert [*result] == [f"retrieval/{name}"]
    assert result[f"retrieval/{name}"].scores == expected.scores
