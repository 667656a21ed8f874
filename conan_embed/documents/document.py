"""A document as every format is read: a title, and sections of blocks under their headings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

BlockKind = Literal["text", "list", "code", "table"]
SectionKind = Literal["section", "faq", "definition", "docstring"]


@dataclass(frozen=True)
class Block:
    """A paragraph, list, piece of code or table.

    Attributes:
        text: readable as it stands: code as written, one line per row of a table with ` | ` between cells.
        line: where it begins in the file, from 1 (the page of a PDF, the row of a table).
    """

    kind: BlockKind
    text: str
    line: int


@dataclass(frozen=True)
class Section:
    """What stands under one heading, down to the next.

    Attributes:
        headings: the path below the document's title, outermost first; empty for what follows the title.
        line: of the heading.
        kind: "faq" where the last heading is a question taken from the text ("Q: ..."), "definition" where it is the
            term of a definition list, "docstring" where it is the name of a Python object, and the document's summary
            the first sentence of its documentation.
    """

    headings: tuple[str, ...]
    line: int
    blocks: tuple[Block, ...]
    kind: SectionKind = "section"


@dataclass(frozen=True)
class Document:
    """One file, or one row of a table of texts.

    Attributes:
        file: as the user named it, below the source that was given.
        title: empty where the document has none.
        summary: a sentence on the whole, from its front matter or meta tags; mostly empty.
    """

    file: str
    title: str
    sections: tuple[Section, ...]
    summary: str = ""


@dataclass
class DocumentBuilder:
    """Collects headings and blocks in the order of the file.

    The first heading is the document's title, unless one was given or text stands before it.
    """

    file: str
    title: str = ""
    summary: str = ""
    sections: list[Section] = field(default_factory=list)
    _path: list[tuple[int, str]] = field(default_factory=list)  # level and text of the headings in force
    _line: int = 1
    _blocks: list[Block] = field(default_factory=list)

    def add_heading(self, level: int, text: str, line: int) -> None:
        """Begin a section under a heading; lower levels stand further out."""
        text = " ".join(text.split())
        if not text:
            return
        self._end_section()
        self._line = line
        outer = [(depth, heading) for depth, heading in self._path if depth < level]
        is_title = not outer and (text == self.title or (not self.title and not self.sections))
        if is_title:
            self.title, self._path = text, []
        else:
            self._path = [*outer, (level, text)]

    def add(self, kind: BlockKind, text: str, line: int) -> None:
        """Add a block to the current section."""
        text = text.strip("\n") if kind == "code" else text.strip()
        if text.strip():
            self._blocks.append(Block(kind, text, line))

    def add_definition(self, term: str, blocks: list[Block], line: int, within: Sequence[str] = ()) -> None:
        """Add a term with its definition as a section of its own, below the current heading.

        Args:
            within: the terms in whose definitions this one stands, outermost first.
        """
        term = " ".join(term.split())
        if term and blocks:
            headings = (*self._headings(), *within, term)
            self.sections.append(Section(headings, line, tuple(blocks), "definition"))

    def build(self) -> Document:
        self._end_section()
        return Document(self.file, self.title, tuple(self.sections), self.summary)

    def _headings(self) -> tuple[str, ...]:
        return tuple(heading for _, heading in self._path)

    def _end_section(self) -> None:
        if self._blocks:
            self.sections.append(Section(self._headings(), self._line, tuple(self._blocks)))
            self._blocks = []
