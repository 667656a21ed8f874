"""What every format is brought into: rows in the file's own columns, and faults by their position in the file.

A row that cannot be brought into this form (broken JSON, a number for a text, a field too many) is not among the rows
but among the faults. Whether a row of the right form is a good row is not asked here (see `checked_rows`).
"""

import codecs
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from conan_embed.errors import UserError
from conan_embed.texts.cells import EXPECTED, Fault, Kind, convert, describe
from conan_embed.texts.columns import TableSchema

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
Part = tuple[int, int]
"""Start and stop of a part of a file: rows of Parquet, bytes of JSON lines (the lines that begin there)."""

BATCH = 4096  # rows decoded at a time: their Python objects live for a moment, what stays is Arrow


@dataclass(frozen=True)
class Rows:
    """The rows of one file, or of a part of it, in the file's own columns.

    Attributes:
        frame: a column for each source, of the type of its kind (`cells.ARROW_TYPES`).
        numbers: int64 [rows], ascending: where each row of `frame` stands in the file (or in the part of it).
        faults: the rows that are not in `frame`, by the same numbers.
        sources: our column -> the file's columns that make it.
        location: number -> "line 7".
        missing: what a cell without a value looks like in this format.
    """

    frame: pl.DataFrame
    numbers: np.ndarray
    faults: dict[int, Fault]
    sources: dict[str, list[str]]
    location: Callable[[int], str] = "row {}".format
    missing: str = "null"


def suffix_of(path: Path) -> str:
    """Return what a file's name ends in, without the ending that says how it is compressed."""
    name = path.name.lower()
    for suffix in COMPRESSIONS:
        if name.endswith(suffix) and not name.endswith(".parquet" + suffix):
            name = name.removesuffix(suffix)
    return Path(name).suffix


def open_text(path: Path) -> io.BufferedReader:
    """Return the bytes of a text file, decompressed, without a byte order mark.

    Raises:
        UserError: the file is UTF-16 or UTF-32.
    """
    compression = COMPRESSIONS.get(path.suffix.lower())
    file = io.BufferedReader(pa.input_stream(str(path), compression=compression), buffer_size=1 << 20)
    start = file.peek(4)[:4]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise UserError(
            f"{path}: found UTF-16 or UTF-32, expected UTF-8 (iconv -f UTF-16 -t UTF-8 converts it)."
        )
    if start.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    return file


def first_not_utf8(path: Path) -> str:
    """Return where a text file stops being UTF-8, for a message."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: {not_utf8(error)}"
    raise AssertionError(f"{path} is UTF-8")


def not_utf8(error: UnicodeDecodeError) -> Fault:
    byte = error.object[error.start]
    return Fault("not UTF-8", f"0x{byte:02x} at byte {error.start + 1} of the line", "UTF-8 text")


def used(sources: Mapping[str, list[str]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain(*sources.values())))


def columnar(
    path: Path, schema: TableSchema, sources: dict[str, list[str]], frame: pl.DataFrame, first: int = 1
) -> Rows:
    """Bring typed columns into the form of `Rows`; a column of a wrong type is an error of the whole file.

    Args:
        first: the number of the first row of `frame` in its file.
    """
    columns: dict[str, pl.Series] = {}
    faults: dict[int, Fault] = {}
    for column in schema.columns:
        for source in sources[column.name]:
            if column.kind == "messages":
                columns[source], bad = convert(column.kind, frame[source].to_list())
                faults |= {first + row: _wrong_type(source, column.kind, bad[row]) for row in bad}
            else:
                columns[source] = _cast(path, frame[source], column.kind)
    numbers = first + np.arange(len(frame))
    good = ~np.isin(numbers, list(faults))
    return Rows(pl.DataFrame(columns).filter(pl.Series(good)), numbers[good], faults, sources)


def _cast(path: Path, series: pl.Series, kind: Kind) -> pl.Series:
    target = _target(series.dtype, kind)
    if target is None:
        raise UserError(
            f"{path}: column {series.name!r}: found values of type {series.dtype}, "
            f"expected {EXPECTED[kind]} in each row."
        )
    return series.cast(target)


def _target(dtype: Any, kind: Kind) -> Any:
    """Return the polars type that cells of type `dtype` are brought to, None if they are of no use."""
    if kind in ("number", "binary"):
        return pl.Float64 if dtype.is_numeric() or dtype == pl.Null else None
    if kind == "numbers":
        is_list = isinstance(dtype, pl.List | pl.Array) and _target(dtype.inner, "number") is not None
        return pl.List(pl.Float64) if is_list or dtype == pl.Null else None
    if kind == "texts":
        inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
        return _target(inner, "text") and (pl.String if inner is dtype else pl.List(pl.String))
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null) or (kind == "name" and dtype.is_integer()):
        return pl.String
    return None


# ------------------------------------------------------------------------------------- decoded, in batches


@dataclass
class Batches:
    """Decoded rows, gathered batch by batch; which columns are needed may be known at the end only."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)  # of whole rows
    misfits: dict[str, dict[int, Fault]] = field(default_factory=dict)  # of cells, by column

    def add(self, numbers: Sequence[int], columns: Mapping[str, tuple[Kind, list[Any]]]) -> None:
        """Take in rows with these numbers: for each column its kind and a value per row."""
        series = []
        for name, (kind, values) in columns.items():
            converted, bad = convert(kind, values)
            series.append(converted.alias(name))
            faults = {numbers[row]: _wrong_type(name, kind, value) for row, value in bad.items()}
            self.misfits.setdefault(name, {}).update(faults)
        self.frames.append(pl.DataFrame(series))
        self.numbers += numbers

    def rows(
        self, sources: dict[str, list[str]], location: Callable[[int], str], missing: str = "null"
    ) -> Rows:
        faults = dict(self.faults)
        for name in used(sources):
            faults = self.misfits.get(name, {}) | faults  # a row's first fault counts
        frame = pl.concat(self.frames, how="diagonal") if self.frames else pl.DataFrame()
        numbers = np.array(self.numbers, dtype=np.int64)
        good = ~np.isin(numbers, list(faults))
        frame = frame.select(used(sources)).filter(pl.Series(good)) if self.numbers else frame
        return Rows(frame, numbers[good], faults, sources, location, missing)


def _wrong_type(name: str, kind: Kind, value: Any) -> Fault:
    if isinstance(value, Fault):
        return replace(value, column=name)
    found = (
        "an unreadable conversation"
        if kind == "messages" and isinstance(value, list)
        else describe(value, kind)
    )
    return Fault("wrong type", found, EXPECTED[kind], name)
