"""The rows of one file, as they stand in it: JSON lines, JSON arrays, CSV, TSV, Parquet, saved datasets.

Each reader finds the columns that a schema needs and brings their cells into one form (`Rows`). A row that cannot be
brought into it (broken JSON, a number for a text, a field too many) is not among the rows but among the faults, with
its position in the file. Whether a row of the right form is a good row is not asked here (see `readers`). Columns that
the schema does not need are not looked at.

JSON lines and CSV are decoded by the standard library and gathered in Arrow, a batch at a time: over 100,000 pairs of
real text a second. The columnar readers, two to four times as fast, were tried and do not suit files that people wrote:
pyarrow's for JSON (26.0) kills the process when the first line reads `null`, polars' (2.1) turns the number 3 into the
text "3", pyarrow's for CSV merges records where quotation marks are not closed.

TSV has no quotation: a quotation mark is part of the text. A cell that is quoted as in CSV all the same is a bad row.
"""

import codecs
import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from conan_embed.errors import UserError
from conan_embed.texts.cells import EXPECTED, Fault, Kind, convert, describe
from conan_embed.texts.columns import TableSchema, listed

Part = tuple[int, int]
"""Start and stop of a part of a file: rows of Parquet, bytes of JSON lines (the lines that begin there)."""

_BATCH = 4096  # rows decoded at a time: their Python objects live for a moment, what stays is Arrow


@dataclass(frozen=True)
class Rows:
    """The rows of one file, or of a part of it, in the file's own columns.

    Attributes:
        frame: a column for each source, of the type of its kind (`cells.ARROW_TYPES`).
        numbers: int64 [rows], ascending: where each row of `frame` stands in the file (or in the part of it).
        faults: the rows that are not in `frame`, by the same numbers.
        sources: our column -> the file's columns that make it.
        place: number -> "line 7".
        missing: what a cell without a value looks like in this format.
    """

    frame: pl.DataFrame
    numbers: np.ndarray
    faults: dict[int, Fault]
    sources: dict[str, list[str]]
    place: Callable[[int], str] = "row {}".format
    missing: str = "null"


def format_of(path: Path) -> Callable[[Path, TableSchema, Part | None], Rows] | None:
    """Return the function that reads a file like this one, by its name; None for an unknown format."""
    if path.is_dir():
        is_saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
        return _read_saved_dataset if is_saved else None
    return READERS.get(suffix_of(path))


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
                return f"line {number}: {_not_utf8(error)}"
    raise AssertionError(f"{path} is UTF-8")


def _not_utf8(error: UnicodeDecodeError) -> Fault:
    byte = error.object[error.start]
    return Fault("not UTF-8", f"0x{byte:02x} at byte {error.start + 1} of the line", "UTF-8 text")


# ------------------------------------------------------------------------------ Parquet and saved datasets


def _read_parquet(path: Path, schema: TableSchema, part: Part | None) -> Rows:
    sources = schema.sources(path, list(pl.read_parquet_schema(path)))
    rows = pl.scan_parquet(path, glob=False).select(_used(sources))
    start, stop = part or (0, None)
    frame = rows.slice(start, None if stop is None else stop - start).collect()
    return columnar(path, schema, sources, frame, start + 1)


def _read_saved_dataset(path: Path, schema: TableSchema, part: Part | None) -> Rows:
    assert part is None
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
    sources = schema.sources(path, dataset.column_names)
    return columnar(path, schema, sources, dataset.select_columns(_used(sources)).to_polars())


def _used(sources: Mapping[str, list[str]]) -> list[str]:
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
    if kind == "texts":
        inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
        return _target(inner, "text") and (pl.String if inner is dtype else pl.List(pl.String))
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null) or (kind == "name" and dtype.is_integer()):
        return pl.String
    return None


# ------------------------------------------------------------------------------------- decoded, in batches


@dataclass
class _Batches:
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

    def rows(self, sources: dict[str, list[str]], place: Callable[[int], str], missing: str = "null") -> Rows:
        faults = dict(self.faults)
        for name in _used(sources):
            faults = self.misfits.get(name, {}) | faults  # a row's first fault counts
        frame = pl.concat(self.frames, how="diagonal") if self.frames else pl.DataFrame()
        numbers = np.array(self.numbers, dtype=np.int64)
        good = ~np.isin(numbers, list(faults))
        frame = frame.select(_used(sources)).filter(pl.Series(good)) if self.numbers else frame
        return Rows(frame, numbers[good], faults, sources, place, missing)


