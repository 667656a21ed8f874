"""HTML to documents: the main part of a page, without menus, scripts and forms (selectolax, the lexbor parser)."""

import html
import re
from collections.abc import Iterable, Iterator
from typing import Any

from conan_embed.documents.document import Block, BlockKind, Document, DocumentBuilder
from conan_embed.documents.optional import load_library

_NO_TEXT = (
    "script, style, noscript, template, svg, iframe, button, input, select, textarea, "
    "head > *:not(title):not(meta)"
)
_AROUND = (
    "nav, header, footer, aside, form, [role=navigation], [role=banner], [role=contentinfo], [role=search], "
    ".headerlink"
)
_MAIN = ("main", "[role=main]", "article:not(article article)")
_MAIN_SHARE = 0.4  # of a page's text; what has less is a teaser, not the page
_TEASER_SHARE = 0.25  # of the text of the main part; what has more is a second main part
_BLOCKS = frozenset(
    """
    address article aside blockquote body center details dd div dl dt fieldset figcaption figure footer form header
    html li main nav ol p pre section summary table tbody td tfoot th thead tr ul caption h1 h2 h3 h4 h5 h6 hr
    """.split()  # noqa: SIM905
)
_MARKS = "#¶§🔗\u200b \n"  # what the link of a heading to itself may show
_TAG = re.compile(r"</?[a-zA-Z!?][^>]*>")
_BREAKING_TAG = re.compile(rf"(?i)</?(?:br|{'|'.join(sorted(_BLOCKS))})\b[^>]*>")


def parse_html(file: str, text: str, first_line: int = 1) -> Document:
    """Parse one page. HTML parsers keep no line numbers: every block gets that of the first place with its heading."""
    parser = load_library("selectolax.lexbor", "selectolax", file)
    page = parser.LexborHTMLParser(text)
    document = DocumentBuilder(file, summary=_description(page))
    for node in page.css(_NO_TEXT):
        node.decompose()
    title = page.css_first("title")  # not that of a drawing
    body = _main_part(page)
    if body is None:
        return document.build()
    _Walk(document, _HeadingLines(text, first_line)).blocks(body)
    built = document.build()
    if built.title or title is None:
        return built
    name = _squeeze(title.text(deep=True))
    return Document(file, name, built.sections, built.summary)


def html_text(text: str) -> str:
    """Return the visible text of a piece of HTML inside another format."""
    text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<!--.*?-->", "", text)
    text = _BREAKING_TAG.sub("\n", text)
    return re.sub(r"\n\s*\n+", "\n", html.unescape(_TAG.sub("", text))).strip()


def _description(page: Any) -> str:
    node = page.css_first("meta[name=description i]")
    return _squeeze(node.attributes.get("content") or "") if node is not None else ""


def _main_part(page: Any) -> Any:
    body = page.body
    if body is None:
        return None
    for node in page.css(_AROUND):
        if not _holds_title(node):
            node.decompose()
    whole = _length(body)
    for selector in _MAIN:
        nodes = sorted(page.css(selector), key=_length)
        lengths = [_length(node) for node in nodes]
        if nodes and lengths[-1] >= _MAIN_SHARE * whole:
            return nodes[-1] if max(lengths[:-1], default=0) <= _TEASER_SHARE * lengths[-1] else body
    return body


def _length(node: Any) -> int:
    return len(node.text(deep=True))


def _holds_title(node: Any) -> bool:
    """Whether a <header> is that of an article, or a <form> is around the whole page, with its title in it."""
    return node.tag in ("header", "form") and node.css_first("h1") is not None


class _HeadingLines:
    """Where headings stand in the source, in order; good enough to open the file at the right place."""

    def __init__(self, text: str, first_line: int) -> None:
        starts = [match.start() for match in re.finditer(r"(?i)<h[1-6]\b", text)]
        self._lines, line, end = [], first_line, 0
        for start in starts:
            line += text.count("\n", end, start)
            end = start
            heading = re.split(r"(?i)</h[1-6]\b", text[start : start + 400], maxsplit=1)[0]
            self._lines.append((line, html.unescape(_TAG.sub("", heading))))
        self._next = 0

    def find(self, heading: str) -> int | None:
        wanted = heading[:20]
        for index in range(self._next, len(self._lines)):
            if wanted in " ".join(self._lines[index][1].split()):
                self._next = index + 1
                return self._lines[index][0]
        return None


