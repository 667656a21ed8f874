"""Which columns of a file make which of ours: by the user's names, our own, or what other people call them."""

from pathlib import Path

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.texts.columns import CORPUS, JUDGEMENTS, RETRIEVAL, STS, Column, TableSchema, listed

FILE = Path("data.csv")


@pytest.mark.parametrize(
    ("schema", "names", "sources"),
    [
        (RETRIEVAL, ["question", "answer"], {"query": ["question"], "positive": ["answer"], "negative": []}),
        (
            RETRIEVAL,
            ["anchor", "query", "pos", "negative_10", "negative_2"],
            {"query": ["query"], "positive": ["pos"], "negative": ["negative_2", "negative_10"]},
        ),
        (
            RETRIEVAL,
            ["query", "positives", "hard_negatives"],
            {"query": ["query"], "positive": ["positives"], "negative": ["hard_negatives"]},
        ),
        (
            STS,
            ["sentence1", "sentence2", "label"],
            {"text_a": ["sentence1"], "text_b": ["sentence2"], "score": ["label"]},
        ),
        (
            JUDGEMENTS,
            ["query-id", "corpus-id", "score"],
            {"query_id": ["query-id"], "doc_id": ["corpus-id"], "score": ["score"]},
        ),
        (CORPUS, ["_id", "text", "metadata"], {"doc_id": ["_id"], "title": [], "text": ["text"]}),
    ],
)
def test_usual_names(schema, names, sources):
    assert schema.sources(FILE, names) == sources


def test_names_of_the_user_count_first():
    schema = RETRIEVAL.with_names({"query": "title", "positive": ["a", "b"]})
    names = ["query", "title", "a", "b", "positive", "negative"]
    assert schema.sources(FILE, names) == {
        "query": ["title"],
        "positive": ["a", "b"],
        "negative": ["negative"],
    }
    assert [schema.kind_of(name) for name in names] == [None, "text", "texts", "texts", None, "texts"]
    again = schema.with_names({"negative": []})
    assert again.named == {"query": ("title",), "positive": ("a", "b"), "negative": ()}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["qurey", "positive"],
            r"found the columns 'qurey' and 'positive', expected 'query'.*did you mean 'qurey'",
        ),
        (
            ["query", "answer", "context"],
            r"found the columns 'answer' and 'context', expected one that could be",
        ),
        ([], "found the columns none, expected 'query'"),
    ],
)
def test_missing_and_ambiguous_columns_are_named(names, message):
    with pytest.raises(UserError, match=message):
        RETRIEVAL.sources(FILE, names)


def test_titles_stand_before_texts():
    frame = pl.DataFrame(
        {"doc_id": ["1", "2", "3", "4"], "title": ["T", None, "T", "T"], "text": ["x", "y", "T x", " "]}
    )
    assert CORPUS.transform is not None
    assert CORPUS.transform(frame)["text"].to_list() == ["T\nx", "y", "T x", "T"]


def test_a_schema_of_your_own():
    schema = TableSchema((Column("product", "name"), Column("reviews", "texts", ("review",), filled=False)))
    assert schema.sources(FILE, ["product", "reviews_2", "reviews_1"])["reviews"] == [
        "reviews_1",
        "reviews_2",
    ]
    with pytest.raises(
        UserError, match=r"columns: found 'produkt', expected 'product' or 'reviews' \(did you mean"
    ):
        schema.with_names({"produkt": "x"})
    assert listed("abc", "or") == "'a', 'b' or 'c'"
