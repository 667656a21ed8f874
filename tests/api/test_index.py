"""Searching in Python."""

from pathlib import Path

import numpy as np
import pytest

import conan_embed as ce
from conan_embed.encoder.model import EmbeddingModel
from tests.support.docs import FAQ


def test_index_is_an_exact_search(model: EmbeddingModel, faq: Path) -> None:
    documents = [positive for _, positive in FAQ]
    hits = ce.Index(model, documents).search([query for query, _ in FAQ], k=4)
    query_QD, document_CD = (model.encode(texts).astype(float) for texts in ([q for q, _ in FAQ], documents))
    expected_QK = np.argsort(-(query_QD @ document_CD.T), axis=1)[:, :4]
    assert hits["text"].to_list() == [documents[column] for column in expected_QK.ravel()]


def test_an_empty_query_is_an_error(model: EmbeddingModel, faq: Path) -> None:
    with pytest.raises(ce.UserError, match="expected some text"):
        ce.Index(model, ["a passage"]).search(" ")
