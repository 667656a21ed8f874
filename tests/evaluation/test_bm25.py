"""BM25 against the formula written out, and on both scripts."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from conan_embed.evaluation import bm25
from conan_embed.evaluation.bm25 import K1, B, bm25_top_k

DOCUMENTS = [
    "The cat sat on the mat with another cat",
    "Dogs and cats living together in one house",
    "A house on the hill",
    "安装数据库之前先检查系统",
    "数据库的备份与恢复",
    "",
]


def _reference(query: str, documents: list[str]) -> list[float]:
    """The sum over terms, one at a time."""
    counts = [Counter(_terms(text)) for text in documents]
    mean = sum(sum(count.values()) for count in counts) / len(documents)
    scores = []
    for count in counts:
        score = 0.0
        for term, times in Counter(_terms(query)).items():
            frequency = sum(term in other for other in counts)
            idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            norm = K1 * (1 - B + B * sum(count.values()) / mean)
            score += times * idf * count[term] / (count[term] + norm)
        scores.append(score)
    return scores


def _terms(text: str) -> list[str]:
    terms = re.findall(r"[a-z0-9_]+", text.lower())
    for run in re.findall(r"[\u4e00-\u9fff]+", text):
        terms += [run[i : i + 2] for i in range(len(run) - 1)] if len(run) > 1 else [run]
    return terms


@pytest.mark.parametrize(
    "query", ["cat in the house", "数据库备份", "the the hill 系统", "nothing known here"]
)
def test_the_ranking_is_that_of_the_formula(query: str, monkeypatch) -> None:
    monkeypatch.setattr(bm25, "_stemmer", lambda: None)
    monkeypatch.setattr(bm25, "_CHUNK", 2)
    scores = _reference(query, DOCUMENTS)
    expected = [place for place in np.argsort(-np.array(scores), kind="stable") if scores[place] > 0]
    found = bm25_top_k([query, "cat"], DOCUMENTS, 8)
    assert found.shape == (2, 8)
    assert found[0][found[0] >= 0].tolist() == expected


def test_words_are_stemmed_where_the_library_is_there() -> None:
    pytest.importorskip("Stemmer")
    assert set(bm25_top_k(["cats"], DOCUMENTS, 2)[0]) == {0, 1}


def test_no_queries_and_no_documents() -> None:
    assert bm25_top_k([], DOCUMENTS, 3).shape == (0, 3)
    assert bm25_top_k(["cat"], [], 3).tolist() == [[-1, -1, -1]]
