"""Encodings, names of files, and typed columns."""

from pathlib import Path

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.texts.columns import RETRIEVAL
from conan_embed.texts.readers import read_retrieval
from conan_embed.texts.rows import columnar, suffix_of


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["data.jsonl", "data.tsv", "data.csv", "data.json"])
def test_other_encodings_are_named(tmp_path, name, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / name).write_bytes((mark + '{"query": "a", "positive": "b"}').encode(encoding))
    with pytest.raises(UserError, match=rf"{name}: found UTF-16 or UTF-32, expected UTF-8"):
        read_retrieval(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.JSONL.GZ", ".jsonl"),
        ("b.csv.zst", ".csv"),
        ("c.tar.gz", ".tar"),
        ("d.parquet.gz", ".gz"),
        ("e", ""),
    ],
)
def test_suffixes(name, suffix):
    assert suffix_of(Path(name)) == suffix


def test_typed_columns_keep_their_places():
    frame = pl.DataFrame(
        {"query": pl.Series(["a", None], dtype=pl.Categorical), "positive": [["b"], ["c", None]]}
    )
    sources = {"query": ["query"], "positive": ["positive"], "negative": []}
    rows = columnar(Path("x.parquet"), RETRIEVAL, sources, frame, first=41)
    assert rows.numbers.tolist() == [41, 42] and rows.location(41) == "row 41"
    assert rows.frame.schema == {"query": pl.String, "positive": pl.List(pl.String)}
    with pytest.raises(
        UserError, match=r"x.parquet: column 'query': found values of type Int64, expected a string"
    ):
        columnar(Path("x.parquet"), RETRIEVAL, sources, frame.with_columns(query=pl.lit(1, pl.Int64)))
