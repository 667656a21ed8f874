"""Which columns each kind of data has, what other people call them, and how a file's columns become ours."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import polars as pl

from conan_embed.errors import UserError, suggestion

# What a cell holds: a text; a text or a list of texts; a number; a string or integer that stands for a thing.
Kind = Literal["text", "texts", "number", "name"]
ColumnNames = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Column:
    """A column of ours: what its cells hold and what other people call it."""

    name: str
    kind: Kind
    aliases: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True)
class Layout:
    """The columns of one kind of data, with the names that a user gave for some of them."""

    columns: tuple[Column, ...]
    finish: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame  # once the columns are ours
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def with_names(self, columns: ColumnNames) -> "Layout":
        """Return this layout with the file's names (one or several) for some columns of ours.

        Raises:
            UserError: a key is no column of ours.
        """
        ours = [column.name for column in self.columns]
        for name in columns:
            if name not in ours:
                raise UserError(
                    f"columns: found {name!r}, expected {listed(ours, 'or')}{suggestion(name, ours)}."
                )
        return replace(self, named={k: (v,) if isinstance(v, str) else tuple(v) for k, v in columns.items()})

    def kind_of(self, source: str) -> Kind | None:
        """Return what a file's column of this name would hold, None where it could be no column of ours."""
        for column in self.columns:
            if column.name in self.named:
                fits = source in self.named[column.name]
            else:
                fits = source in (column.name, *column.aliases) or bool(_numbered(column, [source]))
            if fits:
                return column.kind
        return None

    def sources(self, path: Path, names: Sequence[str]) -> dict[str, list[str]]:
        """Return, for each column of ours, the columns of the file with these `names` that make it.

        The name that the user gave counts before our own name, and that before the other names. The list is
        empty where the file lacks an optional column.

        Raises:
            UserError: a column is missing, or several could be meant.
        """
        return {column.name: self._sources_of(column, path, names) for column in self.columns}

    def _sources_of(self, column: Column, path: Path, names: Sequence[str]) -> list[str]:
        if column.name in self.named:
            for name in self.named[column.name]:
                if name not in names:
                    raise UserError(
                        f"{path}: found the columns {listed(names)}, "
                        f"expected {name!r} (named for {column.name!r}){suggestion(name, names)}."
                    )
            return list(self.named[column.name])
        if column.name in names:
            return [column.name]
        known = [name for name in column.aliases if name in names]
        if len(known) > 1:
            raise UserError(
                f"{path}: found the columns {listed(known)}, expected one that could be {column.name!r}; "
                f"say which with columns: {{{column.name}: {known[0]}}}."
            )
        known = known or _numbered(column, names)
        if column.required and not known:
            raise UserError(
                f"{path}: found the columns {listed(names)}, "
                f"expected {listed([column.name, *column.aliases], 'or')}{suggestion(column.name, names)}; "
                f"say which it is with columns: {{{column.name}: ...}}."
            )
        return known


def _numbered(column: Column, names: Iterable[str]) -> list[str]:
    """Return the columns `negative_1 ... negative_n` of an n-tuple file, in order of their numbers."""
    if column.kind != "texts":
        return []
    found = [match for name in names if (match := re.fullmatch(rf"{column.name}_(\d+)", name))]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]


# White space, control characters and invisible marks (zero-width space, byte order mark) alone say nothing.
_VISIBLE = r"[^\s\p{Cc}\p{Cf}]"


def has_text(cell: pl.Expr) -> pl.Expr:
    """Return whether a cell of text holds something to read (bool; False for null)."""
    return cell.str.contains(_VISIBLE).fill_null(False)


def _with_title_before_text(frame: pl.DataFrame) -> pl.DataFrame:
    title, text = pl.col("title"), pl.col("text")
    joined = pl.when(has_text(text)).then(title + "\n" + text).otherwise(title)
    is_joined = has_text(title) & ~text.fill_null("").str.starts_with(title)
    return frame.select("doc_id", text=pl.when(is_joined).then(joined).otherwise(text))


RETRIEVAL = Layout(
    (
        Column("query", "text", ("anchor", "question")),
        Column("positive", "texts", ("pos", "answer", "passage", "document", "response", "context")),
        Column("negative", "texts", ("neg",), required=False),
    )
)
STS = Layout(
    (
        Column("text_a", "text", ("sentence1", "sentence_a", "text1")),
        Column("text_b", "text", ("sentence2", "sentence_b", "text2")),
        Column("score", "number", ("label", "similarity_score", "similarity")),
    )
)
CLASSIFICATION = Layout(
    (
        Column("text", "text", ("sentence",)),
        Column("label", "name", ("label_text",)),
    )
)
CORPUS = Layout(
    (
        Column("doc_id", "name", ("_id", "id"), required=False),
        Column("title", "text", required=False),
        Column("text", "text", ("passage", "content")),
    ),
    finish=_with_title_before_text,
)


def listed(names: Iterable[str], conjunction: str = "and") -> str:
    """Return `'a', 'b' and 'c'`, for a sentence."""
    *most, last = [repr(name) for name in names] or ["none"]
    return f"{', '.join(most)} {conjunction} {last}" if most else last