def _wrong_type(name: str, kind: Kind, value: Any) -> Fault:
    if isinstance(value, Fault):
        return replace(value, column=name)
    found = (
        "an unreadable conversation" if kind == "messages" and isinstance(value, list) else describe(value)
    )
    return Fault("wrong type", found, EXPECTED[kind], name)


# ---------------------------------------------------------------------------------------------------- JSON

JsonRow = dict[str, Any] | Fault


def _read_json(path: Path, schema: TableSchema, part: Part | None) -> Rows:
    gathered = _Batches()
    names: dict[str, None] = {}  # a set in order of appearance
    for numbers, rows in _json_batches(path, part):
        gathered.faults |= {n: row for n, row in zip(numbers, rows, strict=True) if isinstance(row, Fault)}
        good = [n for n in numbers if n not in gathered.faults]
        objects = [row for row in rows if not isinstance(row, Fault)]
        new = dict.fromkeys(itertools.chain.from_iterable(objects))
        names |= new
        kinds = {name: kind for name in new if (kind := schema.kind_of(name))}
        gathered.add(good, {name: (kind, [row.get(name) for row in objects]) for name, kind in kinds.items()})
    sources = schema.sources(path, list(names)) if gathered.numbers else {c.name: [] for c in schema.columns}
    return gathered.rows(sources, "row {}".format if _is_array(path) else partial(_line, path, part))


def _json_batches(path: Path, part: Part | None) -> Iterator[tuple[Sequence[int], list[JsonRow]]]:
    """Yield rows and their numbers."""
    return _array_batches(path) if _is_array(path) else _line_batches(path, part)


def _line(path: Path, part: Part | None, number: int) -> str:
    """Return the place of a line that is counted from the beginning of its part."""
    if part and part[0]:
        with path.open("rb") as file:
            number += file.read(_first_line_at(path, part[0])).count(b"\n")
    return f"line {number}"


def _first_line_at(path: Path, start: int) -> int:
    """Return where the first line begins that begins at byte `start` or after it."""
    if not start:
        return 0
    with path.open("rb") as file:
        file.seek(start - 1)
        file.readline()
        return file.tell()


def _lines(path: Path, part: Part | None) -> Iterator[bytes]:
    if part is None or part[0] == 0:
        with open_text(path) as file:
            yield from file if part is None else _until(file, part[1])
        return
    with path.open("rb") as file:
        file.seek(_first_line_at(path, part[0]))
        yield from _until(file, part[1])


def _until(file: io.BufferedReader, stop: int) -> Iterator[bytes]:
    while file.tell() < stop and (line := file.readline()):
        yield line


def _line_batches(path: Path, part: Part | None) -> Iterator[tuple[Sequence[int], list[JsonRow]]]:
    """Yield line numbers and what stands in those lines, without the blank ones."""
    start = 1
    file = _lines(path, part)
    while lines := list(itertools.islice(file, _BATCH)):
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
    return value if isinstance(value, dict | Fault) else Fault("not an object", describe(value), expected)


def _is_array(path: Path) -> bool:
    if suffix_of(path) != ".json":
        return False
    with open_text(path) as file:
        return file.read(1024).lstrip().startswith(b"[")


def _array_batches(path: Path) -> Iterator[tuple[Sequence[int], list[JsonRow]]]:
    """Yield the elements of the array that a file consists of, numbered from 1."""
    with open_text(path) as file:
        text = file.read().decode()
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


# --------------------------------------------------------------------------------------------- CSV and TSV

Record = list[str] | Fault


def _read_csv(path: Path, schema: TableSchema, part: Part | None) -> Rows:
    assert part is None
    records = _records(path)
    header = _header(path, records)
    sources = schema.sources(path, header)
    kinds = {name: kind for name in _used(sources) if (kind := schema.kind_of(name))}
    parsers = {name: _Parser(kind) for name, kind in kinds.items()}
    gathered = _Batches()
    while batch := list(itertools.islice(records, _BATCH)):
        checked = [(number, _with_fields(record, len(header))) for number, record in batch]
        gathered.faults |= {number: row for number, row in checked if isinstance(row, Fault)}
        good = [(number, row) for number, row in checked if not isinstance(row, Fault)]
        values = {
            name: (kind, parsers[name].parse([row[header.index(name)] for _, row in good]))
            for name, kind in kinds.items()
        }
        gathered.add([number for number, _ in good], values)
    return gathered.rows(sources, "line {}".format, missing="an empty cell")


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    return _tsv_records(path) if suffix_of(path) == ".tsv" else _csv_records(path)


