"""Tables of texts to documents, one per row: JSON lines, CSV, Parquet and what else `texts.readers` reads.

A table with a query (or question, anchor) and a positive (answer, passage, ...) holds pairs: each becomes a document
with one section, the query its heading. A table with a text holds documents, with a title where it has one.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from conan_embed.documents.document import Block, Document, DocumentBuilder, Section
from conan_embed.documents.plain import parse_plain
from conan_embed.errors import UserError
from conan_embed.texts.columns import Column, TableSchema
from conan_embed.texts.readers import read_retrieval, read_table

_TITLE = Column("title", "text", ("headline", "name", "subject"), required=False, filled=False)
_TEXTS = TableSchema((_TITLE, Column("text", "text", ("content", "body", "passage", "document", "markdown"))))


def parse_table(file: str, path: Path) -> Iterator[Document]:
    """Yield the rows of a table as documents; rows without text are left out and counted on screen.

    Raises:
        UserError: unreadable, or neither pairs nor a text among its columns.
    """
    try:
        frame = read_table(path, _TEXTS, on_bad_row="drop")
    except UserError as no_text:
        try:
            pairs = read_retrieval(path, on_bad_row="drop")
        except UserError:
            raise no_text from None
        yield from _pairs(file, pairs)
        return
    for row, (title, text) in enumerate(frame.iter_rows(), 1):
        yield _document(file, row, title or "", text)


def _pairs(file: str, frame: pl.DataFrame) -> Iterator[Document]:
    for row, (query, positives) in enumerate(frame.select("query", "positive").iter_rows(), 1):
        sections = (
            Section((query.strip(),), row, (Block("text", text.strip(), row),), "faq") for text in positives
        )
        yield Document(f"{file}#{row}", "", tuple(sections))


def _document(file: str, row: int, title: str, text: str) -> Document:
    parsed = parse_plain(file, text)
    if not title.strip():
        return Document(f"{file}#{row}", parsed.title, parsed.sections)
    document = DocumentBuilder(f"{file}#{row}", title.strip())
    if parsed.title and parsed.title != title.strip():
        document.add("text", parsed.title, 1)
    return Document(document.file, document.title, (*document.build().sections, *parsed.sections))
