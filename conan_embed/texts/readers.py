"""Files become checked tables with the columns that the rest of the house knows: one reader for all rooms.

    read_retrieval         query: str, positive: list[str], negative: list[str]
    read_scored_retrieval  the same, positive_score: list[f64], negative_score: list[f64]
    read_sts               text_a: str, text_b: str, score: f64
    read_classification    text: str, label: str
    read_corpus            doc_id: str, text: str
    read_table             whatever a `TableSchema` describes (evaluation sets, your own)
    read_rows              one file or a part of it, bad rows marked instead of refused (streams, the filter)

A path is a file (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, all of these also with `.gz` or `.zst`; `.parquet`), a
folder of such files or a pattern like `data/*.parquet` (one file after the other, sorted), or a folder written by
`save_to_disk` of Hugging Face `datasets`. Columns are found by their usual names (see `columns`) or named by the
caller; how a file becomes rows is written in `formats`.

Every row is checked. The first bad one stops the reading with its file, its line (JSON lines, CSV) or row (other
formats; the first is 1), its column, what was found and what was expected. Texts are kept to the character, spaces
included.
"""

import contextlib
import glob
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import polars as pl
import polars.selectors as cs
import pyarrow as pa

from conan_embed.console import console, tracked
from conan_embed.errors import UserError, suggestion
from conan_embed.texts.cells import has_text
from conan_embed.texts.checked_rows import CheckedRows, check_rows
from conan_embed.texts.columns import (
    CLASSIFICATION,
    CORPUS,
    RETRIEVAL,
    SCORED_RETRIEVAL,
    STS,
    ColumnNames,
    TableSchema,
    listed,
)
from conan_embed.texts.formats import READERS, format_of, names_in
from conan_embed.texts.rows import COMPRESSIONS, Part, first_not_utf8

OnBadRow = Literal["error", "drop"]


def read_retrieval(
    path: str | Path, columns: ColumnNames | None = None, *, on_bad_row: OnBadRow = "error"
) -> pl.DataFrame:
    """Read queries with positives and negatives: `query: str, positive: list[str], negative: list[str]`.

    Understood as they are: `query/positive/negative`, FlagEmbedding's `query/pos/neg` (for its scores see
    `read_scored_retrieval`), sentence-transformers' `anchor/positive/negative` or `negative_1 ... negative_n`, and
    pairs such as `question/answer` or `query/passage`. A positive or negative is a string or a list of strings (in CSV,
    a JSON array in its cell). Each query needs one positive; it may have no negative. For arguments and errors see
    `read_table`.

    Example:
        >>> read_retrieval("faq.jsonl", {"query": "title", "positive": "content"})  # doctest: +SKIP
    """
    scores = {column.name for column in SCORED_RETRIEVAL.columns if column.kind == "numbers"}
    columns = {name: source for name, source in (columns or {}).items() if name not in scores}
    return read_table(path, RETRIEVAL, columns, on_bad_row=on_bad_row)


def read_scored_retrieval(
    path: str | Path, columns: ColumnNames | None = None, *, on_bad_row: OnBadRow = "error"
) -> pl.DataFrame:
    """Read what `read_retrieval` does, and the scores beside it: `positive_score, negative_score: list[f64]`.

    A list is empty or has a score for each text. Understood as they are: FlagEmbedding's `pos_scores/neg_scores`.
    """
    return read_table(path, SCORED_RETRIEVAL, columns, on_bad_row=on_bad_row)


def read_sts(
    path: str | Path, columns: ColumnNames | None = None, *, on_bad_row: OnBadRow = "error"
) -> pl.DataFrame:
    """Read graded pairs: `text_a: str, text_b: str, score: f64`, finite, on whatever scale the file has.

    Understood as they are: `text_a/text_b/score`, and `sentence1/sentence2` with `score`, `label` or
    `similarity_score`. For arguments and errors see `read_table`.
    """
    return read_table(path, STS, columns, on_bad_row=on_bad_row)


