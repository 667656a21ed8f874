"""Tables of texts to documents, one per row: JSON lines, CSV, Parquet and what else `texts.readers` reads.

A table with a query (or question, anchor) and a positive (answer, passage, ...) holds pairs: each becomes a document
with one section, the query its heading. A table with a text and no query holds documents, with a title where it has
one.
"""

from collections.abc import Iterator
from pathlib import Path

from conan_embed.documents.document import Block, Document, DocumentBuilder, Section
from conan_embed.documents.plain import parse_plain
from conan_embed.errors import UserError
from conan_embed.texts.columns import RETRIEVAL, Column, TableSchema, listed
from conan_embed.texts.readers import column_names, read_good_rows

_TITLE = Column("title", "text", ("headline", "name", "subject"), required=False, filled=False)
_TEXTS = TableSchema((_TITLE, Column("text", "text", ("content", "body", "passage", "document", "markdown"))))


def parse_table(file: str, path: Path) -> Iterator[Document]:
    """Yield the rows of a table as documents; bad rows (no text, ...) are left out and counted on screen.

    Raises:
        UserError: unreadable; a query without a positive; or neither pairs nor a text among its columns.
    """
    schema = _schema_of(path)
    table = read_good_rows(path, schema, "drop")
    rows = zip(table.numbers.tolist(), table.frame.iter_rows(), strict=True)
    if schema is RETRIEVAL:
        yield from (_pair(file, row, query, positives) for row, (query, positives, _) in rows)
    else:
        yield from (_document(file, row, title or "", text) for row, (title, text) in rows)


def _schema_of(path: Path) -> TableSchema:
    """Return what a table holds; names such as "document" and "passage" mean a positive where there is a query."""
    names = column_names(path)
    query, positive, _ = RETRIEVAL.columns
    with_query = [name for name in names if name in (query.name, *query.aliases)]
    if not with_query:
        return _TEXTS
    # "positive_1", ..., too.
    if not any(RETRIEVAL.kind_of(name) == positive.kind for name in names if name not in with_query):
        raise UserError(
            f"{path}: found the column {with_query[0]!r} without its answers, expected "
            f"{listed([positive.name, *positive.aliases], 'or')} beside it; rename the column that has them, or "
            f"{with_query[0]!r} if the table holds texts."
        )
    return RETRIEVAL


def _pair(file: str, row: int, query: str, positives: list[str]) -> Document:
    sections = (
        Section((query.strip(),), row, (Block("text", text.strip(), row),), "faq") for text in positives
    )
    return Document(f"{file}#{row}", "", tuple(sections))


def _document(file: str, row: int, title: str, text: str) -> Document:
    parsed = parse_plain(file, text)
    if not title.strip():
        return Document(f"{file}#{row}", parsed.title, parsed.sections)
    document = DocumentBuilder(f"{file}#{row}", title.strip())
    if parsed.title and parsed.title != title.strip():
        document.add("text", parsed.title, 1)
    return Document(document.file, document.title, (*document.build().sections, *parsed.sections))
