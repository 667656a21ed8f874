"""A user's pairs: checked, joined by query, and searched with the corpus beside them."""

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.integrations.pairs import check_texts, read_column, retrieval_dataset

datasets = pytest.importorskip("datasets")


@pytest.mark.parametrize(
    ("rows", "column", "words"),
    [
        ({"anchor": ["a"]}, "anchr", "no column 'anchr'.*anchor"),
        ({"anchor": [1]}, "anchor", "expected one text a row"),
        ({"anchor": ["a", None]}, "anchor", "row 1 is .*expected a text"),
        ({"anchor": ["a", "  "]}, "anchor", "row 1 is .*expected a text"),
    ],
)
def test_mistakes_are_named(rows, column, words):
    with pytest.raises(UserError, match=words):
        read_column(datasets.Dataset.from_dict(rows), column)


def test_positives_of_equal_anchors_are_one_list_and_the_corpus_is_searched_too(tmp_path):
    frame = pl.DataFrame({"anchor": ["a", "b", "a"], "positive": ["p", "q", "r"]})
    data, store = retrieval_dataset("faq", frame, check_texts("corpus", ["x", "p"]), ("", ""), tmp_path)
    _, positives = data.positives.rows(data.list_Q[[0]])
    assert {store.text(int(text)) for text in positives} == {"p", "r"}
    assert data.list_Q[0] == data.list_Q[2] != data.list_Q[1]
    assert sorted(store.text(int(text)) for text in data.passages) == ["p", "q", "r", "x"]
    assert [store.text(int(text)) for text in data.query_Q] == ["a", "b", "a"]
