"""Training files become checked tables with the columns that the rest of the house knows.

    read_retrieval       query: str, positive: list[str], negative: list[str]
    read_sts             text_a: str, text_b: str, score: f64
    read_classification  text: str, label: str
    read_corpus          doc_id: str, text: str

A path is a file (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, all of these also with `.gz` or `.zst`;
`.parquet`), a folder of such files or a pattern like `data/*.parquet` (one file after the other, sorted), or
a folder written by `save_to_disk` of Hugging Face `datasets`. Columns are found by their usual names (see
`columns`) or named by the caller; how a file becomes rows is written in `formats`.

Every row is checked. The first bad one stops the reading with its file, its line (JSON lines, CSV) or row
(other formats; the first is 1), its column, what was found and what was expected. Texts are kept to the
character, spaces included.
"""

import glob
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from conan_embed.console import console, tracked
from conan_embed.errors import UserError, suggestion
from conan_embed.texts.columns import (
    CLASSIFICATION,
    CORPUS,
    RETRIEVAL,
    STS,
    Column,
    ColumnNames,
    Layout,
    has_text,
    listed,
)
from conan_embed.texts.formats import (
    COMPRESSIONS,
    READERS,
    Fault,
    Rows,
    columnar,
    first_not_utf8,
    format_of,
    shown,
)

OnBad = Literal["error", "drop"]


def read_retrieval(
    path: str | Path,
    columns: ColumnNames | None = None,
    *,
    on_bad: OnBad = "error",
    dropped: Counter[str] | None = None,
) -> pl.DataFrame:
    """Read queries with positives and negatives: `query: str, positive: list[str], negative: list[str]`.

    Understood as they are: `query/positive/negative`, FlagEmbedding's `query/pos/neg` (its scores are
    ignored), sentence-transformers' `anchor/positive/negative` or `negative_1 ... negative_n`, and pairs such
    as `question/answer` or `query/passage`. A positive or negative column holds strings, or lists of strings,
    throughout (in CSV, a JSON array in its cell). Each query needs one positive; it may have no negative.

    Args:
        path: file, folder or pattern (see the top of this module).
        columns: the file's name for a column of ours, e.g. `{"query": "title", "positive": "content"}`;
            several are joined into one list (`{"negative": ["wrong_1", "wrong_2"]}`), an empty list is none.
        on_bad: `"error"` stops at the first bad row, `"drop"` leaves bad rows out and says how many and why.
        dropped: is given the number of rows left out by reason.

    Raises:
        UserError: nothing to read, an unreadable file, a missing column, a bad row, no row left.
    """
    return _read(path, RETRIEVAL, columns, on_bad, dropped)


def read_sts(
    path: str | Path,
    columns: ColumnNames | None = None,
    *,
    on_bad: OnBad = "error",
    dropped: Counter[str] | None = None,
) -> pl.DataFrame:
    """Read graded pairs: `text_a: str, text_b: str, score: f64`, finite, on whatever scale the file has.

    Understood as they are: `text_a/text_b/score`, and `sentence1/sentence2` with `score`, `label` or
    `similarity_score`. Arguments and errors are those of `read_retrieval`.
    """
    return _read(path, STS, columns, on_bad, dropped)


def read_classification(
    path: str | Path,
    columns: ColumnNames | None = None,
    *,
    on_bad: OnBad = "error",
    dropped: Counter[str] | None = None,
) -> pl.DataFrame:
    """Read labelled texts: `text: str, label: str`; integer labels become strings.

    Understood as they are: `text` or `sentence` with `label` or `label_text`. Arguments and errors are those
    of `read_retrieval`.
    """
    return _read(path, CLASSIFICATION, columns, on_bad, dropped)


def read_corpus(
    path: str | Path,
    columns: ColumnNames | None = None,
    *,
    on_bad: OnBad = "error",
    dropped: Counter[str] | None = None,
) -> pl.DataFrame:
    """Read passages to mine from or to search in: `doc_id: str, text: str`; no doc_id occurs twice.

    Columns: `doc_id`, `_id` or `id` (optional; a passage without one gets its number among those read, from
    1), `title` (optional) and `text`. A title that says something, and with which the text does not begin
    already, is put before the text on a line of its own; with no text, it is the text. Arguments and errors
    are those of `read_retrieval`.
    """
    frame = _read(path, CORPUS, columns, on_bad, dropped)
    number = pl.int_range(1, pl.len() + 1).cast(pl.String)
    frame = frame.with_columns(doc_id=pl.when(has_text(pl.col("doc_id"))).then("doc_id").otherwise(number))
    again = frame.select(doc_id=pl.col("doc_id").filter(~pl.col("doc_id").is_first_distinct())).to_series()
    if again.is_empty():
        return frame
    if on_bad == "error":
        raise UserError(f"{path}: found the doc_id {again[0]!r} twice, expected each once.")
    reasons = Counter({"doc_id used before": len(again)})
    _say_dropped(path, len(frame), reasons, f"with doc_id {again[0]!r}", dropped)
    return frame.unique("doc_id", keep="first", maintain_order=True)


def _read(
    path: str | Path,
    layout: Layout,
    columns: ColumnNames | None,
    on_bad: OnBad,
    dropped: Counter[str] | None,
) -> pl.DataFrame:
    assert on_bad in ("error", "drop"), on_bad
    layout = layout.with_names(columns or {})
    files = data_files(path)
    frames: Iterable[pl.DataFrame] = (_read_file(file, layout, on_bad, dropped) for file in files)
    if len(files) > 1:
        frames = tracked(frames, f"Reading {path}", total=len(files))
    return pl.concat(frames)