def read_classification(
    path: str | Path, columns: ColumnNames | None = None, *, on_bad_row: OnBadRow = "error"
) -> pl.DataFrame:
    """Read labelled texts: `text: str, label: str`; integer labels become strings.

    Understood as they are: `text` or `sentence` with `label` or `label_text`. For arguments and errors see
    `read_table`.
    """
    return read_table(path, CLASSIFICATION, columns, on_bad_row=on_bad_row)


def read_corpus(
    path: str | Path, columns: ColumnNames | None = None, *, on_bad_row: OnBadRow = "error"
) -> pl.DataFrame:
    """Read passages to mine from or to search in: `doc_id: str, text: str`; no doc_id occurs twice.

    Columns: `doc_id`, `_id` or `id` (optional; a passage without one gets its number among those read, from 1),
    `title` (optional) and `text`. A title is put before the text on a line of its own, unless it is blank or the text
    begins with it; with no text, it is the text. For arguments and errors see `read_table`.
    """
    frame = read_table(path, CORPUS, columns, on_bad_row=on_bad_row)
    number = pl.int_range(1, pl.len() + 1).cast(pl.String)
    frame = frame.with_columns(doc_id=pl.when(has_text(pl.col("doc_id"))).then("doc_id").otherwise(number))
    return _without_duplicates(frame, "doc_id", path, on_bad_row)  # a number may be another passage's id


def read_table(
    path: str | Path,
    schema: TableSchema,
    columns: ColumnNames | None = None,
    *,
    on_bad_row: OnBadRow = "error",
) -> pl.DataFrame:
    """Read a file, a folder or a pattern of files into the columns of `schema`.

    Args:
        path: see the top of this module.
        schema: our columns (`texts.columns`).
        columns: the file's name for a column of ours, e.g. `{"query": "title", "positive": "content"}`; several are
            joined into one list (`{"negative": ["wrong_1", "wrong_2"]}`), an empty list is none.
        on_bad_row: `"error"` stops at the first bad row, `"drop"` leaves bad rows out and prints how many and why.

    Returns:
        One column per column of `schema`, by its kind: text and name String, texts List(String), number Float64,
        numbers List(Float64), messages List(Struct(role, content)). Optional columns that the file lacks are null, or
        empty lists.

    Raises:
        UserError: nothing to read, an unreadable file, a missing column, a bad row, no row left.
    """
    assert on_bad_row in ("error", "drop"), on_bad_row
    schema = schema.with_names(columns)
    files = data_files(path)
    frames: Iterable[pl.DataFrame] = (read_good_rows(file, schema, on_bad_row).frame for file in files)
    if len(files) > 1:
        frames = tracked(frames, f"Reading {path}", total=len(files))
    frame = pl.concat(frames)
    for column in schema.columns:
        if column.unique:
            frame = _without_duplicates(frame, column.name, path, on_bad_row)
    return frame


def _without_duplicates(
    frame: pl.DataFrame, name: str, path: str | Path, on_bad_row: OnBadRow
) -> pl.DataFrame:
    """Return the rows whose `name` is new (or null)."""
    is_new = pl.col(name).is_first_distinct() | pl.col(name).is_null()
    again = frame.select(pl.col(name).filter(~is_new)).to_series()
    if again.is_empty():
        return frame
    if on_bad_row == "error":
        raise UserError(f"{path}: found the {name} {again[0]!r} twice, expected each once.")
    print_dropped(path, len(frame), Counter({f"{name} used before": len(again)}), f"with {name} {again[0]!r}")
    return frame.filter(is_new)


# ------------------------------------------------------------------------------------------ files and rows


