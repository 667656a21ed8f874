"""The rows of one file, as they stand in it: JSON lines, JSON arrays, CSV, Parquet, saved datasets.

Each reader finds the columns that a layout needs and brings them into one form (`Rows`): texts as strings or
lists of strings, numbers as float64. A row that cannot be brought into it (broken JSON, a number for a text,
a field too many) is not among the rows but among the lost, with its place in the file and what is wrong with
it. Whether a row of the right form says anything is not asked here (see `readers`).

JSON lines and CSV are decoded by the standard library and gathered in Arrow, a batch at a time: over 100,000
pairs of real text a second. The columnar readers, two to four times as fast, were tried and do not suit files
that people wrote: pyarrow's for JSON (26.0) kills the process when the first line reads `null`, polars' (2.1)
turns the number 3 into the text "3", pyarrow's for CSV merges records where quotation marks are not closed.
"""

import codecs
import csv
import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from conan_embed.errors import UserError
from conan_embed.texts.columns import Kind, Layout, has_text, listed


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row."""

    reason: str  # a few words to count by
    found: str
    expected: str
    column: str | None = None

    def __str__(self) -> str:
        column = f"column {self.column!r}: " if self.column else ""
        return f"{column}found {self.found}, expected {self.expected}"


@dataclass(frozen=True)
class Rows:
    """The rows of one file in the file's own columns.

    A text is String, texts are String or List(String), a number is Float64, a name is String.
    """

    frame: pl.DataFrame
    numbers: np.ndarray  # [rows] int64, ascending: where each row of `frame` stands in the file
    lost: dict[int, Fault]  # the rows that are not in `frame`, by the same numbers
    sources: dict[str, list[str]]  # our column -> the file's columns that make it
    place: Callable[[int], str] = "row {}".format  # number -> "line 7"
    missing: str = "null"  # what a cell without a value looks like in this format

    def without(self, faults: Mapping[int, Fault]) -> "Rows":
        """Return these rows with some, given by their index in `frame`, moved over to the lost ones."""
        if not faults:
            return self
        kept = np.ones(len(self.numbers), dtype=bool)
        kept[list(faults)] = False
        lost = self.lost | {int(self.numbers[row]): fault for row, fault in faults.items()}
        frame = self.frame.filter(pl.Series(kept))
        return Rows(frame, self.numbers[kept], lost, self.sources, self.place, self.missing)


def format_of(path: Path) -> Callable[[Path, Layout], Rows] | None:
    """Return the function that reads a file like this one, told by its name; None where there is none."""
    if path.is_dir():
        is_saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
        return _read_saved_dataset if is_saved else None
    return READERS.get(_suffix(path))


def _suffix(path: Path) -> str:
    """Return what a file's name ends in, without the ending that says how it is compressed."""
    name = path.name.lower()
    for suffix in COMPRESSIONS:
        if name.endswith(suffix) and not name.endswith(".parquet" + suffix):
            name = name.removesuffix(suffix)
    return Path(name).suffix


