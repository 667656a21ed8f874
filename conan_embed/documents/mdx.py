"""MDX to Markdown: what only a web site's build needs goes, what a reader sees stays, every line in its place.

Imports and exports, comments in braces, expressions, and the tags of components are taken out; of a component stay its
children and what its `title`, `label` or `summary` shows. Code, fenced or in backticks, and formulas are left alone.
"""

import re
from collections.abc import Iterator

_CODE = re.compile(
    r"(?m)^[ \t]*(`{3,}|~{3,})[^\n]*\n(?s:.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)"  # fenced
    r"|(`+)(?!`)[^`]+\2"  # in a line
    r"|\$\$[^$]+\$\$|\$(?=\S)[^$\n]*\S\$"  # formulas
)
_MODULE = re.compile(
    r"(?m)^(?:import\s[^\n]*[\"'{]|export\s+(?:const|let|default|function|async|class|[{*]))(?s:.*?)(?=\n[ \t]*\n|\Z)"
)
_STRING = re.compile(r"\{\s*([\"'`])([^\"'`\n]*)\1\s*\}")
_LONGEST = 20_000  # characters of a tag or an expression
_BEGINS = re.compile(r"[<{]")
_TAG = re.compile(r"</?(?:[A-Z][\w.]*|(?=>))")
_SHOWN = re.compile(r"\b(?:title|label|summary)=(?:\"([^\"]*)\"|'([^']*)'|\{[\"']([^\"'}]*)[\"']\})")
_MARK = re.compile(r"(?m)^[ \t]*</[A-Z][\w.]*>[ \t]*$|\{/\*")


def is_mdx(text: str) -> bool:
    """Return whether a Markdown text holds components or comments of MDX, whatever its file's name."""
    return _MARK.search(_CODE.sub("", text)) is not None


def mdx_to_markdown(text: str) -> str:
    """Return an MDX text as Markdown of as many lines."""
    return "".join(part if is_code else _plain(part) for part, is_code in _parts(text))


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    start = 0
    for match in _CODE.finditer(text):
        yield text[start : match.start()], False
        yield match[0], True
        start = match.end()
    yield text[start:], False


def _plain(text: str) -> str:
    text = _MODULE.sub(lambda match: "\n" * match[0].count("\n"), text)
    out: list[str] = []
    position = 0
    while position < len(text):
        start = _next(text, position)
        out.append(text[position:start])
        if start == len(text):
            break
        is_tag = text[start] == "<"
        end = _end(text, start, ">" if is_tag else "}")
        removed = text[start:end]
        if end == start + 1:  # never closed: a sign like any other
            out.append(removed)
        else:
            shown = _shown(removed) if is_tag else _string(removed)
            out.append(shown + "\n" * removed.count("\n"))
        position = end
    return "".join(out)


def _next(text: str, position: int) -> int:
    """Return where the next brace or tag of a component begins."""
    for match in _BEGINS.finditer(text, position):
        at = match.start()
        is_escaped = at > 0 and text[at - 1] == "\\"
        if not is_escaped and (text[at] == "{" or _TAG.match(text, at)):
            return at
    return len(text)


def _end(text: str, start: int, closing: str) -> int:
    """Return where a tag or an expression ends, or the place behind its first sign where it never does."""
    depth, quote = 0, ""
    for position in range(start + 1, min(len(text), start + _LONGEST)):
        letter = text[position]
        if quote:
            quote = "" if letter == quote else quote
        elif closing == ">" and (letter in '"`' or (letter == "'" and text[position - 1] == "=")):
            quote = letter
        elif letter == closing and depth == 0:
            return position + 1
        elif letter in "{}":
            depth += 1 if letter == "{" else -1
    return start + 1


def _shown(tag: str) -> str:
    match = _SHOWN.search(tag)
    return " ".join(next(filter(None, match.groups()), "").split()) if match else ""


def _string(expression: str) -> str:
    match = _STRING.fullmatch(expression)
    return match[2] if match else ""
