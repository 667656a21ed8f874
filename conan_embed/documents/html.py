"""HTML to documents: the main part of a page, without menus, scripts and forms (selectolax, the lexbor parser)."""

import re
from typing import Any

from conan_embed.documents.document import Block, BlockKind, Document, DocumentBuilder
from conan_embed.documents.optional import load_library

_NO_TEXT = "script, style, noscript, template, svg, iframe, form, button, input, select, head > *:not(title):not(meta)"
_AROUND = "nav, header, footer, aside, [role=navigation], [role=banner], [role=contentinfo], [role=search], .headerlink"
_MAIN = ("main", "[role=main]", "article")
_MAIN_SHARE = 0.4  # of a page's text; what has less is a teaser, not the page
_BLOCKS = frozenset(
    """
    address article aside blockquote body center details dd div dl dt fieldset figcaption figure footer form header
    html li main nav ol p pre section summary table td th tr ul h1 h2 h3 h4 h5 h6 hr
    """.split()  # noqa: SIM905
)


def parse_html(file: str, text: str, first_line: int = 1) -> Document:
    """Parse one page. HTML parsers keep no line numbers: every block gets that of the first place with its heading."""
    parser = load_library("selectolax.lexbor", "selectolax", file)
    page = parser.LexborHTMLParser(text)
    document = DocumentBuilder(file, summary=_description(page))
    title = page.css_first("title")
    for node in page.css(_NO_TEXT):
        node.decompose()
    body = _main_part(page)
    if body is None:
        return document.build()
    _Walk(document, _Lines(text, first_line)).blocks(body)
    built = document.build()
    if built.title or title is None:
        return built
    name = _squeeze(title.text(deep=True))
    return Document(file, name, built.sections, built.summary)


def html_text(text: str) -> str:
    """Return the visible text of a piece of HTML inside another format."""
    without_scripts = re.sub(r"(?is)<(script|style)\b.*?</\1>|<!--.*?-->", "", text)
    return re.sub(r"\n\s*\n+", "\n", re.sub(r"<[^>]+>", "", without_scripts)).strip()


def _description(page: Any) -> str:
    node = page.css_first("meta[name=description]")
    return _squeeze(node.attributes.get("content") or "") if node is not None else ""


def _main_part(page: Any) -> Any:
    body = page.body
    if body is None:
        return None
    for node in page.css(_AROUND):
        if not _holds_title(node):
            node.decompose()
    whole = len(body.text(deep=True))
    for selector in _MAIN:
        found = page.css_first(selector)
        if found is not None and len(found.text(deep=True)) >= _MAIN_SHARE * whole:
            return found
    return body


def _holds_title(node: Any) -> bool:
    """Whether a <header> is that of an article, with its title in it."""
    return node.tag == "header" and node.css_first("h1") is not None


class _Lines:
    """Where headings stand in the source, in order; good enough to open the file at the right place."""

    def __init__(self, text: str, first_line: int) -> None:
        starts = [match.start() for match in re.finditer(r"(?i)<h[1-6]\b", text)]
        self._lines, line, end = [], first_line, 0
        for start in starts:
            line += text.count("\n", end, start)
            end = start
            self._lines.append((line, re.sub(r"<[^>]+>", "", text[start : start + 400])))
        self._next = 0

    def find(self, heading: str) -> int | None:
        wanted = heading[:20]
        for index in range(self._next, len(self._lines)):
            if wanted in " ".join(self._lines[index][1].split()):
                self._next = index + 1
                return self._lines[index][0]
        return None


class _Walk:
    def __init__(self, document: DocumentBuilder, lines: _Lines) -> None:
        self.document, self.lines, self.line = document, lines, 1

    def blocks(self, node: Any) -> None:
        """Add the blocks below `node`; text between them is a paragraph."""
        pending: list[str] = []
        for child in node.iter(include_text=True):
            tag = child.tag
            if tag not in _BLOCKS or tag == "hr":
                pending.append(_text(child))
                continue
            self._paragraph(pending)
            self._block(child, tag)
        self._paragraph(pending)

    def _paragraph(self, pending: list[str]) -> None:
        text = _tidy("".join(pending))
        pending.clear()
        self.document.add("text", text, self.line)

    def _block(self, node: Any, tag: str) -> None:
        if re.fullmatch("h[1-6]", tag):
            text = _squeeze(_text(node)).rstrip("¶# ")
            self.line = self.lines.find(text) or self.line
            self.document.add_heading(int(tag[1]), text, self.line)
        elif tag == "dl" and not node.css_first("h1, h2, h3, h4, h5, h6"):
            self._definitions(node)
        elif tag in ("pre", "ul", "ol", "table") and not node.css_first("h1, h2, h3, h4, h5, h6"):
            self.document.add(*_whole(node, tag), self.line)
        elif tag == "p" or (tag in ("dt", "summary") and not node.css_first("*")):
            self.document.add("text", _tidy(_text(node)), self.line)
        else:
            self.blocks(node)

    def _definitions(self, node: Any) -> None:
        term = ""
        for child in node.iter():
            if child.tag == "dt":
                term = _squeeze(_text(child)).rstrip("¶# ")
            elif child.tag == "dd":
                inner = DocumentBuilder("")
                _Walk(inner, self.lines).blocks(child)
                blocks = [block for section in inner.build().sections for block in section.blocks]
                moved = [Block(block.kind, block.text, self.line) for block in blocks]
                self.document.add_definition(term, moved, self.line)


def _whole(node: Any, tag: str) -> tuple[BlockKind, str]:
    if tag == "pre":
        return "code", node.text(deep=True)
    if tag == "table":
        rows = [[_squeeze(_text(cell)) for cell in row.css("th, td")] for row in node.css("tr")]
        if max(map(len, rows), default=0) < 2:  # a table for layout
            return "text", _tidy("\n".join(cell for row in rows for cell in row))
        return "table", "\n".join(" | ".join(row) for row in rows if any(row))
    return "list", "\n".join(_items(node, tag))


def _items(node: Any, tag: str) -> list[str]:
    lines: list[str] = []
    for number, item in enumerate((child for child in node.iter() if child.tag == "li"), 1):
        mark = f"{number}. " if tag == "ol" else "- "
        own, nested = [], []
        for child in item.iter(include_text=True):
            if child.tag in ("ul", "ol"):
                nested += _items(child, child.tag)
            else:
                own.append(_text(child) + ("\n" if child.tag in _BLOCKS else ""))
        first, *others = [line for line in _tidy("".join(own)).split("\n") if line] or [""]
        lines += [f"{mark}{first}", *(f"  {line}" for line in [*others, *nested])]
    return lines


def _text(node: Any) -> str:
    if node.tag == "-text":
        return re.sub(r"\s+", " ", node.text_content or "")
    if node.tag == "br":
        return "\n"
    if node.tag in ("img", "-comment"):
        return ""
    if node.tag in ("pre", "code"):
        return node.text(deep=True)
    parts = []
    for child in node.iter(include_text=True):
        parts.append(_text(child) + ("\n" if child.tag in _BLOCKS else ""))
    return "".join(parts)


def _tidy(text: str) -> str:
    return "\n".join(line for line in (_squeeze(line) for line in text.split("\n")) if line)


def _squeeze(text: str) -> str:
    return " ".join(text.split())
