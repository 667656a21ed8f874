"""What is special about a format: TSV has no quoting, encodings, and where rows stand."""

import gzip
import json

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.texts.columns import CLASSIFICATION, RETRIEVAL, Column, TableSchema
from conan_embed.texts.formats import format_of, suffix_of
from conan_embed.texts.readers import column_names, find_text, read_retrieval, read_rows, read_table

CONVERSATIONS = TableSchema((Column("messages", "messages", ("conversations",)),))


@pytest.fixture
def tsv(tmp_path):
    def write(*lines, header="query\tpositive"):
        path = tmp_path / "data.tsv"
        path.write_text("".join(line + "\n" for line in (header, *lines)), encoding="utf-8", newline="")
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        '"quoted"',
        'says "yes',
        '"',
        '""',
        "5' 10\"",
        '"a" and "b"',
        "'x'",
        "a,b;c",
        "\\t \\n",
        '["a"',
        "\u2028x",
    ],
)
def test_quotation_marks_of_tsv_are_text(tsv, text):
    path = tsv(f"{text}\t1", f"2\t{text}", "last\t3")
    assert read_retrieval(path).rows() == [(text, ["1"], []), ("2", [text], []), ("last", ["3"], [])]


@pytest.mark.parametrize("cell", ['"he said ""yes"""', '"a ""b"" c"'])
def test_cells_of_tsv_that_are_quoted_as_in_csv_are_refused(tsv, cell):
    path = tsv("a\t1", f"{cell}\t2")
    with pytest.raises(
        UserError, match=r"data.tsv: line 3: found the text .*, expected a cell of TSV, which has no"
    ):
        read_retrieval(path)
    assert len(read_retrieval(path, on_bad_row="drop")) == 1


def test_lines_of_tsv(tsv):
    path = tsv("a\t1\r", "", "  ", "b\t2\textra", "c", "\t3", header="\ufeffquery\tpositive\r")
    rows = read_rows(path, RETRIEVAL)
    assert rows.good_rows().rows() == [("a", ["1"], [])]
    assert {number: fault.found for number, fault in rows.faults.items()} == {
        5: "3 fields",
        6: "1 field",
        7: "an empty cell",
    }


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["data.jsonl", "data.tsv", "data.csv", "data.json"])
def test_other_encodings_are_named(tmp_path, name, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / name).write_bytes((mark + '{"query": "a", "positive": "b"}').encode(encoding))
    with pytest.raises(UserError, match=rf"{name}: found UTF-16 or UTF-32, expected UTF-8"):
        read_retrieval(tmp_path / name)


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
    assert [suffix_of(tmp_path / name) for name in ("a.JSONL.GZ", "b.tar.gz", "x.parquet.gz")] == [
        ".jsonl",
        ".tar",
        ".gz",
    ]
    assert format_of(tmp_path / "notes.txt") is None and format_of(tmp_path) is None
