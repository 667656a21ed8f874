"""Documents whose text stands in others: pages that collect other pages, and documents in a second format.

A site's `print.html` repeats every page of it, and manuals lie beside one another as `fs.md` and `fs.html`. Kept, each
passage would be there twice, and all documents would be connected by shared texts, so that none could be held out.
A question with several answers, a row of a table of pairs, is no collection: it may repeat the answers of other rows,
and is a question of its own.

Shapes: D documents, K keys of blocks.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

COLLECTED = 0.95  # of its text stands in smaller documents
MIN_COLLECTED = 3  # of these, each for the most part
SAME_NAME = 0.3  # of the smaller text is in both: formats read not quite alike
MANY_DOCUMENTS = 100  # a block in more of them tells none from another
_FORMATS = (".md", ".markdown", ".mdx", ".rst", ".html", ".htm", ".xhtml", ".docx", ".txt", ".text", ".pdf")
"""The first of them is kept."""


@dataclass(frozen=True)
class Contained:
    """Numbers of documents, int64, sorted, and the name of one of them.

    Attributes:
        collections: documents that only collect others.
        formats: documents that are there in another format, too.
    """

    collections: NDArray[np.int64]
    formats: NDArray[np.int64]
    examples: tuple[str, str]

    @property
    def documents(self) -> NDArray[np.int64]:
        """Numbers of both kinds; no document is of both."""
        return np.concatenate([self.collections, self.formats])


def find_contained(blocks: pl.LazyFrame) -> Contained:
    """Look through blocks: `document`, `file`, `headings`, `section_kind`, `key`, `text`.

    Characters count, and equal blocks of a document once.
    """
    incidence = (
        blocks.group_by("document", "key")
        .agg(
            pl.col("text").str.len_chars().first().alias("size"),
            pl.col("file").first(),
            pl.col("headings").list.last().first().alias("heading"),
            (pl.col("section_kind") == "faq").all().alias("is_answer"),
        )
        .with_columns(
            holders=pl.len().over("key"),
            is_question=(pl.col("is_answer").all() & (pl.col("heading").n_unique() == 1)).over("document"),
        )
        .filter(pl.col("holders") <= MANY_DOCUMENTS)
        .sort("document", "key")
        .collect(engine="streaming")
    )
    overlap = _Overlap.of(incidence)
    collections = overlap.collections()
    formats = overlap.formats(collections)
    names = tuple(overlap.files[rows[0]] if len(rows) else "" for rows in (collections, formats))
    return Contained(overlap.documents[collections], overlap.documents[formats], (names[0], names[1]))


@dataclass(frozen=True)
class _Overlap:
    """Which documents share how much text.

    Attributes:
        documents: int64 [D], their numbers; files: where each is from; size_D: characters.
        held_DK: characters of the blocks that several documents hold.
        question_D: bool, one question with its answers.
        row, column, common: pairs of two documents, and the characters that the first shares with the second.
    """

    documents: NDArray[np.int64]
    files: list[str]
    size_D: NDArray[np.float64]
    held_DK: csr_array
    question_D: NDArray[np.bool_]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    common: NDArray[np.float64]

    @classmethod
    def of(cls, incidence: pl.DataFrame) -> "_Overlap":
        files = incidence.group_by("document", maintain_order=True).agg(pl.col("file", "is_question").first())
        documents = files["document"].to_numpy()
        row = np.searchsorted(documents, incidence["document"].to_numpy())
        size_D = np.bincount(row, incidence["size"].to_numpy(), len(documents)).astype(np.float64)
        shared = (incidence["holders"] > 1).to_numpy()
        key, column = np.unique(incidence["key"].to_numpy()[shared], return_inverse=True)
        characters = incidence["size"].to_numpy()[shared].astype(np.float64)
        held_DK = csr_array((characters, (row[shared], column)), shape=(len(documents), len(key)))
        pairs = (held_DK @ (held_DK > 0).astype(np.float64).T).tocoo()
        others = pairs.row != pairs.col
        return cls(
            documents,
            files["file"].to_list(),
            size_D,
            held_DK,
            files["is_question"].to_numpy(),
            pairs.row[others].astype(np.int64),
            pairs.col[others].astype(np.int64),
            pairs.data[others],
        )

    def collections(self) -> NDArray[np.int64]:
        """Return the rows of documents that only collect others."""
        part = (self.common >= 0.5 * self.size_D[self.column]) & (
            self.size_D[self.column] < 0.5 * self.size_D[self.row]
        )
        parts_D = np.bincount(self.row[part], minlength=len(self.size_D))
        rows = np.flatnonzero((parts_D >= MIN_COLLECTED) & ~self.question_D)
        is_collection = [
            self._covered(int(row), self.column[part & (self.row == row)]) >= COLLECTED * self.size_D[row]
            for row in rows
        ]
        return rows[np.array(is_collection, bool)]

    def _covered(self, row: int, parts: NDArray[np.int64]) -> float:
        in_parts_K = np.asarray(self.held_DK[parts].sum(axis=0)).ravel() > 0
        return float(np.asarray(self.held_DK[[row]].toarray()).ravel()[in_parts_K].sum())

    def formats(self, without: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of documents whose file lies beside another of the same name, in a format that we prefer."""
        # A table is a file of many documents.
        alone = pl.Series(self.files).is_unique().to_numpy().copy()
        alone[without] = False
        stem = pl.Series([str(Path(file).with_suffix("")) for file in self.files]).rank("dense").to_numpy()
        rank = {suffix: position for position, suffix in enumerate(_FORMATS)}
        order = np.array([rank.get(Path(file).suffix.lower(), len(rank)) for file in self.files])
        smaller = np.minimum(self.size_D[self.row], self.size_D[self.column])
        again = (
            (stem[self.row] == stem[self.column])
            & (alone[self.row] & alone[self.column])
            & (order[self.row] > order[self.column])
            & (self.common >= SAME_NAME * smaller)
        )
        return np.unique(self.row[again])
