"""What holds for every format: unread columns, conversations, names and places."""

import gzip
import json

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.texts.columns import CLASSIFICATION, Column, TableSchema
from conan_embed.texts.formats import format_of
from conan_embed.texts.readers import column_names, find_text, read_retrieval, read_table

CONVERSATIONS = TableSchema((Column("messages", "messages", ("conversations",)),))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_columns_that_nobody_reads_may_hold_anything(tmp_path, kind):
    path = tmp_path / f"data.{kind}"
    rows = [{"query": "a", "positive": "b", "meta": meta} for meta in ({"a": 1}, {"a": 2})]
    if kind == "jsonl":
        rows = [{**rows[0], "meta": meta} for meta in ({"a": 1}, ["x"], "\ud83d", None, 10**400)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text('query,positive,meta\na,b,"{""a"": 1}"\na,b,[\n')
        rows = rows[:2]
    assert read_retrieval(path).rows() == [("a", ["b"], [])] * len(rows)


def test_conversations_of_every_format(tmp_path):
    good = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    bad = [{"role": "user", "content": [{"type": "image_url"}]}]
    lines = tmp_path / "chat.jsonl"
    lines.write_text("".join(json.dumps({"conversations": rows}) + "\n" for rows in (good, bad, good)))
    with pytest.raises(
        UserError, match=r"chat.jsonl: line 2: column 'conversations': found an unreadable conversation"
    ):
        read_table(lines, CONVERSATIONS)
    assert read_table(lines, CONVERSATIONS, on_bad_row="drop")["messages"].to_list() == [good, good]
    parquet = tmp_path / "chat.parquet"
    pl.DataFrame({"messages": [good, good[:1]]}).write_parquet(parquet)
    assert read_table(parquet, CONVERSATIONS)["messages"].to_list() == [good, good[:1]]


def test_names_and_places(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(
        gzip.compress(b'{"text": "x", "label": 1}\n{"text": "y", "other": 1}\n')
    )
    (tmp_path / "b.csv").write_text("text,label\nz,2\n")
    pl.DataFrame({"text": ["v"], "label": ["w"]}).write_parquet(tmp_path / "c.parquet")
    assert column_names(tmp_path / "a.jsonl.gz") == ["text", "label", "other"]
    assert column_names(tmp_path / "b.csv") == column_names(tmp_path / "c.parquet") == ["text", "label"]
    place = find_text(tmp_path, CLASSIFICATION, None, "z")
    assert place == f"{tmp_path / 'b.csv'}: line 2: column 'text'"
    assert find_text(tmp_path / "b.csv", CLASSIFICATION, None, "nothing") is None
    assert format_of(tmp_path / "notes.txt") is None and format_of(tmp_path) is None