def data_files(path: str | Path) -> list[Path]:
    """Return the files that a path, a folder or a pattern stands for, sorted.

    Raises:
        UserError: there is none, or one of an unknown format.
    """
    path = Path(path).expanduser()
    kinds = f"{listed(READERS, 'or')} (text also with {listed(COMPRESSIONS, 'or')})"
    if format_of(path) and path.exists():
        return [path]
    if path.is_dir():
        files = sorted(
            p for p in path.iterdir() if p.is_file() and format_of(p) and not p.name.startswith(".")
        )
        if not files:
            raise UserError(f"{path}: found no file of a known kind in this folder, expected {kinds}.")
        return files
    if path.exists():
        raise UserError(f"{path}: found a file of an unknown kind, expected {kinds}.")
    if glob.has_magic(str(path)):
        files = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not files:
            raise UserError(f"{path}: found no file that matches this pattern, expected at least one.")
        return [file for match in files for file in data_files(match)]
    missing = next(p for p in (path, *path.parents) if p.parent.is_dir())
    near = suggestion(missing.name, (p.name for p in missing.parent.iterdir()))
    raise UserError(f"{path}: no such file{'' if missing == path else f': no {missing}'}{near}.")


def read_rows(file: Path, schema: TableSchema, part: Part | None = None) -> CheckedRows:
    """Read one file, or a part of it, and check its rows; bad rows are marked, not refused.

    Args:
        schema: our columns, with the file's names for them (`TableSchema.with_names`) where they are needed.
        part: start and stop, rows of a Parquet file or bytes of a file of JSON lines: the lines that begin there.

    Raises:
        UserError: an unreadable file, a missing column, a column of a type that is of no use in any row (Parquet).
    """
    read = format_of(file)
    assert read is not None, file
    with _readable(file):
        return check_rows(read(file, schema, part), schema)


def column_names(file: Path) -> list[str]:
    """Return the names of a file's columns (of JSON, those of its first rows).

    Raises:
        UserError: the file cannot be read.
    """
    with _readable(file):
        return names_in(file)


def find_text(path: str | Path, schema: TableSchema, columns: ColumnNames | None, text: str) -> str | None:
    """Return where a text stands in a table, as "data.jsonl: line 7: column 'query'"; None if it is not there.

    For messages about texts that only what comes after reading can judge: reads the files once more.
    """
    schema = schema.with_names(columns)
    for file in data_files(path):
        rows = read_rows(file, schema)
        for name in rows.frame.select(cs.by_dtype(pl.String, pl.List(pl.String))).columns:
            is_list = rows.frame.schema[name] == pl.List(pl.String)
            has = pl.col(name).list.contains(text) if is_list else pl.col(name) == text
            if (found := rows.frame.select(has.fill_null(False)).to_series()).any():
                return f"{file}: {rows.location(int(rows.numbers[found.arg_max()]))}: column {name!r}"
    return None


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what libraries raise about a file into a sentence."""
    try:
        yield
    except UnicodeDecodeError:
        raise UserError(f"{file}: {first_not_utf8(file)}.") from None
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"{file}: cannot be read: {reason}.") from error


def print_dropped(path: str | Path, total: int, reasons: Counter[str], first: str) -> None:
    """Print how many of `total` rows were dropped and why."""
    counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
    line = f"{path}: dropped {reasons.total()} of {total} rows ({counts}); the first is {first}."
    console.print(line)


def read_good_rows(file: Path, schema: TableSchema, on_bad_row: OnBadRow) -> CheckedRows:
    """Read one file and return its good rows, with their numbers in it; arguments and errors as for `read_table`."""
    rows = read_rows(file, schema)
    if rows.num_rows == 0:
        raise UserError(f"{file}: found no rows, expected at least one.")
    first = rows.first_fault()
    if first is None:
        return rows
    if on_bad_row == "error":
        raise UserError(f"{file}: {first}.")
    if not rows.good.any():
        raise UserError(f"{file}: none of the {rows.num_rows} rows can be used; {first}.")
    print_dropped(file, rows.num_rows, rows.reasons, first)
    return rows.without_bad()
