"""CSV and TSV as rows.

CSV is decoded by the standard library (pyarrow's reader, several times as fast, merges records where quotation marks
are not closed). TSV has no quoting: a quotation mark is part of the text. A cell that is quoted as in CSV is a bad row.
"""

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from conan_embed.errors import UserError
from conan_embed.texts.cells import Fault, Kind, describe
from conan_embed.texts.columns import TableSchema
from conan_embed.texts.rows import BATCH, Batches, Part, Rows, open_text, suffix_of, used

Record = list[str] | Fault


def read_delimited(path: Path, schema: TableSchema, part: Part | None) -> Rows:
    assert part is None
    records = records_in(path)
    header = header_of(path, records)
    sources = schema.sources(path, header)
    kinds = {name: kind for name in used(sources) if (kind := schema.kind_of(name))}
    parsers = {name: _Parser(kind) for name, kind in kinds.items()}
    gathered = Batches()
    while batch := list(itertools.islice(records, BATCH)):
        checked = [(number, _with_fields(record, len(header))) for number, record in batch]
        gathered.faults |= {number: row for number, row in checked if isinstance(row, Fault)}
        good = [(number, row) for number, row in checked if not isinstance(row, Fault)]
        values = {
            name: (kind, parsers[name].parse([row[header.index(name)] for _, row in good]))
            for name, kind in kinds.items()
        }
        gathered.add([number for number, _ in good], values)
    return gathered.rows(sources, "line {}".format, missing="an empty cell")


def records_in(path: Path) -> Iterator[tuple[int, Record]]:
    return _tsv_records(path) if suffix_of(path) == ".tsv" else _csv_records(path)


def header_of(path: Path, records: Iterator[tuple[int, Record]]) -> list[str]:
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

    Lists of numbers are JSON arrays. A column of texts may hold them: its first cell that is not empty decides for all,
    since real texts may look like arrays, too. A list of Python strings counts as an array, so that it is refused and
    not taken for a text.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.holds_arrays: bool | None = None  # not known yet
        if kind in ("messages", "numbers"):
            self.holds_arrays = True

    def parse(self, cells: Iterable[str]) -> list[Any]:
        values = [cell or None for cell in cells]
        if self.kind in ("number", "binary"):
            return [None if value is None else _parse_number(value) for value in values]
        if self.kind not in ("texts", "messages", "numbers"):
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
