"""What a cell may hold, for each kind of column, and how a cell that does not fit is described.

Cells are looked at one by one: what one cell may hold does not depend on any other, so a row is good or bad whatever
part of a file it is read with.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import pyarrow as pa

Kind = Literal["text", "texts", "number", "numbers", "binary", "name", "messages"]
"""A text; a text or a list of texts; a number; a list of numbers; 0 or 1; a string or integer that stands for a thing;
a conversation."""

EXPECTED: Mapping[Kind, str] = {
    "text": "a string",
    "texts": "a string or a list of strings",
    "number": "a number",
    "numbers": "a list of numbers",
    "binary": "a number",
    "name": "a string or an integer",
    "messages": "a list of objects with role and content (or from and value), the content a text",
}
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
ARROW_TYPES: Mapping[Kind, pa.DataType] = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "number": pa.float64(),
    "numbers": pa.list_(pa.float64()),
    "binary": pa.float64(),
    "name": pa.string(),
    "messages": pa.list_(_MESSAGE),
}
# White space, control characters and invisible marks (zero-width space, byte order mark) alone are nothing to read.
_VISIBLE = r"[^\s\p{Cc}\p{Cf}]"


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


def convert(kind: Kind, values: Sequence[Any]) -> tuple[pl.Series, dict[int, Any]]:
    """Bring decoded values into the type of their kind.

    Returns:
        String, List(String), Float64 or List(Struct), null where a value is missing or does not fit; and the values
        that do not fit, by their index.
    """
    cell = _CELLS[kind]
    try:
        array, bad = pa.array([cell(value) for value in values], ARROW_TYPES[kind]), {}
    except (TypeError, UnicodeEncodeError):
        bad = {row: value for row, value in enumerate(values) if not _fits(kind, value)}
        good = [None if row in bad else cell(value) for row, value in enumerate(values)]
        array = pa.array(good, ARROW_TYPES[kind])
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)
    return series, bad


def _fits(kind: Kind, value: Any) -> bool:
    try:
        pa.array([_CELLS[kind](value)], ARROW_TYPES[kind])
    except (TypeError, UnicodeEncodeError):  # another type; a text with half a character
        return False
    return True


def _text(value: Any) -> str | None:
    if value is None or type(value) is str:
        return value
    raise TypeError


def _texts(value: Any) -> list[str] | None:
    if type(value) is str:
        return [value]
    if value is None or (type(value) is list and all(type(text) is str for text in value)):
        return value
    raise TypeError


def _number(value: Any) -> float | None:
    if value is None or type(value) is float:
        return value
    if type(value) is not int:
        raise TypeError
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _numbers(value: Any) -> list[float] | None:
    if value is None:
        return None
    if type(value) is not list or any(number is None for number in value):
        raise TypeError
    return [_number(number) for number in value]  # type: ignore[misc]  # none of them is None


def _name(value: Any) -> str | None:
    return str(value) if type(value) is int else _text(value)


def _messages(value: Any) -> list[dict[str, str]] | None:
    if value is None:
        return None
    if type(value) is not list:
        raise TypeError
    return [_message(message) for message in value]


def _message(message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise TypeError
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if type(role) is not str or not ({"content", "value"} & message.keys()):
        raise TypeError
    if isinstance(content, list):  # OpenAI's parts: text, or something that cannot be part of a text
        content = "\n".join(_text_of_part(part) for part in content)
    return {"role": role, "content": _text(content) or ""}


def _text_of_part(part: Any) -> str:
    if type(part) is str:
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and type(part.get("text")) is str:
        return str(part["text"])
    raise TypeError


_CELLS: Mapping[Kind, Callable[[Any], Any]] = {
    "text": _text,
    "texts": _texts,
    "number": _number,
    "numbers": _numbers,
    "binary": _number,
    "name": _name,
    "messages": _messages,
}


# --------------------------------------------------------------------------------------------- blank texts


def has_text(cell: pl.Expr) -> pl.Expr:
    """Return whether a cell of text holds something to read (bool; False for null)."""
    return cell.str.contains(_VISIBLE).fill_null(False)


def is_blank(text: str) -> bool:
    """Say whether a text holds nothing to read."""
    return not pl.select(has_text(pl.lit(text))).item()


# -------------------------------------------------------------------------------------------- for messages


def describe(value: Any, kind: Kind = "texts") -> str:
    """Return how a value that was found is put into a sentence; of a list, the element that has no place in it."""
    if kind == "numbers" and isinstance(value, list) and value:
        return _describe_numbers(value)
    match value:
        case None:
            return "null"
        case str():
            return _describe_text(value)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {_cut(str(value))}"
        case []:
            return "an empty list"
        case list():
            return _describe_list(value)
        case _:
            return "an object"


def _describe_text(text: str) -> str:
    if not _is_unicode(text):
        return f"half a character (an unpaired surrogate) in the text {_cut(ascii(text))}"
    if not text:
        return "an empty text"
    return (
        f"a text with nothing to read ({_cut(repr(text))})"
        if is_blank(text)
        else f"the text {_cut(repr(text))}"
    )


def _describe_list(values: list[Any]) -> str:
    for number, element in enumerate(values, 1):
        if not isinstance(element, str) or not _is_unicode(element) or is_blank(element):
            return f"{describe(element)} as element {number} of a list"
    return "a list of strings"


def _describe_numbers(values: list[Any]) -> str:
    for number, element in enumerate(values, 1):
        if type(element) not in (int, float) or not math.isfinite(element):
            return f"{describe(element)} as element {number} of a list"
    return "1 number" if len(values) == 1 else f"{len(values)} numbers"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[:length] + "..."
