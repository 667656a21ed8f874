"""reStructuredText to documents (docutils); Sphinx's directives and roles are read for their text."""

import re
from collections.abc import Iterator
from typing import Any

from conan_embed.documents.document import Block, BlockKind, Document, DocumentBuilder
from conan_embed.documents.optional import load_library

_DIRECTIVE = re.compile(r"^[ \t]*\.\. (?:\|[^|]+\| )?([A-Za-z][\w:.+-]*)::", re.MULTILINE)
_ROLE = re.compile(r":([A-Za-z][\w:.+-]*):`")
# Directives whose content is settings or names, not text to read.
_NO_TEXT = re.compile(
    r"toctree|auto\w+|index|module|currentmodule|highlight|literalinclude|include|tabularcolumns|sectionauthor"
)
_SETTINGS = {
    "report_level": 5,
    "halt_level": 5,
    "raw_enabled": False,
    "file_insertion_enabled": False,
    "doctitle_xform": False,
    "smart_quotes": False,
    "syntax_highlight": "none",
    "_disable_config": True,
    "warning_stream": False,
}


def parse_rst(file: str, text: str, first_line: int = 1) -> Document:
    """Parse one reStructuredText file; nothing that it includes is read."""
    core = load_library("docutils.core", "docutils", file)
    _register_unknown(text)
    tree = core.publish_doctree(text, settings_overrides=_SETTINGS)
    document = DocumentBuilder(file)
    _add_children(document, tree, depth=1, offset=first_line - 1)
    return document.build()


def _register_unknown(text: str) -> None:
    """Teach docutils the directives and roles of this file that it does not have."""
    from docutils.languages import get_language
    from docutils.parsers.rst import directives, roles
    from docutils.utils import new_document

    english, scratch = get_language("en"), new_document("")
    for name in set(_DIRECTIVE.findall(text)):
        if directives.directive(name, english, scratch)[0] is None:
            directives.register_directive(name, _container(name))
    for name in set(_ROLE.findall(text)):
        if roles.role(name, english, 0, scratch.reporter)[0] is None:
            roles.register_local_role(name, _read_role)


def _container(name: str) -> Any:
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class Container(Directive):
        has_content = True
        optional_arguments = 1
        final_argument_whitespace = True

        def run(self) -> list[nodes.Node]:
            if _NO_TEXT.fullmatch(name):
                return []
            if re.search(r"code|prompt|parsed|doctest|productionlist|math", name):
                return [nodes.literal_block("", "\n".join(self.content))]
            holder = nodes.container()
            first, *others = "".join(self.arguments).split("\n")
            text = [first] if ":" in name else []  # an object that a domain describes: its signature
            text += [line for line in others if not re.match(r"\s*:[\w-]+:", line)]  # no options
            if any(text):
                holder += nodes.paragraph("", "", nodes.Text(" ".join(text)))
            self.state.nested_parse(self.content, self.content_offset, holder)
            return [holder]

    return Container


def _read_role(
    role: str, rawtext: str, text: str, lineno: int, inliner: Any, *rest: Any
) -> tuple[list[Any], list[Any]]:
    """Return what a reader sees of a role: the title before a target, the last part of a name after a tilde."""
    from docutils import nodes

    shown = re.sub(r"\s*<[^<>]*>$", "", text.replace("\x00", ""))
    shown = shown.rpartition(".")[2] if shown.startswith("~") else shown.lstrip("!")
    return [nodes.literal(rawtext, shown)], []


def _add_children(document: DocumentBuilder, parent: Any, *, depth: int, offset: int) -> None:
    from docutils import nodes

    for node in parent.children:
        line = _line(node) + offset
        match node:
            case nodes.section():
                title = node.next_node(nodes.title)
                document.add_heading(depth, title.astext(), max(_line(title) - 1, 1) + offset)
                _add_children(document, node, depth=depth + 1, offset=offset)
            case (
                nodes.title()
                | nodes.comment()
                | nodes.system_message()
                | nodes.target()
                | nodes.substitution_definition()
            ):
                pass
            case nodes.definition_list():
                _add_definitions(document, node, offset)
            case nodes.compound() | nodes.container() | nodes.block_quote() | nodes.Admonition():
                _add_children(document, node, depth=depth, offset=offset)
            case _:
                document.add(*_block(node), line)


def _add_definitions(document: DocumentBuilder, node: Any, offset: int) -> None:
    for item in node.children:
        term, definition = item.children[0].astext(), item.children[-1]
        blocks = [Block(*_block(part), _line(part) + offset) for part in definition.children]
        document.add_definition(term, [block for block in blocks if block.text.strip()], _line(item) + offset)


def _block(node: Any) -> tuple[BlockKind, str]:
    from docutils import nodes

    match node:
        case nodes.literal_block() | nodes.doctest_block() | nodes.math_block():
            return "code", node.astext()
        case nodes.table():
            return "table", "\n".join(_rows(node))
        case nodes.bullet_list() | nodes.enumerated_list() | nodes.field_list() | nodes.option_list():
            return "list", "\n".join(_items(node))
        case nodes.image() | nodes.raw() | nodes.docinfo() | nodes.footnote() | nodes.transition():
            return "text", ""
        case nodes.line_block():
            return "text", node.astext()
        case _:
            return "text", " ".join(node.astext().split())


def _rows(table: Any) -> Iterator[str]:
    from docutils import nodes

    for row in table.findall(nodes.row):
        yield " | ".join(" ".join(entry.astext().split()) for entry in row.children)


def _items(node: Any) -> Iterator[str]:
    from docutils import nodes

    for number, item in enumerate(node.children, 1):
        mark = f"{number}. " if isinstance(node, nodes.enumerated_list) else "- "
        if isinstance(item, nodes.field | nodes.option_list_item):
            mark, item = f"- {item.children[0].astext()}: ", item.children[-1]
        lines: list[str] = []
        for part in item.children:
            lines += _block(part)[1].strip("\n").split("\n")
        first, *others = lines or [""]
        yield from (f"{mark}{first}", *(f"  {line}" for line in others))


def _line(node: Any) -> int:
    """Return the line of a node; docutils knows it of most, else of one inside or around it."""
    inside = (child.line for child in node.findall() if getattr(child, "line", None))
    around = node.parent
    while around is not None and not around.line:
        around = around.parent
    return node.line or next(inside, None) or (around.line if around is not None else 1) or 1
