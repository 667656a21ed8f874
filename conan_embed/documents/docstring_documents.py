"""Documented Python objects to documents: the name and the documentation, with the first sentence as the query.

Left out is what asks nothing or answers nothing: objects that only point to others, deprecated and internal ones,
summaries that are vague or hold the object's own compound name, which would only be looked up.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from conan_embed.documents.document import Block, Document, Section
from conan_embed.documents.python_packages import Package, PythonObject, read_package

SUMMARY_CHARACTERS = 300
MIN_WORDS = 8  # of documentation beside the name

_WORD = re.compile(r"[^\W\d_]{2,}")
# Words that say nothing about which object is meant: a summary of only these could be anything's.
_VAGUE = frozenset(
    """
    a an and any are as at be been being by can class classes do does either else etc for from function given has
    have here how if in instance instances into is it its just may method methods module new no not of on one only
    or other out over see self should so some such than that the their them then there these they this those to
    under up use used uses using value values via was we when where whether which while will with you your
    return returns returned returning get gets getter set sets setter object objects data name names item items
    all current specified
    """.split()  # noqa: SIM905
)
_BOILERPLATE = re.compile(
    r"(?:see|alias|same|the same as|refer to|equivalent (?:to|of)|synonym|shortcut (?:for|to)|deprecated|obsolete|todo"
    r"|fixme|internal|helper|inherit\w*|overrid\w*|initiali[sz]e (?:self|the (?:instance|object|class))|not implemented"
    r"|abstract method|wrapper (?:for|around)|wraps|like|docstring|copyright|licen[sc]ed?|version \d+|warning|note"
    r"|usage|example|experimental|parameters?$|this (?:class|function|method|module|file|property) (?:is|was|has been)"
    r" (?:deprecated|a wrapper|for internal))\b|.*\b(?:is deprecated|for internal use|backwards? compat)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"%\(\w+\)|\{\w*\}|<<|\$\w")


def parse_package(name: str, package: Package) -> Iterator[Document]:
    """Yield a document for each documented public object of a package.

    Args:
        name: of the source, "python:NAME".
    """
    for thing in read_package(package):
        if is_document(thing):
            yield _document(name, package, thing)


def _document(name: str, package: Package, thing: PythonObject) -> Document:
    """Return an object as a document of one section, whose text begins with its name and its summary."""
    file = _below(package.folder, thing.path) or name
    text = f"{heading(thing)}\n{thing.summary}\n{thing.rest}".rstrip()
    blocks = (Block("text", text, thing.line),)
    summary = thing.summary if is_query(thing) else ""
    return Document(file, "", (Section((thing.name,), thing.line, blocks, "docstring"),), summary)


def _below(folder: Path, file: str) -> str:
    try:
        return Path(file).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return ""


def is_document(thing: PythonObject) -> bool:
    """Return whether an object has enough documentation to be in a corpus: more than its name and a line.

    Objects that only point to another one, deprecated and internal ones, and docstrings that begin in the middle of a
    list of parameters are left out, too.
    """
    summary = thing.summary
    if len(summary) > SUMMARY_CHARACTERS or summary.endswith((":", ",")) or not _WORD.search(summary):
        return False
    if _BOILERPLATE.match(summary) or _PLACEHOLDER.search(summary):
        return False
    return len(_WORD.findall(passage(thing))) >= len(_WORD.findall(heading(thing))) + MIN_WORDS


def is_query(thing: PythonObject) -> bool:
    """Return whether a document's summary is a question worth asking.

    Left out are summaries that are short or vague, those that contain the object's own compound name (which would only
    be looked up), and those that the passage repeats.
    """
    words = [word.lower() for word in _WORD.findall(thing.summary)]
    if len(words) < 4 or len({word for word in words if word not in _VAGUE}) < 3:
        return False
    if sum(map(len, words)) < 0.6 * len(thing.summary):  # formulas, lists of symbols
        return False
    own = thing.name.rpartition(".")[2]
    is_compound = "_" in own or any(letter.isupper() for letter in own[1:])
    if is_compound and re.search(rf"\b{re.escape(own)}\b", thing.summary):
        return False
    return normalised(thing.summary) not in normalised(passage(thing))


def heading(thing: PythonObject) -> str:
    """Return the line that names an object: "class queue.Queue(maxsize=0)"."""
    kind = {"function": "", "method": ""}.get(thing.kind, f"{thing.kind} ")
    return f"{kind}{thing.name}{thing.signature}"


def passage(thing: PythonObject) -> str:
    """Return an object's heading and its documentation without the summary."""
    return f"{heading(thing)}\n{thing.rest}".rstrip()


def normalised(text: str) -> str:
    """Return only the letters and digits of a text, in lower case: what counts when texts are compared."""
    return re.sub(r"[\W_]+", "", text).lower()