class _Walk:
    def __init__(self, document: DocumentBuilder, lines: _HeadingLines) -> None:
        self.document, self.lines, self.line = document, lines, 1

    def blocks(self, node: Any) -> None:
        """Add the blocks below `node`; text between them is a paragraph."""
        pending: list[str] = []
        for child in node.iter(include_text=True):
            tag = child.tag
            if tag not in _BLOCKS:
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
            text = _heading(node)
            self.line = self.lines.find(text) or self.line
            self.document.add_heading(int(tag[1]), text, self.line)
        elif tag == "dl" and not node.css_first("h1, h2, h3, h4, h5, h6"):
            self._definitions(node)
        elif tag in ("pre", "ul", "ol", "table") and not node.css_first("h1, h2, h3, h4, h5, h6"):
            for caption in _below(node, ("caption",), ()):
                self.document.add("text", _tidy(_text(caption)), self.line)
            self.document.add(*_whole(node, tag), self.line)
        elif tag == "p" or (tag in ("dt", "summary") and not node.css_first("*")):
            self.document.add("text", _tidy(_text(node)), self.line)
        else:
            self.blocks(node)

    def _definitions(self, node: Any) -> None:
        terms: list[str] = []
        defined = True
        for child in _below(node, ("dt", "dd"), through=("div",)):
            if child.tag == "dt":
                terms = [_heading(child)] if defined else [*terms, _heading(child)]
                defined = False
            else:
                self._definition(", ".join(filter(None, terms)), child)
                defined = True

    def _definition(self, term: str, node: Any) -> None:
        """Add what a <dd> says of its term, then the definitions in it: the methods of a class, say."""
        inner = DocumentBuilder("")
        _Walk(inner, self.lines).blocks(node)
        sections = inner.build().sections
        own = [block for section in sections if section.kind != "definition" for block in section.blocks]
        self.document.add_definition(term, self._moved(own), self.line)
        for section in sections:
            if section.kind == "definition":
                *within, name = (*filter(None, [term]), *section.headings)
                self.document.add_definition(name, self._moved(section.blocks), self.line, within)

    def _moved(self, blocks: Iterable[Block]) -> list[Block]:
        return [Block(block.kind, block.text, self.line) for block in blocks]


def _below(node: Any, tags: tuple[str, ...], through: tuple[str, ...]) -> Iterator[Any]:
    """Yield the children of a node with one of `tags`, also those inside of children whose tag is in `through`."""
    for child in node.iter():
        if child.tag in tags:
            yield child
        elif child.tag in through:
            yield from _below(child, tags, through)


def _whole(node: Any, tag: str) -> tuple[BlockKind, str]:
    if tag == "pre":
        return "code", _code(node)
    if tag == "table":
        rows = [
            [_squeeze(_text(cell)) for cell in _below(row, ("th", "td"), ())] for row in _table_rows(node)
        ]
        if max(map(len, rows), default=0) < 2:  # a table for layout
            return "text", _tidy("\n".join(cell for row in rows for cell in row))
        return "table", "\n".join(" | ".join(row) for row in rows if any(row))
    return "list", "\n".join(_items(node, tag))


def _table_rows(table: Any) -> Iterator[Any]:
    return _below(table, ("tr",), through=("thead", "tbody", "tfoot"))


def _code(node: Any) -> str:
    """Return code as it is shown: some highlighters end its lines by tags only."""
    parts: list[str] = []
    for child in node.iter(include_text=True):
        text = "\n" if child.tag == "br" else child.text_content if child.tag == "-text" else _code(child)
        ends = child.tag in _BLOCKS and not (text or "").endswith("\n")
        parts.append((text or "") + ("\n" if ends else ""))
    return "".join(parts)


def _items(node: Any, tag: str) -> list[str]:
    lines: list[str] = []
    start = node.attributes.get("start") or ""
    number = int(start) if start.isdecimal() else 1
    for item in node.iter(include_text=True):
        if item.tag in ("ul", "ol"):  # between the items of the list that it belongs into
            lines += [f"  {line}" for line in _items(item, item.tag)]
        elif item.tag == "li":
            mark = f"{number}. " if tag == "ol" else "- "
            number += 1
            first, *others = _item(item)
            lines += [f"{mark}{first}", *(f"  {line}" for line in others)]
        else:
            lines += _lines(_text(item))
    return lines


def _item(node: Any) -> list[str]:
    """Return the lines of an item: its own text, then the lists in it."""
    own, nested = [], []
    for child in node.iter(include_text=True):
        if child.tag in ("ul", "ol"):
            nested += _items(child, child.tag)
        else:
            own.append(_text(child) + ("\n" if child.tag in _BLOCKS else ""))
    return [*(_lines("".join(own)) or [""]), *nested]


def _heading(node: Any) -> str:
    """Return a heading without the link to itself, which shows as a mark."""
    for link in node.css("a"):
        if link.text(deep=True).strip(_MARKS) == "":
            link.decompose()
    return re.sub(r"\s#$", "", _squeeze(_text(node)).rstrip("¶\u200b ")).rstrip()


def _text(node: Any) -> str:
    if node.tag == "-text":
        return re.sub(r"\s+", " ", node.text_content or "")
    if node.tag == "br":
        return "\n"
    if node.tag in ("img", "-comment"):
        return ""
    if node.tag in ("pre", "code"):
        return _code(node)
    parts = []
    for child in node.iter(include_text=True):
        parts.append(_text(child) + ("\n" if child.tag in _BLOCKS else ""))
    return "".join(parts)


def _tidy(text: str) -> str:
    return "\n".join(_lines(text))


def _lines(text: str) -> list[str]:
    return [line for line in map(_squeeze, text.split("\n")) if line]


def _squeeze(text: str) -> str:
    return " ".join(text.split())
