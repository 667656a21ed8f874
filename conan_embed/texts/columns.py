"""Which columns each kind of table has, what other people call them, and how a file's columns become ours.

Training, evaluation, search and the filter describe their tables with these words, so all of them understand the same
names (`texts/readers.py` reads what a `TableSchema` describes).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from conan_embed.errors import UserError, suggestion
from conan_embed.texts.cells import Kind, has_text

ColumnNames = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Column:
    """A column of ours.

    Attributes:
        name: what we call it.
        kind: what its cells hold (`cells.Kind`).
        aliases: what other people call it.
        required: the file must have it.
        filled: every row must have something in it.
        unique: no value may occur twice.
        beside: the column of texts that a list of numbers stands beside: it is empty, or has a number for each text.
    """

    name: str
    kind: Kind
    aliases: tuple[str, ...] = ()
    required: bool = True
    filled: bool = True
    unique: bool = False
    beside: str | None = None


@dataclass(frozen=True)
class TableSchema:
    """The columns of one kind of table.

    Attributes:
        columns: ours, in their order.
        transform: applied to a table in our columns before its rows are checked.
        named: the file's names that the user gave for some of our columns.
    """

    columns: tuple[Column, ...]
    transform: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def with_names(self, columns: ColumnNames | None) -> "TableSchema":
        """Return this schema with the file's names (one or several) for some columns of ours.

        Raises:
            UserError: a key is no column of ours.
        """
        ours = [column.name for column in self.columns]
        for name in columns or {}:
            if name not in ours:
                raise UserError(
                    f"columns: found {name!r}, expected {listed(ours, 'or')}{suggestion(name, ours)}."
                )
        names = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in (columns or {}).items()}
        return replace(self, named={**self.named, **names})

    def kind_of(self, source: str) -> Kind | None:
        """Return what a file's column of this name would hold, None if it cannot be a column of ours."""
        return next((column.kind for column in self.columns if self._may_be(column, source)), None)

    def _may_be(self, column: Column, source: str) -> bool:
        if column.name in self.named:
            return source in self.named[column.name]
        return source in (column.name, *column.aliases) or bool(_numbered(column, [source]))

    def sources(self, path: Path, names: Sequence[str]) -> dict[str, list[str]]:
        """Return, for each column of ours, the columns of the file with these `names` that make it.

        The name that the user gave counts before our own name, and that before the aliases. The list is empty if the
        file lacks an optional column.

        Raises:
            UserError: a column is missing, or several could be meant.
        """
        return {column.name: self._sources_of(column, path, names) for column in self.columns}

    def _sources_of(self, column: Column, path: Path, names: Sequence[str]) -> list[str]:
        if column.name in self.named:
            return self._named_sources(column, path, names)
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

    def _named_sources(self, column: Column, path: Path, names: Sequence[str]) -> list[str]:
        for name in self.named[column.name]:
            if name not in names:
                raise UserError(
                    f"{path}: found the columns {listed(names)}, "
                    f"expected {name!r} (named for {column.name!r}){suggestion(name, names)}."
                )
        return list(self.named[column.name])


def _numbered(column: Column, names: Iterable[str]) -> list[str]:
    """Return the columns `negative_1 ... negative_n` of an n-tuple file, in order of their numbers."""
    if column.kind != "texts":
        return []
    matches = [match for name in names if (match := re.fullmatch(rf"{column.name}_(\d+)", name))]
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]


def _with_title_before_text(frame: pl.DataFrame) -> pl.DataFrame:
    title, text = pl.col("title"), pl.col("text")
    joined = pl.when(has_text(text)).then(title + "\n" + text).otherwise(title)
    is_joined = has_text(title) & ~text.fill_null("").str.starts_with(title)
    return frame.select("doc_id", text=pl.when(is_joined).then(joined).otherwise(text))


_POSITIVE_NAMES = ("pos", "positives", "answer", "passage", "document", "response", "context")
_NEGATIVE_NAMES = ("neg", "negatives", "hard_negatives")
_QUERY = Column("query", "text", ("anchor", "question"))
_TEXT_A = Column("text_a", "text", ("sentence1", "sentence_a", "text1"))
_TEXT_B = Column("text_b", "text", ("sentence2", "sentence_b", "text2"))
_SCORE_NAMES = ("label", "similarity_score", "similarity")
_TITLE = Column("title", "text", required=False, filled=False)
_DOC_NAMES = ("_id", "id", "corpus-id", "corpus_id")
_QUERY_ID_NAMES = ("_id", "id", "query-id")

RETRIEVAL = TableSchema(
    (
        _QUERY,
        Column("positive", "texts", _POSITIVE_NAMES),
        Column("negative", "texts", _NEGATIVE_NAMES, required=False, filled=False),
    )
)
SCORED_RETRIEVAL = TableSchema(
    (
        *RETRIEVAL.columns,
        Column("positive_score", "numbers", ("pos_scores",), required=False, filled=False, beside="positive"),
        Column("negative_score", "numbers", ("neg_scores",), required=False, filled=False, beside="negative"),
    )
)
"""Queries with a teacher's score for each of their passages, as FlagEmbedding's files have them."""
SCORED_PAIRS = TableSchema(
    (
        _QUERY,
        Column("passage", "text", ("document", "positive", "text", "answer")),
        Column("score", "number", (*_SCORE_NAMES, "relevance")),
    )
)
"""Passages of a query with grades, or with a teacher's scores."""
STS = TableSchema((_TEXT_A, _TEXT_B, Column("score", "number", _SCORE_NAMES)))
CLASSIFICATION = TableSchema(
    (Column("text", "text", ("sentence",)), Column("label", "name", ("label_text",)))
)
CORPUS = TableSchema(
    (
        Column("doc_id", "name", _DOC_NAMES, required=False, filled=False, unique=True),
        _TITLE,
        Column("text", "text", ("passage", "content")),
    ),
    transform=_with_title_before_text,
)
"""Passages to mine from or to search in."""

# Of evaluation alone.
JUDGED_CORPUS = TableSchema(
    (
        Column("doc_id", "name", _DOC_NAMES, unique=True),
        _TITLE,
        Column("text", "text", ("passage", "content"), filled=False),
    )
)
JUDGED_QUERIES = TableSchema(
    (Column("query_id", "name", _QUERY_ID_NAMES, unique=True), Column("text", "text", ("query",)))
)
JUDGEMENTS = TableSchema(
    (
        Column("query_id", "name", _QUERY_ID_NAMES),
        Column("doc_id", "name", _DOC_NAMES),
        Column("score", "number", ("label", "relevance")),
    )
)
RERANKING = TableSchema(
    (
        _QUERY,
        Column("positive", "texts", _POSITIVE_NAMES, filled=False),
        Column("negative", "texts", _NEGATIVE_NAMES, filled=False),
    )
)
LABELLED_PAIRS = TableSchema((_TEXT_A, _TEXT_B, Column("score", "binary", _SCORE_NAMES)))


def listed(names: Iterable[str], conjunction: str = "and") -> str:
    """Return `'a', 'b' and 'c'`, for a sentence."""
    *most, last = [repr(name) for name in names] or ["none"]
    return f"{', '.join(most)} {conjunction} {last}" if most else last
