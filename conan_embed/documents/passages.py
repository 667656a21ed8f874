"""Sections to passages: blocks together up to a number of tokens, longer ones cut at sentence ends.

A passage never crosses a heading. Code is cut between lines, a table between rows with its header repeated, so that
each part can be read by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import polars as pl
from numpy.typing import NDArray

from conan_embed.documents.document import Block, SectionKind
from conan_embed.documents.sentences import split_sentences

CountTokens = Callable[[Sequence[str]], NDArray[np.integer]]
"""Texts to their numbers of tokens, int [N], special tokens not counted."""

_SECTIONS_AT_ONCE = 2_000


@dataclass(frozen=True)
class StoredSection:
    """A section as `parsing` wrote it, without its boilerplate. Attributes as in `Document` and `Section`."""

    document: int
    file: str
    title: str
    summary: str
    headings: tuple[str, ...]
    kind: SectionKind
    line: int
    is_first: bool  # of its document
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Passage:
    """A part of a section, at most so many tokens long.

    Attributes:
        line: where it begins.
        is_prose: whether it begins with a paragraph, not with code, a list or a table.
    """

    text: str
    line: int
    num_tokens: int
    is_prose: bool = True


@dataclass(frozen=True)
class _Piece:
    text: str
    line: int
    glue: str  # what stands between it and a piece before it
    is_prose: bool = True  # such a piece may stand again at the start of the next passage
    header: str = ""  # of the table it is from, for a passage that begins with it


def estimate_tokens(texts: Sequence[str]) -> NDArray[np.integer]:
    """Return about how many tokens texts have for a usual tokenizer: one a Chinese character, 1.3 a word."""
    column = pl.Series("text", texts, dtype=pl.String)
    han = column.str.count_matches(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")
    words = column.str.count_matches(r"[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{P}]+")
    marks = column.str.count_matches(r"\p{P}")
    return np.ceil((han + words * 1.3 + marks).to_numpy()).astype(np.int64)


def cut_sections(
    sections: Iterable[StoredSection], count: CountTokens, *, max_tokens: int, overlap: int = 0
) -> Iterator[tuple[StoredSection, list[Passage]]]:
    """Yield each section with its passages.

    Args:
        max_tokens: of a passage. Only a single sentence, row or line without a space may be longer; it is cut anywhere.
        overlap: tokens from the end of a passage that the next of the same section repeats, in whole sentences.
    """
    remaining = iter(sections)
    while batch := list(islice(remaining, _SECTIONS_AT_ONCE)):
        sizes = iter(count([block.text for section in batch for block in section.blocks]).tolist())
        sized = [[(block, next(sizes)) for block in section.blocks] for section in batch]
        pieces = [_pieces(blocks, max_tokens) for blocks in sized]
        sizes = iter(count([piece.text for parts in pieces for piece in parts]).tolist())
        for section, parts in zip(batch, pieces, strict=True):
            yield section, _pack([(piece, next(sizes)) for piece in parts], count, max_tokens, overlap)


def _pieces(blocks: list[tuple[Block, int]], max_tokens: int) -> list[_Piece]:
    if sum(size for _, size in blocks) <= max_tokens:
        return [_Piece(block.text, block.line, "\n\n", block.kind == "text") for block, _ in blocks]
    pieces: list[_Piece] = []
    for block, size in blocks:
        whole = _Piece(block.text, block.line, "\n\n", block.kind == "text")
        pieces += [whole] if size <= max_tokens else _cut(block, size, max_tokens)
    return pieces


def _cut(block: Block, size: int, max_tokens: int) -> Iterator[_Piece]:
    lines = [f"{line}\n" for line in block.text.split("\n")]
    parts = split_sentences(block.text, at_lines=True) if block.kind == "text" else lines
    header = parts[0] if block.kind == "table" else ""
    most = max(1, max_tokens * len(block.text) // size)  # characters that are about as many tokens
    glue, line = "\n\n", block.line
    for part in parts:
        for piece in [part] if len(part) <= 2 * most else _cut_anywhere(part, most):
            yield _Piece(piece, line, glue, block.kind == "text", header)
            glue = ""
        line += part.count("\n")


def _cut_anywhere(text: str, most: int) -> Iterator[str]:
    """Cut a text without sentences, at a space where one is near."""
    while len(text) > most:
        end = text.rfind(" ", most // 2, most) + 1 or most
        yield text[:end]
        text = text[end:]
    yield text


def _pack(
    pieces: list[tuple[_Piece, int]], count: CountTokens, max_tokens: int, overlap: int
) -> list[Passage]:
    passages: list[Passage] = []
    current: list[tuple[_Piece, int]] = []
    for piece, size in pieces:
        if current and sum(tokens for _, tokens in current) + size > max_tokens:
            passages.append(_join(current))
            current = _repeated(current, min(overlap, max_tokens - size))
            if not current and piece.header and piece.text != piece.header:
                current = [(_Piece(piece.header, piece.line, ""), int(count([piece.header])[0]))]
        if size > max_tokens:  # far more tokens than its length let expect
            parts = list(_cut_anywhere(piece.text, max(1, len(piece.text) * max_tokens // (2 * size))))
            passages += [Passage(part.strip(), piece.line, max_tokens) for part in parts if part.strip()]
        else:
            current.append((piece, size))
    return [*passages, _join(current)] if current else passages


def _join(pieces: list[tuple[_Piece, int]]) -> Passage:
    text = "".join((piece.glue if number else "") + piece.text for number, (piece, _) in enumerate(pieces))
    return Passage(
        text.strip("\n").rstrip(),
        pieces[0][0].line,
        sum(tokens for _, tokens in pieces),
        pieces[0][0].is_prose,
    )


def _repeated(pieces: list[tuple[_Piece, int]], overlap: int) -> list[tuple[_Piece, int]]:
    kept: list[tuple[_Piece, int]] = []
    for piece, size in reversed(pieces[1:]):
        overlap -= size
        if overlap < 0 or not piece.is_prose:
            break
        kept.insert(0, (piece, size))
    return kept
