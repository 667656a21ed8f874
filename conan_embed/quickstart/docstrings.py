"""From a docstring to plain words: markup goes, the summary sentence is parted from the rest.

`read_docstring` takes what stands between the triple quotes, in whatever style its author wrote (reST, numpydoc,
Google, Markdown, epydoc), and returns a `Documentation`: the signature, where the docstring begins with one; the
summary, which is the first sentence; and the rest, of which examples in code are left out, since they are long and
say in symbols what the words say already. Everything is a handful of regular expressions over one text: no parser
of any markup is needed to get words that read well, and none would stand the docstrings that people really write.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

# A docstring can be a whole chapter (argparse, numpy.einsum); a passage is cut at a fifth of this anyway.
READ_CHARACTERS = 6_000


@dataclass(frozen=True)
class Documentation:
    """The three parts of a docstring, in plain text; a part that is missing is empty."""

    signature: str
    summary: str
    rest: str


def read_docstring(docstring: str) -> Documentation:
    """Part a raw docstring into signature, summary sentence and rest, all cleaned of markup.

    The summary is the first sentence of the first paragraph that is not a signature, on one line. The rest is
    everything behind it, lines and paragraphs kept. No word of the docstring is in two parts.
    """
    lines = inspect.cleandoc(docstring[:READ_CHARACTERS]).split("\n")
    if len(docstring) > READ_CHARACTERS:
        lines.pop()  # cut in the middle
    text = _without_code("\n".join(lines))
    signature, text = _leading_signature(_LEADING_NOTE.sub("", text))
    first, rest = _first_paragraph(_apply(_LAYOUT, text))
    if first.rstrip().endswith(":") and len(first.split()) <= 3:
        first, rest = _first_paragraph(rest)  # "Note:"
    first = re.sub(r"\s+", " ", _apply(_INLINE, first)).strip()
    first = re.sub(r"^[\w./]+\.py\s*(?:--?|:)\s*", "", first)  # "lib/queue.py -- a queue"
    summary, remainder = _first_sentence(first)
    rest = _tidy(_apply(_INLINE, rest))
    return Documentation(signature, summary, "\n".join(part for part in (remainder, rest) if part))


# Code ------------------------------------------------------------------------------------------------------------

_FENCED = re.compile(r"^[ \t]*(```+|~~~+).*?(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_DOCTEST = re.compile(r"^[ \t]*>>>.*(?:\n[ \t]*\S.*)*", re.MULTILINE)
_CODE_BLOCK = re.compile(
    r"^([ \t]*)\.\. (?:code-block|code|sourcecode|ipython|plot|testcode|parsed-literal|doctest|jupyter-execute)::.*"
    r"(?:\n(?:\1[ \t]+\S.*|[ \t]*(?=\n)))*",
    re.MULTILINE,
)

# A note of MkDocs before the first sentence only leads to other pages.
_LEADING_NOTE = re.compile(r"\A\s*!!![^\n]*\n(?:[ \t]+[^\n]*\n|[ \t]*\n)*")


def _without_code(text: str) -> str:
    text = _FENCED.sub("", text)
    text = _CODE_BLOCK.sub("", text)
    return _DOCTEST.sub("", text)


# Signature -------------------------------------------------------------------------------------------------------

_SIGNATURE = re.compile(
    r"\s*([A-Za-z_][\w.]*\((?:[^()]|\([^()]*\))*\)(?:[ \t]*(?:->|=>)[ \t]*\S.*)?)[ \t]*(?:\n|\Z)"
)


def _leading_signature(text: str) -> tuple[str, str]:
    """Part a signature on the first lines, as functions written in C have it, from the text behind it."""
    signature = ""
    while (match := _SIGNATURE.match(text)) is not None:
        signature = signature or re.sub(r"\s+", " ", match[1])
        text = text[match.end() :].lstrip("\n")
        text = re.sub(r"\A--[ \t]*\n", "", text)
    return signature, text


# Markup ----------------------------------------------------------------------------------------------------------

_Rule = tuple[str, str, str | Callable[[re.Match[str]], str]]
# What every text contains that the rule applies to (most lack it, and looking is fast), pattern, replacement.
_LAYOUT: list[_Rule] = [
    # Headings of numpydoc and reST, rules of tables.
    ("", r"^[ \t]*[-=~^*#+_.:|\"'` ]{3,}$", ""),
    # Notes of a kind keep their kind; an admonition of MkDocs likewise.
    (
        ".. ",
        r"^[ \t]*\.\.[ \t]+(?i:(note|warning|tip|hint|important|caution|danger|attention|seealso|deprecated|todo))::",
        lambda match: "See also:" if match[1].lower() == "seealso" else f"{match[1].capitalize()}:",
    ),
    (
        "!!",
        r"^[ \t]*[!?]{3}\+?[ \t]+(\w+)(?:[ \t]+\"([^\"\n]*)\")?[ \t]*$",
        lambda match: (match[2] or match[1].capitalize()) + ":",
    ),
    # Formulas and footnotes keep their text, every other directive and its options go, as do labels.
    (".. ", r"^[ \t]*\.\.[ \t]+math::", ""),
    ("..", r"^[ \t]*\.\.(?:[ \t]+(?!\[)[^\n]*)?$", ""),
    (
        ":",
        r"^[ \t]*:(?:toctree|nosignatures|include-source|context|members|label|nowrap|template|width|align|alt|scale|"
        r"maxdepth|recursive|show-inheritance|undoc-members|inherited-members|class|name|number-lines|private|exclude-"
        r"members)[\w-]*:(?!`)[^\n]*$",
        "",
    ),
    (".. [", r"^[ \t]*\.\.[ \t]+(\[[^\]\n]+\])", r"\1"),
    # Fields of reST and epydoc: `:param int n: text` and `@param n: text`.
    (":", r"^[ \t]*[:@](?:rtype|type|meta|vartype)\b[^\n:]*:[^\n]*$", ""),
    (
        ":",
        r"^([ \t]*)[:@](?:param|parameter|arg|argument|key|keyword|kwarg|ivar|cvar|var)\b[ \t]+(?:[^\n:]*[ \t])?"
        r"(\*{0,2}\\?\*{0,2}\w+):",
        r"\1\2:",
    ),
    (
        ":",
        r"^([ \t]*)[:@](return|raise|yield|except|warn)s?\b([^\n:]*):",
        lambda match: f"{match[1]}{match[2].capitalize()}s{match[3]}:",
    ),
    # Markdown: quoted admonitions, quotes, headings.
    ("[!", r"^[ \t]*(?:>[ \t]*)?\[!(\w+)\][ \t]*$", lambda match: match[1].capitalize() + ":"),
    ("> ", r"^[ \t]*>[ \t](?=\S)", ""),
    ("# ", r"^[ \t]*#{1,6}[ \t]+(?=\S)", ""),
    # Lines that are nothing but a place to be filled in: `{common_args}`, `%(klass)s`, `<<doc>>`.
    ("", r"^[ \t]*(?:\$?\{+[\w.]*\}+|%\(\w+\)s|<<\w+>>)[.,]?[ \t]*$", ""),
    # A literal block is announced by two colons.
    ("::", r"[ \t]*(?<!:)::[ \t]*$", ":"),
]

_INLINE: list[_Rule] = [
    # A backslash parts a role from letters that follow it: :class:`Path`\\s.
    ("`\\", r"(?<=[\w)\]}.])`\\ ?", "`"),
    # Roles of Sphinx, with and without a title: :func:`~torch.nn.Linear`, :ref:`a title <label>`.
    (":`", r":[A-Za-z][\w:+.-]*:`[~!]?([^`<]+?)\s*<[^`>]*>`", r"\1"),
    (":`~", r":[A-Za-z][\w:+.-]*:`~[\w.]*?(\w+(?:\(\))?)`", r"\1"),
    (":`", r":[A-Za-z][\w:+.-]*:`[~!.]?([^`]+)`", r"\1"),
    ("``", r"``([^`]+?)``", r"\1"),
    # Links: `title <address>`_, [title](address), [`name`], ![picture](address).
    ("`", r"`([^`<\n]+?)\s*<[^`>\n]+>`_{0,2}", r"\1"),
    ("](", r"!\[[^\]\n]*\]\([^)\n]*\)", ""),
    ("](", r"\[`?~?([^\]\[\n`]+)`?\]\([^)\s]*\)", r"\1"),
    ("`]", r"\[`~?!?([^\]\[\n`]+)`\](?:\[[^\]\n]*\])?", r"\1"),
    ("][", r"(?<![\w\])])\[([^\]\[\n]+)\]\[[^\]\[\n]*\]", r"\1"),
    ("`", r"(?<![\w`])`[~!]?(?:\.(?=[A-Z]))?([^`\n]+)`_{0,2}", r"\1"),
    ("{", r"[LC]\{([^{}\n]*)\}", r"\1"),
    ("|", r"(?<!\S)\|\.?([\w.]+)\|", r"\1"),
    ("]_", r"[ \t]?(?<!\w)\[(?:\d+|[A-Z]\w+\d)\]_", ""),
    # Emphasis; a lone star stays, it is a product or *args.
    ("**", r"(?<![\w*])\*\*([^\s*](?:[^*\n]*[^\s*])?)\*\*(?![\w*])", r"\1"),
    ("*", r"(?<![\w*])\*([^\W_](?:[^*\n]*[\w.)])?)\*(?![\w*])", r"\1"),
    (
        "<",
        r"</?(?:Tip|br|p|b|i|em|strong|code|pre|a|img|div|span|sub|sup|ul|li|pt|tf|hfoptions?|frameworkcontent)\b[^<>\n]*>",
        "",
    ),
    ("\\", r"\\([*_`|<>])", r"\1"),
    # Addresses say nothing about what an object does and take tens of tokens.
    ("://", r"<?\b(?:https?|ftp)://[^\s<>)\]]+>?", ""),
    ("@", r"[ \t]?<[\w.+-]+@[\w.-]+>", ""),
]


def _apply(rules: list[_Rule], text: str) -> str:
    for contained, pattern, replacement in rules:
        if contained in text:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


# Summary ---------------------------------------------------------------------------------------------------------

_HEADING = (
    r"(?:Args?|Arguments|Parameters?|Params|Other Parameters|Keyword [Aa]rg(?:ument)?s|Keyword Parameters|Attributes|"
    r"Returns?|Yields?|Raises?|Warns?|Receives|Notes?|Warnings?|See [Aa]lso|References|Methods|Properties|Examples?|"
    r"Example [Uu]sage|Usage|Usage [Ee]xamples?|Shapes?|Inputs?|Outputs?|Todo|TODO)"
)
# What ends the first paragraph besides an empty line: a heading, a field, an item of a list, an indented line.
_PARAGRAPH_END = re.compile(
    rf"\n(?=[ \t]*\n|[ \t]*{_HEADING}[ \t]*:?[ \t]*\n|[ \t]*{_HEADING}:|[ \t]*(?:[-*•+]|\d+[.)])[ \t]|"
    r"[ \t]*\*{0,2}\w+(?: \([^)\n]*\))?[ \t]*:[ \t]|[ \t]*[:@]\w+[^`\n:]*:(?!`)|[ \t]+\S)"
)
_SENTENCE_END = re.compile(r"[.!?](?=[)\"']?(?:\s|$))[)\"']?")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|incl|al|Eq|Eqs|eq|Fig|Sec|Ref|Refs|No|no|Dr|St|ca|w\.r\.t|viz|dim|arg)"
    r"|\b[A-Z]|\.\.)\.$"
)


def _first_paragraph(text: str) -> tuple[str, str]:
    text = text.lstrip()
    end = _PARAGRAPH_END.search(text)
    return (text, "") if end is None else (text[: end.start()], text[end.end() :])


def _first_sentence(paragraph: str) -> tuple[str, str]:
    for match in _SENTENCE_END.finditer(paragraph):
        head, tail = paragraph[: match.end()], paragraph[match.end() :].lstrip()
        if _ABBREVIATION.search(head) or (tail and tail[0].islower()):
            continue
        if head.count("(") <= head.count(")"):
            return head, tail
    return paragraph, ""


# Rest ------------------------------------------------------------------------------------------------------------

# A heading whose section was code, and so has nothing left: it is followed by another heading or by the end.
_EMPTY_SECTION = re.compile(
    rf"^{_HEADING}[ \t]*:?[ \t]*\n+(?={_HEADING}[ \t]*:?[ \t]*$|\Z)|^{_HEADING}[ \t]*:?[ \t]*\Z", re.MULTILINE
)


def _tidy(text: str) -> str:
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r"^ | $", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{2,}", "\n", text).strip("\n")
    while (shorter := _EMPTY_SECTION.sub("", text).strip("\n")) != text:
        text = shorter
    return text
