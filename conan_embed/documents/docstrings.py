"""From a docstring to plain words: griffe parses its sections, the mark-up of what is left goes.

`read_docstring` returns the summary, which is the first sentence, and the rest, from which examples in code are left
out: they are long and say in symbols what the words say already.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import griffe

from conan_embed.documents.sentences import first_sentence

MAX_CHARACTERS = 6_000  # a docstring can be a whole chapter (argparse, numpy.einsum)

_CODE = re.compile(
    r"^[ \t]*(```+|~~~+)(?s:.*?)(?:^[ \t]*\1[ \t]*$|\Z)"  # fenced
    r"|^[ \t]*>>>.*(?:\n[ \t]*\S.*)*"  # doctest
    r"|^([ \t]*)\.\. (?:code-block|code|sourcecode|plot|testcode|doctest)::.*(?:\n(?:\2[ \t]+\S.*|[ \t]*(?=\n)))*",
    re.MULTILINE,
)
_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"^[ \t]*\.\.[ \t]+(note|warning|tip|hint|important|seealso)::", r"\1:"),
        (r"^[ \t]*\.\.(?:[ \t]+(?!\[)[^\n]*)?$", ""),  # other directives, and their labels
        (r"^[ \t]*:[\w-]+:(?!`)[^\n]*$", ""),  # options of directives
        (r"^[ \t]*[-=~^*#+_.:|\"'` ]{3,}$", ""),  # rules below headings and in tables
        (r"[ \t]*(?<!:)::[ \t]*$", ":"),
        (r":[A-Za-z][\w:+.-]*:`[~!]?([^`<]+?)\s*<[^`>]*>`", r"\1"),  # :ref:`title <label>`
        (r":[A-Za-z][\w:+.-]*:`~[\w.]*?(\w+(?:\(\))?)`", r"\1"),  # :func:`~torch.nn.Linear`
        (r":[A-Za-z][\w:+.-]*:`[~!.]?([^`]+)`", r"\1"),
        (r"`([^`<\n]+?)\s*<[^`>\n]+>`_{0,2}", r"\1"),  # `title <address>`_
        (r"!?\[`?~?([^\]\[\n`]+)`?\]\([^)\s]*\)", r"\1"),  # [title](address)
        (r"(?<![\w)\]])\[`?~?([^\]\[\n`]+)`?\](?:\[[^\]\n]*\])", r"\1"),  # [title][label]
        (r"\[`([^`\n]+)`\]", r"\1"),
        (r"``([^`]+?)``|(?<![\w`])`[~!]?\.?([^`\n]+)`_{0,2}", r"\1\2"),
        (r"(?<![\w*])\*\*([^\s*](?:[^*\n]*[^\s*])?)\*\*(?![\w*])", r"\1"),
        (r"(?<![\w*])\*([^\W_](?:[^*\n]*[\w.)])?)\*(?![\w*])", r"\1"),
        (r"</?(?:Tip|br|p|b|i|em|code|pre|a|img|div|span|sub|sup|ul|li)\b[^<>\n]*>", ""),
        (r"\\([*_`|<> ])", r"\1"),
        (r"<?\b(?:https?|ftp)://[^\s<>)\]]+>?", ""),  # says nothing about what an object does
    )
)


@dataclass(frozen=True)
class Documentation:
    """A docstring in plain text: its first sentence, and everything after it."""

    summary: str
    rest: str


def read_docstring(docstring: griffe.Docstring) -> Documentation:
    """Divide a docstring, in whatever style its author wrote, into its first sentence and the rest."""
    parts = [plain_text(part) for part in _parts(docstring)]
    head, *tail = [part for part in parts if part] or [""]
    paragraph, _, more = head.partition("\n\n")
    summary, remainder = first_sentence(re.sub(r"\s+", " ", paragraph))
    rest = "\n".join(part for part in (remainder, more, *tail) if part)
    return Documentation(summary, re.sub(r"\n{2,}", "\n", rest))


def _parts(docstring: griffe.Docstring) -> Iterator[str]:
    if len(docstring.value) > MAX_CHARACTERS:
        docstring = griffe.Docstring(
            docstring.value[:MAX_CHARACTERS].rpartition("\n")[0], parent=docstring.parent
        )
    for section in griffe.parse_auto(docstring):
        yield _text_of(section)


def _text_of(section: griffe.DocstringSection) -> str:
    """Return a section as text: lines of "name: description" for what has names."""
    value = section.value
    match section.kind:
        case griffe.DocstringSectionKind.text | griffe.DocstringSectionKind.deprecated:
            return str(getattr(value, "description", value))
        case griffe.DocstringSectionKind.admonition:
            return f"{section.title or ''}: {value.description}"
        case griffe.DocstringSectionKind.examples:
            return "\n".join(text for kind, text in value if kind is griffe.DocstringSectionKind.text)
    title = section.title or section.kind.value.capitalize()
    items = (f"{getattr(item, 'name', '') or item.annotation or ''}: {item.description}" for item in value)
    return "\n".join([f"{title}:", *(item.removeprefix(": ") for item in items)])


def plain_text(text: str) -> str:
    """Return a text without code blocks and without the mark-up of reStructuredText and Markdown."""
    text = _CODE.sub("", text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"(?m)^ | $", "", re.sub(r"\n\s*\n\s*", "\n\n", text)).strip()
