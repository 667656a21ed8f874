"""Rows of a file in our columns, every cell checked: which rows are good, and what is wrong with the others.

    rows (formats.py) -> our columns (columns.py) -> one condition after the other -> CheckedRows

Shapes: R rows.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from conan_embed.texts.cells import Fault, describe, has_text
from conan_embed.texts.columns import Column, TableSchema
from conan_embed.texts.rows import Rows


@dataclass(frozen=True)
class CheckedRows:
    """Rows in our columns, good and bad.

    Attributes:
        frame: the rows that could be decoded, R of them.
        good: bool [R].
        numbers: int64 [R], the number of each in its file or part, from 1.
        faults: the rows that could not be decoded, and the first of each other kind, by number.
        reasons: bad rows by reason.
        location: number -> "line 7" of the file.
    """

    frame: pl.DataFrame
    good: np.ndarray
    numbers: np.ndarray
    faults: dict[int, Fault]
    reasons: Counter[str]
    location: Callable[[int], str]

    def good_rows(self) -> pl.DataFrame:
        return self.frame.filter(pl.Series(self.good, dtype=pl.Boolean))

    def without_bad(self) -> "CheckedRows":
        """Return the good rows, with the numbers that they have in the file."""
        frame, numbers = self.good_rows(), self.numbers[self.good]
        return replace(self, frame=frame, good=np.ones(len(frame), dtype=bool), numbers=numbers)

    @property
    def num_rows(self) -> int:
        """Rows read, good or bad."""
        return int(self.good.sum()) + self.reasons.total()

    def first_fault(self) -> str | None:
        """Return location and fault of the first bad row: "line 7: column 'query': found ..., expected ..."."""
        number = min(self.faults, default=None)
        return None if number is None else f"{self.location(number)}: {self.faults[number]}"


def check_rows(rows: Rows, schema: TableSchema) -> CheckedRows:
    """Bring rows into our columns and check every cell."""
    frame = _in_our_columns(rows, schema) if len(rows.numbers) else pl.DataFrame()
    faults = dict(rows.faults)
    reasons = Counter(fault.reason for fault in faults.values())
    good = np.ones(len(frame), dtype=bool)
    for check in _checks(frame, schema):
        failed = check.failed & good
        if failed.any():
            row = int(failed.argmax())
            reasons[check.reason] += int(failed.sum())
            faults.setdefault(int(rows.numbers[row]), check.fault(frame[row, check.column.name], rows))
            good &= ~failed
    return CheckedRows(frame, good, rows.numbers, faults, reasons, rows.location)


def _in_our_columns(rows: Rows, schema: TableSchema) -> pl.DataFrame:
    """Return the rows in our columns, several of the file's columns joined into one list."""
    ours = {column.name: _column(column, rows) for column in schema.columns}
    frame = rows.frame.select(**ours)
    return frame if schema.transform is None else schema.transform(frame)


def _column(column: Column, rows: Rows) -> pl.Expr:
    sources = rows.sources[column.name]
    none = pl.lit([], dtype=pl.List(pl.Float64 if column.kind == "numbers" else pl.String))
    if column.kind not in ("texts", "numbers"):
        return pl.col(sources[0]) if sources else pl.lit(None, dtype=pl.String)
    if not sources:
        return none
    return pl.concat_list(
        pl.col(source).fill_null(none)
        if isinstance(rows.frame.schema[source], pl.List)
        else pl.concat_list(source).list.drop_nulls()
        for source in sources
    )


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
        found = rows.missing if value is None else describe(value, self.column.kind)
        names = rows.sources[self.column.name] or [self.column.name]
        return Fault(self.reason, found, self.expected, ", ".join(names))


def _checks(frame: pl.DataFrame, schema: TableSchema) -> Iterator[_Check]:
    for column in schema.columns:
        if column.name not in frame.columns:
            continue
        for reason, expected, good in _conditions(column):
            failed = frame.select(~good.fill_null(False)).to_series().to_numpy()
            yield _Check(column, reason, expected, failed)


def _conditions(column: Column) -> list[tuple[str, str, pl.Expr]]:
    """Return reason, what is expected, and whether a cell fulfils it."""
    cell, name = pl.col(column.name), column.name
    filled = [(f"no {name}", "at least one text", cell.list.len() > 0)] if column.kind == "texts" else []
    match column.kind:
        case "texts":
            all_have_text = cell.list.eval(has_text(pl.element())).list.all()
            empty = ("empty text", "texts with something to read", all_have_text)
            return [*filled, empty] if column.filled else [empty]
        case "number":
            return [("not a number", "a finite number", cell.is_finite())]
        case "numbers":
            each = cell.list.eval(pl.element().is_finite().fill_null(False)).list.all()
            assert column.beside is not None
            fits = (cell.list.len() == 0) | (cell.list.len() == pl.col(column.beside).list.len())
            return [
                ("not numbers", "finite numbers", each),
                ("another number of scores", f"one for each text of {column.beside!r}", fits),
            ]
        case "binary":
            return [("not 0 or 1", "0 or 1", cell.is_in([0.0, 1.0]))]
        case _ if not column.filled:
            return []
        case "text":
            return [("empty text", "a text with something to read", has_text(cell))]
        case "name":
            return [(f"no {name}", f"a {name}", has_text(cell))]
        case _:
            return [(f"no {name}", "at least one message", cell.list.len() > 0)]
