"""PDF and Word files to documents (pypdf, python-docx)."""

import re
from pathlib import Path
from typing import Any

from conan_embed.documents.document import BlockKind, Document, DocumentBuilder
from conan_embed.documents.optional import load_library

_PAGE_NUMBER = re.compile(r"(?im)^\W*(?:page|seite|第)?\s*\d+\s*(?:of|/|页|[|])?\s*(?:共?\s*\d+\s*页?)?\W*$")


class UnreadableError(Exception):
    """A file that cannot be read; the message is the reason, a few words."""


def parse_pdf(file: str, path: Path) -> Document:
    """Read the text of a PDF: sections by its outline where it has one, else by page; `line` is the page.

    Raises:
        UnreadableError: encrypted, damaged, or without text (a scan).
    """
    pypdf = load_library("pypdf", "pypdf", file)
    load_library("logging", "logging", file).getLogger("pypdf").setLevel("CRITICAL")
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("encrypted PDF")
        pages = [page.extract_text() or "" for page in reader.pages]
        outline = _outline(reader, reader.outline)
        metadata = reader.metadata
    except UnreadableError:
        raise
    except Exception as error:  # pypdf raises whatever a damaged file makes it trip over
        raise UnreadableError("damaged PDF") from error
    if sum(map(len, map(str.strip, pages))) < 20 * len(pages) ** 0.5:
        raise UnreadableError("PDF without text (a scan?)")
    title = (metadata.title if metadata else None) or ""
    document = DocumentBuilder(file, " ".join(title.split()))
    for number, text in enumerate(pages, 1):
        _add_page(document, text, number, outline.get(number, []))
    return document.build()


def _outline(reader: Any, entries: Any, depth: int = 1) -> dict[int, list[tuple[int, str]]]:
    """Return level and text of the outline's headings by page."""
    by_page: dict[int, list[tuple[int, str]]] = {}
    for entry in entries:
        if isinstance(entry, list):
            for page, headings in _outline(reader, entry, depth + 1).items():
                by_page.setdefault(page, []).extend(headings)
        elif (page := reader.get_destination_page_number(entry)) is not None:
            by_page.setdefault(page + 1, []).append((depth + 1, str(entry.title)))
    return by_page


def _add_page(document: DocumentBuilder, text: str, page: int, headings: list[tuple[int, str]]) -> None:
    """Add a page's paragraphs, each heading of the outline where its text stands."""
    waiting = list(headings)
    paragraph: list[str] = []
    for line in [*_PAGE_NUMBER.sub("", text).split("\n"), ""]:
        plain = _letters(line)
        level = next((level for level, heading in waiting if plain and _letters(heading) == plain), None)
        if level is None and line.strip():
            paragraph.append(line.strip())
            if not line.rstrip().endswith((".", "。", "：", ":", "!", "！", "?", "？")) or len(line) > 50:
                continue
        document.add("text", _join(paragraph), page)
        paragraph = []
        if level is not None:
            waiting = [(depth, heading) for depth, heading in waiting if _letters(heading) != plain]
            document.add_heading(level, line, page)


def _letters(text: str) -> str:
    return re.sub(r"[\W\d_]+", "", text).lower()


def _join(lines: list[str]) -> str:
    """Join the lines of a paragraph: words cut at the end of a line become whole, Chinese needs no spaces."""
    text = "\n".join(lines)
    text = re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", text)
    text = re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])", "", text)
    return text.replace("\n", " ")


def parse_word(file: str, path: Path) -> Document:
    """Read a Word file: sections by its heading styles; `line` is the number of the paragraph.

    Raises:
        UnreadableError: damaged, or no Word file.
    """
    docx = load_library("docx", "python-docx", file)
    try:
        content = docx.Document(str(path))
    except Exception as error:  # zipfile, lxml and python-docx have errors of their own
        raise UnreadableError("damaged Word file") from error
    document = DocumentBuilder(file, " ".join((content.core_properties.title or "").split()))
    for number, part in enumerate(content.iter_inner_content(), 1):
        style = (getattr(part.style, "name", "") or "").lower()
        heading = re.fullmatch(r"heading (\d)|title", style)
        if heading and hasattr(part, "text"):
            document.add_heading(int(heading[1] or 0) + 1, part.text, number)
        elif hasattr(part, "rows"):
            rows = (" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in part.rows)
            document.add("table", "\n".join(rows), number)
        else:
            kind: BlockKind = "list" if style.startswith("list") else "text"
            document.add(kind, ("- " if kind == "list" else "") + part.text, number)
    return document.build()
