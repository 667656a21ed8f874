"""Markdown to documents: CommonMark with tables, front matter and definition lists (markdown-it-py)."""

import re
import tomllib
from functools import cache
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from conan_embed.documents.document import Block, BlockKind, Document, DocumentBuilder
from conan_embed.documents.html import html_text
from conan_embed.documents.mdx import is_mdx, mdx_to_markdown

_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?)\n\1[ \t]*(?:\n|\Z)", re.DOTALL)
# Lines that only steer a site generator: Hugo and Jekyll short codes, Docusaurus admonitions.
_STEERING = re.compile(r"^[ \t]*(?:\{[{%].*[}%]\}|:::.*|\[TOC\])[ \t]*$", re.MULTILINE)
_ALERT = re.compile(r"^\[!\w+\]\s*")  # > [!NOTE] of GitHub
_ANCHOR = re.compile(r"\s*\{#[\w-]+\}\s*$")  # explicit heading ids
_LABEL = re.compile(r"[*_]*(?:Q|A|Question|Answer|问|答)\d*[*_]*[:：]")  # a dialogue keeps its lines
_HAN = re.compile(r"[\u3000-\u9fff\uff00-\uffef]")


def parse_markdown(file: str, text: str, first_line: int = 1) -> Document:
    """Parse one Markdown text.

    Args:
        first_line: of `text` in its file.
    """
    matter, text, skipped = _front_matter(text)
    document = DocumentBuilder(file, _string(matter, "title"), _string(matter, "description", "summary"))
    mdx = file.lower().endswith(".mdx") or is_mdx(text)
    text = _STEERING.sub("", mdx_to_markdown(text) if mdx else text)
    for node in SyntaxTreeNode(_parser(mdx).parse(text)).children:
        _add(document, node, first_line + skipped)
    return document.build()


@cache
def _parser(mdx: bool) -> MarkdownIt:
    from mdit_py_plugins.deflist import deflist_plugin

    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"]).use(deflist_plugin)
    if mdx:  # whose children of components are indented
        parser.disable("code")
    setattr(parser, "normalizeLink", str)  # noqa: B010  # targets are not shown
    return parser


def _front_matter(text: str) -> tuple[dict[str, Any], str, int]:
    """Return the values before the text, the text behind them, and how many lines they take."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text, 0
    try:
        values = yaml.safe_load(match[2]) if match[1] == "---" else tomllib.loads(match[2])
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError):
        values = None  # the text is worth more than its settings
    return (values if isinstance(values, dict) else {}), text[match.end() :], match[0].count("\n")


def _string(matter: dict[str, Any], *names: str) -> str:
    values = (matter.get(name) for name in names)
    return next((" ".join(value.split()) for value in values if isinstance(value, str)), "")


def _add(document: DocumentBuilder, node: SyntaxTreeNode, offset: int) -> None:
    line = (node.map or (0, 0))[0] + offset
    if node.type == "heading":
        document.add_heading(int(node.tag[1:]), _ANCHOR.sub("", _inline(node)), line)
    elif node.type == "dl":
        _add_definitions(document, node, offset)
    elif node.type == "blockquote":
        for child in node.children:
            _add(document, child, offset)
    else:
        kind, text = _block(node)
        document.add(kind, text, line)


def _add_definitions(document: DocumentBuilder, node: SyntaxTreeNode, offset: int) -> None:
    term, line = "", offset
    for child in node.children:
        if child.type == "dt":
            term, line = _inline(child), (child.map or (0, 0))[0] + offset
        else:
            blocks = [Block(*_block(part), (part.map or (0, 0))[0] + offset) for part in child.children]
            document.add_definition(term, [block for block in blocks if block.text.strip()], line)


def _block(node: SyntaxTreeNode) -> tuple[BlockKind, str]:
    match node.type:
        case "fence" | "code_block":
            return "code", node.content
        case "table":
            return "table", "\n".join(_rows(node))
        case "bullet_list" | "ordered_list":
            return "list", "\n".join(_items(node))
        case "html_block":
            return "text", html_text(node.content)
        case "hr":
            return "text", ""
        case _:
            return "text", _ALERT.sub("", _inline(node))


def _rows(table: SyntaxTreeNode) -> list[str]:
    rows = [row for part in table.children for row in part.children]
    return [" | ".join(_inline(cell).replace("\n", " ") for cell in row.children) for row in rows]


def _items(node: SyntaxTreeNode) -> list[str]:
    lines: list[str] = []
    start = int(node.attrs.get("start", 1))
    for number, item in enumerate(node.children, start):
        mark = f"{number}. " if node.type == "ordered_list" else "- "
        parts: list[str] = []
        for child in item.children:
            if child.type in ("bullet_list", "ordered_list"):
                parts += _items(child)
            else:
                parts += _block(child)[1].strip("\n").split("\n")
        first, *others = parts or [""]
        lines += [f"{mark}{first}", *(f"  {line}" for line in others)]
    return lines


def _inline(node: SyntaxTreeNode) -> str:
    """Return the visible text of a node: link texts without targets, code without marks."""
    parts: list[str] = []
    for child in node.walk():
        match child.type:
            case "text" | "code_inline":
                parts.append(child.content)
            case "softbreak":
                parts.append("\n")
            case "hardbreak":
                parts.append("\n")
            case "html_inline":
                parts.append("\n" if child.content.lower().startswith("<br") else "")
            case "image":
                parts.append("")
    return _unwrap("".join(parts))


def _unwrap(text: str) -> str:
    """Join the lines of a paragraph: no space between Chinese characters."""
    lines = [line.strip() for line in text.split("\n")]
    joined = lines[0]
    for line in lines[1:]:
        touching = joined[-1:] + line[:1]
        between = "" if len(_HAN.findall(touching)) == 2 or not joined or not line else " "
        joined += ("\n" if _LABEL.match(line) else between) + line
    return joined