def _opened(path: Path) -> io.BufferedReader:
    """Return the bytes of a text file, decompressed."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    return io.BufferedReader(pa.input_stream(str(path), compression=compression), buffer_size=1 << 20)


def first_not_utf8(path: Path) -> str:
    """Return where a text file stops being UTF-8, for a message."""
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: {_not_utf8(error)}"
    raise AssertionError(f"{path} is UTF-8")


def _not_utf8(error: UnicodeDecodeError) -> Fault:
    byte = error.object[error.start]
    return Fault("not UTF-8", f"0x{byte:02x} at byte {error.start + 1} of the line", "UTF-8 text")


# ------------------------------------------------------------------------------ Parquet and saved datasets


_EXPECTED: dict[Kind, str] = {
    "text": "a string",
    "texts": "a string or a list of strings",
    "number": "a number",
    "name": "a string or an integer",
}


def _read_parquet(path: Path, layout: Layout) -> Rows:
    sources = layout.sources(path, list(pl.read_parquet_schema(path)))
    return columnar(path, layout, sources, pl.read_parquet(path, columns=_used(sources)))


def _read_saved_dataset(path: Path, layout: Layout) -> Rows:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{path}: found a folder saved by Hugging Face datasets, expected that package to be installed: "
            f"pip install 'conan-embed[datasets]'."
        ) from None
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise UserError(f"{path}: found the splits {listed(splits)}, expected one, e.g. {path / splits[0]}.")
    dataset = datasets.load_from_disk(str(path))
    sources = layout.sources(path, dataset.column_names)
    return columnar(path, layout, sources, dataset.select_columns(_used(sources)).to_polars())


def _used(sources: Mapping[str, list[str]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain(*sources.values())))


def columnar(path: Path, layout: Layout, sources: dict[str, list[str]], frame: pl.DataFrame) -> Rows:
    """Bring typed columns into the form of `Rows`; a column of a wrong type is an error of the whole file."""
    casts = {}
    for column in layout.columns:
        for source in sources[column.name]:
            target = _target(frame.schema[source], column.kind)
            if target is None:
                raise UserError(
                    f"{path}: column {source!r}: found values of type {frame.schema[source]}, "
                    f"expected {_EXPECTED[column.kind]} in each row."
                )
            casts[source] = pl.col(source).cast(target)
    return Rows(frame.select(**casts), np.arange(1, len(frame) + 1), {}, sources)


def _target(dtype: Any, kind: Kind) -> Any:
    """Return the polars type that cells of type `dtype` are brought to, None where they are of no use."""
    if kind == "number":
        return pl.Float64 if dtype.is_numeric() or dtype == pl.Null else None
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null) or (kind == "name" and dtype.is_integer()):
        return pl.String
    if kind == "texts" and isinstance(dtype, pl.List | pl.Array) and _target(dtype.inner, "text"):
        return pl.List(pl.String)
    return None


# ---------------------------------------------------------------------------------------------------- JSON

_BATCH = 4096  # rows decoded at a time: their Python objects live for a moment, what stays is Arrow

JsonRow = dict[str, Any] | Fault


def _read_json(path: Path, layout: Layout) -> Rows:
    is_array = _is_array(path)
    place = ("row {}" if is_array else "line {}").format
    columns: dict[str, _JsonColumn] = {}
    names: dict[str, None] = {}  # a set in order of appearance
    numbers: list[int] = []
    lost: dict[int, Fault] = {}
    for batch_numbers, batch in _array_batches(path) if is_array else _line_batches(path):
        if any(isinstance(row, Fault) for row in batch):
            pairs = list(zip(batch_numbers, batch, strict=True))
            lost |= {number: row for number, row in pairs if isinstance(row, Fault)}
            batch_numbers = [number for number, row in pairs if not isinstance(row, Fault)]
        objects = [row for row in batch if not isinstance(row, Fault)]
        names |= dict.fromkeys(itertools.chain.from_iterable(objects))
        for name in names.keys() - columns.keys():
            # Which columns are ours is known only at the end: a row may be the first to have one.
            if kind := layout.kind_of(name):
                columns[name] = _JsonColumn(name, kind, absent=len(numbers))
        numbers += batch_numbers
        for name, column in columns.items():
            column.extend([row.get(name) for row in objects])

    sources = layout.sources(path, list(names)) if numbers else {column.name: [] for column in layout.columns}
    used = [columns[name] for name in _used(sources)]
    frame = pl.DataFrame([column.series() for column in used])
    faults: dict[int, Fault] = {}
    for column in used:
        faults = column.faults(lambda row: place(numbers[row])) | faults  # a row's first fault counts
    return Rows(frame, np.array(numbers, dtype=np.int64), lost, sources, place).without(faults)


def _line_batches(path: Path) -> Iterator[tuple[Sequence[int], list[JsonRow]]]:
    """Yield line numbers and what stands in those lines, without the blank ones."""
    start = 1
    with _opened(path) as file:
        while lines := list(itertools.islice(file, _BATCH)):
            if start == 1:
                lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
            numbers: Sequence[int] = range(start, start + len(lines))
            start += len(lines)
            try:
                rows: list[Any] = [json.loads(line.decode()) for line in lines]
            except (ValueError, RecursionError):  # a line is blank, not UTF-8 or no JSON
                numbers = [number for number, line in zip(numbers, lines, strict=True) if not line.isspace()]
                rows = [_json_value(line.rstrip()) for line in lines if not line.isspace()]
            yield numbers, [_as_row(row, "one JSON object a line") for row in rows]


def _json_value(line: bytes) -> Any:
    """Return the value that a line holds, or the fault in it."""
    expected = "one JSON object a line"
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return _not_utf8(error)
    except json.JSONDecodeError as error:
        return Fault("broken JSON", f"broken JSON ({error.msg} at character {error.pos + 1})", expected)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        return Fault("broken JSON", f"JSON that cannot be read ({error})", expected)


def _as_row(value: Any, expected: str) -> JsonRow:
    return value if isinstance(value, dict | Fault) else Fault("not an object", shown(value), expected)


def _is_array(path: Path) -> bool:
    if _suffix(path) != ".json":
        return False
    with _opened(path) as file:
        return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _array_batches(path: Path) -> Iterator[tuple[Sequence[int], list[JsonRow]]]:
    """Yield the elements of the array that a file consists of, numbered from 1."""
    with _opened(path) as file:
        text = file.read().decode("utf-8-sig")
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        broken = f"broken JSON ({error.msg} at character {error.colno})"
        raise UserError(
            f"{path}: line {error.lineno}: found {broken}, expected an array of objects."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: found JSON that cannot be read ({error}), expected an array of objects."
        ) from None
    yield range(1, len(rows) + 1), [_as_row(row, "a JSON object") for row in rows]


class _JsonColumn:
    """One column of decoded JSON, gathered in Arrow chunks of the type of its first value.

    A value of another type is kept aside under the index of its row, and the column holds null there.
    """

    # The types that a column may have. Integers among numbers are floats, and names are strings in the end.
    TYPES: Mapping[Kind, tuple[type, ...]] = {
        "text": (str,),
        "texts": (str, list),
        "number": (float,),
        "name": (str, int),
    }

    def __init__(self, name: str, kind: Kind, type: type | None = None, absent: int = 0) -> None:
        """`type` is known beforehand or that of the first value; in the `absent` rows before it is null."""
        self.name, self.kind, self.type, self.rows = name, kind, type, absent
        self.first = 0  # the row of the first value
        self.chunks: list[pa.Array] = [pa.nulls(absent)]
        self.aside: dict[int, Any] = {}

    def extend(self, values: list[Any]) -> None:
        """Take in the next rows; a row without the column has None."""
        if self.type is None:
            types = ((row, self._type_of(value)) for row, value in enumerate(values, self.rows))
            allowed = self.TYPES[self.kind]
            self.first, self.type = next((found for found in types if found[1] in allowed), (0, None))
        try:
            chunk = self._chunk(values)
        except (TypeError, UnicodeEncodeError):
            bad = {row: value for row, value in enumerate(values) if not self._fits(value)}
            self.aside |= {self.rows + row: value for row, value in bad.items()}
            chunk = self._chunk([None if row in bad else value for row, value in enumerate(values)])
        self.chunks.append(chunk)
        self.rows += len(values)

    def _type_of(self, value: Any) -> type:
        return float if self.kind == "number" and type(value) is int else type(value)

    def _chunk(self, values: list[Any]) -> pa.Array:
        """Return values of the column's type or null, in Arrow.

        Raises:
            TypeError: a value is of another type.
            UnicodeEncodeError: a text cannot be written as UTF-8, since an escape left half a character.
        """
        _expect(values, {int, float} if self.type is float else {self.type})
        if self.type is list:
            _expect(itertools.chain(*filter(None, values)), {str})
        elif self.type is float:
            values = [None if value is None else _double(value) for value in values]
        elif self.type is int:
            values = [None if value is None else str(value) for value in values]
        return pa.array(values, type=self._arrow_type())

    def _fits(self, value: Any) -> bool:
        try:
            self._chunk([value])
        except (TypeError, UnicodeEncodeError):
            return False
        return True

    def _arrow_type(self) -> pa.DataType:
        if self.type is None:
            return pa.null()
        if self.type is list:
            return pa.list_(pa.string())
        return pa.float64() if self.type is float else pa.string()

    def series(self) -> pl.Series:
        """Return the column: Float64 for numbers, else List(String) or String."""
        if self.type is None:
            return pl.repeat(
                None, self.rows, dtype=pl.Float64 if self.kind == "number" else pl.String, eager=True
            ).alias(self.name)
        arrow_type = self._arrow_type()
        chunks = [chunk.cast(arrow_type) for chunk in self.chunks]
        return pl.Series(self.name, pl.from_arrow(pa.chunked_array(chunks, type=arrow_type)))

    def faults(self, place: Callable[[int], str], expected: str | None = None) -> dict[int, Fault]:
        """Return what is wrong with each row that has a value of another type."""
        if expected is None:
            expected = _EXPECTED[self.kind]
            if self.type is not None and len(self.TYPES[self.kind]) > 1:
                word = {list: "a list of strings", str: "a string", int: "an integer"}[self.type]
                expected = f"{word} as in {place(self.first)}"
        return {
            row: Fault("wrong type", shown(value), expected, self.name) for row, value in self.aside.items()
        }


def _expect(values: Any, types: set[type | None]) -> None:
    if not set(map(type, values)) <= {*types, type(None)}:
        raise TypeError


def _double(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


# ----------------------------------------------------------------------------------------------------- CSV


def _read_csv(path: Path, layout: Layout) -> Rows:
    records = _records(path, delimiter="\t" if _suffix(path) == ".tsv" else ",")
    _, header = next(records, (1, []))
    if not header or isinstance(header, Fault):
        raise UserError(
            f"{path}: found {header or 'an empty file'}, expected a header that names the columns."
        )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{path}: line 1: found the column {twice[0]!r} twice, expected each name once.")
    sources = layout.sources(path, header)
    chunks: dict[str, list[pa.Array]] = {name: [] for name in _used(sources)}
    numbers: list[int] = []
    lost: dict[int, Fault] = {}
    while batch := list(itertools.islice(records, _BATCH)):
        good = []
        for number, record in batch:
            if isinstance(record, Fault):
                lost[number] = record
            elif len(record) != len(header):
                found = "1 field" if len(record) == 1 else f"{len(record)} fields"
                lost[number] = Fault("wrong number of fields", found, f"{len(header)} as in the header")
            else:
                numbers.append(number)
                good.append(record)
        for name, arrays in chunks.items():
            at = header.index(name)
            arrays.append(pa.array([record[at] or None for record in good], pa.string()))

    columns = {
        name: pl.Series(name, pl.from_arrow(pa.chunked_array(c, pa.string()))) for name, c in chunks.items()
    }
    faults: dict[int, Fault] = {}
    for column in layout.columns:
        for name in sources[column.name]:
            if column.kind == "number":
                columns[name], wrong = _numbers_in(columns[name])
                faults = wrong | faults
            elif column.kind == "texts":
                columns[name], wrong = _lists_in(columns[name], lambda row: f"line {numbers[row]}")
                faults = wrong | faults
    rows = Rows(
        pl.DataFrame(columns),
        np.array(numbers, dtype=np.int64),
        lost,
        sources,
        place="line {}".format,
        missing="an empty cell",
    )
    return rows.without(faults)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str] | Fault]]:
    """Yield each record but empty lines, or what is wrong with it, and the number of its first line."""
    limit = csv.field_size_limit(2**31 - 1)  # the usual one, 128 KiB, is no length for a text
    try:
        with io.TextIOWrapper(_opened(path), "utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            line = 1
            while True:
                try:
                    record: list[str] | Fault = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    if "end of data" in str(error):  # all that follows went into one field
                        found = "a quotation mark that is never closed"
                        raise UserError(
                            f"{path}: line {line}: found {found}, expected pairs of them."
                        ) from None
                    record = Fault(
                        "broken CSV", f"broken CSV ({error})", "quoted fields with inner quotes doubled"
                    )
                if record:
                    yield line, record
                line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def _numbers_in(cells: pl.Series) -> tuple[pl.Series, dict[int, Fault]]:
    """Return the numbers written in cells of text, and what is wrong with some rows."""
    numbers = cells.str.strip_chars().cast(pl.Float64, strict=False)
    wrong = (numbers.is_null() & cells.is_not_null()).arg_true()
    return numbers, {
        row: Fault("not a number", shown(cells[row]), "a finite number", cells.name) for row in wrong
    }


def _lists_in(cells: pl.Series, place: Callable[[int], str]) -> tuple[pl.Series, dict[int, Fault]]:
    """Return the JSON arrays written in cells of text, with what is wrong with some; or plain texts as is.

    The first cell that is not empty says which of both the whole column holds, since real texts may look like
    arrays, too. A list of Python strings counts as an array, so that it is refused and not taken for a text.
    """
    first = cells.is_not_null().arg_max()
    if first is None or not cells.slice(first, 1).str.contains(r"""(?s)^\s*\[\s*(["'].*)?\]\s*$""").any():
        return cells, {}
    expected = f"a JSON array of strings (the first cell, in {place(first)}, looks like one)"
    faults: dict[int, Fault] = {}
    values: list[Any] = []
    for row, cell in enumerate(cells):
        try:
            values.append(None if cell is None else json.loads(cell))
        except ValueError:
            values.append(None)
            faults[row] = Fault("broken JSON", shown(cell), expected, cells.name)
    column = _JsonColumn(cells.name, "texts", list)
    column.extend(values)
    return column.series(), faults | column.faults(place, expected)


READERS: Mapping[str, Callable[[Path, Layout], Rows]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


# -------------------------------------------------------------------------------------------- for messages


def shown(value: Any) -> str:
    """Return how a value that was found is put into a sentence; of a list, the element that is not a text."""
    match value:
        case None:
            return "null"
        case str() if not _is_unicode(value):
            return f"half a character (an unpaired surrogate) in the text {_cut(ascii(value))}"
        case "":
            return "an empty text"
        case str() if is_blank(value):
            return f"a text with nothing to read ({_cut(repr(value))})"
        case str():
            return f"the text {_cut(repr(value))}"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {_cut(str(value))}"
        case []:
            return "an empty list"
        case list():
            for number, element in enumerate(value, 1):
                if not isinstance(element, str) or not _is_unicode(element) or is_blank(element):
                    return f"{shown(element)} as element {number} of a list"
            return "a list of strings"
        case _:
            return "an object"


def is_blank(text: str) -> bool:
    """Say whether a text holds nothing to read."""
    return not pl.select(has_text(pl.lit(text))).item()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[:length] + "..."
