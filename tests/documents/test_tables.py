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


def test_neither_pairs_nor_texts(tmp_path):
    with pytest.raises(UserError, match="text"):
        parse(tmp_path, colour=[1, 2])