def data_files(path: str | Path) -> list[Path]:
    """Return the files that a path, a folder or a pattern stands for, sorted."""
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


def _read_file(file: Path, layout: Layout, on_bad: OnBad, dropped: Counter[str] | None) -> pl.DataFrame:
    """Return the good rows of one file in our columns."""
    read = format_of(file)
    assert read is not None, file
    try:
        rows = read(file, layout)
    except UnicodeDecodeError:
        raise UserError(f"{file}: {first_not_utf8(file)}.") from None
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"{file}: cannot be read: {reason}.") from error

    total = len(rows.numbers) + len(rows.lost)
    if total == 0:
        raise UserError(f"{file}: found no rows, expected at least one.")
    faults = dict(rows.lost)
    reasons = Counter(fault.reason for fault in rows.lost.values())
    frame = pl.DataFrame()
    if len(rows.numbers):
        checked = _checked(rows, layout)
        faults |= {number: fault for number, fault in checked.faults.items() if number not in faults}
        reasons += checked.reasons
        frame = checked.frame.filter(pl.Series(checked.good))
    if not faults:
        return frame
    number = min(faults)
    first = f"{rows.place(number)}: {faults[number]}"
    if on_bad == "error":
        raise UserError(f"{file}: {first}.")
    if frame.is_empty():
        raise UserError(f"{file}: none of the {total} rows can be used; {first}.")
    _say_dropped(file, total, reasons, first, dropped)
    return frame


@dataclass(frozen=True)
class CheckedRows:
    """Rows in our columns, good and bad.

    Attributes:
        good: bool [rows].
        faults: the first row with each kind of fault, by its number in the file.
        reasons: bad rows by reason.
    """

    frame: pl.DataFrame
    good: np.ndarray
    faults: dict[int, Fault]
    reasons: Counter[str]


def check_columnar(
    path: Path, layout: Layout, sources: dict[str, list[str]], frame: pl.DataFrame, numbers: np.ndarray
) -> CheckedRows:
    """Bring a part of a columnar file into our columns and check its rows.

    Args:
        sources: our column to the file's columns, see `Layout.sources`.
        numbers: int64, the place of each row in the file, from 1.

    Raises:
        UserError: a column of a type that cannot be read.
    """
    return _checked(replace(columnar(path, layout, sources, frame), numbers=numbers), layout)


def _checked(rows: Rows, layout: Layout) -> CheckedRows:
    frame = layout.finish(_in_our_columns(rows, layout))
    faults: dict[int, Fault] = {}
    reasons: Counter[str] = Counter()
    failed = np.zeros(len(frame), dtype=bool)
    for check in _checks(frame, layout):
        newly = check.failed & ~failed
        if newly.any():
            row = int(newly.argmax())
            reasons[check.reason] += int(newly.sum())
            faults.setdefault(int(rows.numbers[row]), check.fault(frame[row, check.column.name], rows))
            failed |= newly
    return CheckedRows(frame, ~failed, faults, reasons)


def _say_dropped(
    path: str | Path, total: int, reasons: Counter[str], first: str, dropped: Counter[str] | None
) -> None:
    counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
    line = f"{path}: dropped {reasons.total()} of {total} rows ({counts}); the first is {first}."
    console.print(line)
    if dropped is not None:
        dropped.update(reasons)


def _in_our_columns(rows: Rows, layout: Layout) -> pl.DataFrame:
    """Return the rows in our columns, several of the file's columns joined into one list."""
    none = pl.lit([], dtype=pl.List(pl.String))

    def texts(source: str) -> pl.Expr:
        if isinstance(rows.frame.schema[source], pl.List):
            return pl.col(source).fill_null(none)
        return pl.concat_list(source).list.drop_nulls()

    ours = {}
    for column in layout.columns:
        sources = rows.sources[column.name]
        if column.kind == "texts":
            ours[column.name] = pl.concat_list(*map(texts, sources)) if sources else none
        else:
            ours[column.name] = pl.col(sources[0]) if sources else pl.lit(None, dtype=pl.String)
    return rows.frame.select(**ours)


@dataclass(frozen=True)
class _Check:
    """One thing that each row of a column must fulfil, and the rows that do not."""

    column: Column
    reason: str
    expected: str
    failed: np.ndarray  # [rows] bool

    def fault(self, cell: Any, rows: Rows) -> Fault:
        """Return what is wrong with a row that failed, given its cell in our column."""
        value = cell.to_list() if isinstance(cell, pl.Series) else cell
        found = rows.missing if value is None else shown(value)
        names = rows.sources[self.column.name] or [self.column.name]
        return Fault(self.reason, found, self.expected, ", ".join(names))


def _checks(frame: pl.DataFrame, layout: Layout) -> Iterator[_Check]:
    for column in layout.columns:
        if column.name not in frame.columns or (column.kind in ("text", "name") and not column.required):
            continue
        cell, name = pl.col(column.name), column.name
        conditions: list[tuple[str, str, pl.Expr]] = []  # reason, expected, whether the cell fulfils it
        match column.kind:
            case "text":
                conditions = [("empty text", "a text with something to read", has_text(cell))]
            case "texts":
                all_have_text = cell.list.eval(has_text(pl.element())).list.all()
                conditions = [("empty text", "texts with something to read", all_have_text)]
                if column.required:
                    conditions.insert(0, (f"no {name}", "at least one text", cell.list.len() > 0))
            case "number":
                conditions = [("not a number", "a finite number", cell.is_finite())]
            case "name":
                conditions = [(f"no {name}", f"a {name}", has_text(cell))]
        for reason, expected, good in conditions:
            failed = frame.select(~good.fill_null(False)).to_series().to_numpy()
            yield _Check(column, reason, expected, failed)