def _header(path: Path, records: Iterator[tuple[int, Record]]) -> list[str]:
    _, header = next(records, (1, []))
    if not header or isinstance(header, Fault):
        raise UserError(
            f"{path}: found {header or 'an empty file'}, expected a header that names the columns."
        )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{path}: line 1: found the column {twice[0]!r} twice, expected each name once.")
    return header


def _with_fields(record: Record, count: int) -> Record:
    if isinstance(record, Fault) or len(record) == count:
        return record
    found = "1 field" if len(record) == 1 else f"{len(record)} fields"
    return Fault("wrong number of fields", found, f"{count} as in the header")


def _tsv_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield each line but empty ones, cut at its tabs, and its number."""
    with io.TextIOWrapper(open_text(path), "utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            cells = line.rstrip("\r\n").split("\t")
            quoted = next((cell for cell in cells if _quoted_as_csv(cell)), None)
            if quoted is not None:
                yield (
                    number,
                    Fault("quoted as in CSV", describe(quoted), "a cell of TSV, which has no quoting"),
                )
            elif line.strip(" \r\n"):
                yield number, cells


def _quoted_as_csv(cell: str) -> bool:
    inner = cell[1:-1]
    return (
        len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    )


def _csv_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield each record but empty lines, or what is wrong with it, and the number of its first line."""
    limit = csv.field_size_limit(2**31 - 1)  # the usual one, 128 KiB, is no length for a text
    try:
        with io.TextIOWrapper(open_text(path), "utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            line = 1
            while True:
                try:
                    record: Record = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    if "end of data" in str(error):  # all that follows went into one field
                        found = "a quotation mark that is never closed"
                        raise UserError(
                            f"{path}: line {line}: found {found}, expected pairs of them."
                        ) from None
                    expected = "quoted fields with inner quotes doubled"
                    record = Fault("broken CSV", f"broken CSV ({error})", expected)
                if isinstance(record, Fault) or "".join(record[:2]).strip() or len(record) > 1:
                    yield line, record
                line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


class _Parser:
    """Turns cells of text into values of a kind; what cannot be turned stays a text, and does not fit its column.

    A column of texts may hold JSON arrays: its first cell that is not empty decides for all, since real texts may look
    like arrays, too. A list of Python strings counts as an array, so that it is refused and not taken for a text.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.holds_arrays: bool | None = True if kind == "messages" else None  # None: not known yet

    def parse(self, cells: Iterable[str]) -> list[Any]:
        values = [cell or None for cell in cells]
        if self.kind in ("number", "binary"):
            return [None if value is None else _parse_number(value) for value in values]
        if self.kind not in ("texts", "messages"):
            return values
        first = next((value for value in values if value is not None), None)
        if self.holds_arrays is None and first is not None:
            self.holds_arrays = re.fullmatch(r"""(?s)\s*\[\s*(["'].*)?\]\s*""", first) is not None
        return (
            [None if value is None else _parse_array(value) for value in values]
            if self.holds_arrays
            else values
        )


def _parse_number(cell: str) -> float | str:
    try:
        return cell if "_" in cell else float(cell)
    except ValueError:
        return cell


def _parse_array(cell: str) -> list[Any] | Fault:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list):
        return value
    return Fault("broken JSON", describe(cell), "a JSON array, as in the column's first cell")


# ----------------------------------------------------------------------------------------------- all formats


def names_in(path: Path) -> list[str]:
    """Return the names of a file's columns (of JSON, those of its first rows)."""
    match suffix_of(path):
        case ".parquet":
            return list(pl.read_parquet_schema(path))
        case ".csv" | ".tsv":
            return _header(path, _records(path))
        case _:
            _, rows = next(_json_batches(path, None), (range(0), []))
            return list(dict.fromkeys(itertools.chain(*(row for row in rows if not isinstance(row, Fault)))))


READERS: Mapping[str, Callable[[Path, TableSchema, Part | None], Rows]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
