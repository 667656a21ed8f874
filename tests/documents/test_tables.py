"""Rows of tables become documents: pairs with the query as heading, texts with a title where there is one."""

import polars as pl
import pytest

from conan_embed.documents.tables import parse_table
from conan_embed.errors import UserError


def parse(path, **columns):
    pl.DataFrame(columns).write_parquet(path / "t.parquet")
    return list(parse_table("t", path / "t.parquet"))


def blocks(document):
    return [(section.headings, [block.text for block in section.blocks]) for section in document.sections]


def test_pairs(tmp_path):
    first, second = parse(tmp_path, question=["How? ", "Why?"], answer=["So.", "Because."])
    assert (first.file, first.title, blocks(first)) == ("t#1", "", [(("How?",), ["So."])])
    assert second.sections[0].kind == "faq"
    assert second.sections[0].blocks[0].line == 2


def test_texts_with_and_without_a_title(tmp_path):
    text = "Lamps\n\nPress the button for ten seconds."
    titled, own, plain = parse(
        tmp_path, title=["Manual", None, ""], text=[text, text, "One sentence, no title."]
    )
    assert (titled.title, blocks(titled)) == (
        "Manual",
        [((), ["Lamps"]), ((), ["Press the button for ten seconds."])],
    )
    assert (own.title, blocks(own)) == ("Lamps", [((), ["Press the button for ten seconds."])])
    assert (plain.title, blocks(plain)) == ("", [((), ["One sentence, no title."])])


@pytest.mark.parametrize("positive", ["positive", "answer", "passage", "document", "context", "positive_1"])
@pytest.mark.parametrize("query", ["query", "question", "anchor"])
def test_a_query_and_its_positive_are_a_pair_under_all_their_names(tmp_path, query, positive):
    """Also where a text of its own could be meant by the positive's name, and where other columns hold texts."""
    for more in ({}, {"title": ["A", "B"], "text": ["Some note.", "Another."], "content": ["x y", "z"]}):
        documents = parse(tmp_path, **{query: ["How?", "Why?"], positive: ["So.", "Because."], **more})
        assert [blocks(document) for document in documents] == [
            [(("How?",), ["So."])],
            [(("Why?",), ["Because."])],
        ]
        assert {section.kind for document in documents for section in document.sections} == {"faq"}


@pytest.mark.parametrize("text", ["text", "content", "body", "markdown"])
def test_questions_without_a_column_of_answers_are_refused_not_dropped(tmp_path, text):
    with pytest.raises(
        UserError, match=r"t\.parquet: found the column 'question' without its answers, expected 'positive'"
    ):
        parse(tmp_path, **{"question": ["How?"], text: ["Hold the button for ten seconds."]})


def test_two_columns_that_may_be_the_positive_are_refused(tmp_path):
    with pytest.raises(UserError, match="'answer' and 'document', expected one that could be 'positive'"):
        parse(tmp_path, question=["How?"], answer=["So."], document=["A manual."])


@pytest.mark.parametrize("columns", [("question", "answer"), ("title", "text")])
def test_rows_keep_their_numbers_in_the_file_where_others_are_dropped(tmp_path, columns):
    first, second = columns
    documents = parse(
        tmp_path, **{first: ["One", "Two", "Three", "Four"], second: ["A text.", "", None, "The last text."]}
    )
    assert [document.file for document in documents] == ["t#1", "t#4"]
    if first == "question":
        assert [document.sections[0].line for document in documents] == [1, 4]


def test_neither_pairs_nor_texts(tmp_path):
    with pytest.raises(UserError, match="text"):
        parse(tmp_path, colour=[1, 2])
