"""JSON lines and JSON arrays as rows.

Decoded by the standard library and gathered in Arrow, a batch at a time. The columnar readers, two to four times as
fast, were tried and do not suit files that people wrote: pyarrow's (26.0) kills the process when the first line reads
`null`, polars' (2.1) turns the number 3 into the text "3".
"""

import io
import itertools
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from conan_embed.errors import UserError
from conan_embed.texts.cells import Fault, describe
from conan_embed.texts.columns import TableSchema
from conan_embed.texts.rows import BATCH, Batches, Part, Rows, not_utf8, open_text, suffix_of

JsonRow = dict[str, Any] | Fault


def read_json(path: Path, schema: TableSchema, part: Part | None) -> Rows:
    gathered = Batches()
    names: dict[str, None] = {}  # a set in order of appearance
    for numbers, rows in json_batches(path, part):
        gathered.faults |= {n: row for n, row in zip(numbers, rows, strict=True) if isinstance(row, Fault)}
        good = [n for n in numbers if n not in gathered.faults]
        objects = [row for row in rows if not isinstance(row, Fault)]
        new = dict.fromkeys(itertools.chain.from_iterable(objects))
        names |= new
        kinds = {name: kind for name in new if (kind := schema.kind_of(name))}
        gathered.add(good, {name: (kind, [row.get(name) for row in objects]) for name, kind in kinds.items()})
    sources = schema.sources(path, list(names)) if gathered.numbers else {c.name: [] for c in schema.columns}
    return gathered.rows(sources, "row {}".format if _is_array(path) else partial(_line, path, part))


def json_batches(path: Path, part: Part | None) -> Iterator[tuple[Sequence[int], list[JsonRow]]]:
    """Yield rows and their numbers."""
    return _array_batches(path) if _is_array(path) else _line_batches(path, part)


def _line(path: Path, part: Part | None, number: int) -> str:
    """Return the location of a line whose number is counted from the beginning of its part."""
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
    while lines := list(itertools.islice(file, BATCH)):
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
        return not_utf8(error)
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
