"""What many documents repeat: copies of whole documents, menus, footers, notices.

A block counts as boilerplate where it stands in at least `MIN_DOCUMENTS` documents and in a `MIN_SHARE` of them, or in
`MANY_DOCUMENTS`, however many there are: such a block tells no document from another. Code and tables may repeat.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from conan_embed.documents.containment import Contained, find_contained

MIN_DOCUMENTS = 5
MIN_SHARE = 0.1
MANY_DOCUMENTS = 100


@dataclass(frozen=True)
class Repeated:
    """Attributes:
    copies: numbers of documents that hold the same blocks as an earlier one, int64, sorted.
    contained: documents that only collect others, or that are there in another format.
    blocks: keys of blocks that are boilerplate, uint64, sorted.
    headings: headings (lower case) that several sections have, with the number of these.
    headings_within: the same within one document: its number and the heading.
    num_documents: without all of these.
    examples: some of the blocks, the most frequent first.
    """

    copies: NDArray[np.int64]
    contained: Contained
    blocks: NDArray[np.uint64]
    headings: dict[str, int]
    headings_within: frozenset[tuple[int, str]]
    num_documents: int
    examples: list[str]

    @property
    def left_out(self) -> NDArray[np.int64]:
        """Numbers of all documents that are not read further."""
        return np.concatenate([self.copies, self.contained.documents])


def find_repeated(files: list[Path]) -> Repeated:
    """Look through the blocks of all batches (see `parsing`), of which only hashes are in memory."""
    blocks = pl.scan_parquet(files)
    whole = pl.concat_str("title", pl.col("headings").list.join("/"), "text", separator="\n")
    content = (
        blocks.group_by("document")
        .agg(pl.len().alias("blocks"), whole.hash().sum().alias("content"))
        .sort("document")
        .collect(engine="streaming")
    )
    is_copy = content.select(pl.struct("blocks", "content").is_first_distinct().not_()).to_series()
    copies = content.filter(is_copy)["document"]
    unique = blocks.filter(~pl.col("document").is_in(copies.implode()))
    contained = find_contained(unique)
    unique = unique.filter(~pl.col("document").is_in(contained.documents))
    num_documents = len(content) - len(copies) - len(contained.documents)
    within = _repeated_headings(unique, "document", "heading").select("document", "heading")
    return Repeated(
        copies=copies.to_numpy(),
        contained=contained,
        blocks=(frequent := _frequent_blocks(unique, num_documents))["key"].sort().to_numpy(),
        headings=dict(_repeated_headings(unique, "heading").iter_rows()),
        headings_within=frozenset(within.rows()),
        num_documents=num_documents,
        examples=frequent.sort("documents", descending=True)["text"].head(10).to_list(),
    )


def _frequent_blocks(blocks: pl.LazyFrame, num_documents: int) -> pl.DataFrame:
    enough = max(MIN_DOCUMENTS, min(MIN_SHARE * num_documents, MANY_DOCUMENTS))
    return (
        blocks.filter(pl.col("kind").is_in(["text", "list"]) & (pl.col("section_kind") != "faq"))
        .group_by("key")
        .agg(pl.col("document").n_unique().alias("documents"), pl.col("text").first().str.slice(0, 120))
        .filter(pl.col("documents") >= enough)
        .collect(engine="streaming")
    )


def _repeated_headings(blocks: pl.LazyFrame, *by: str) -> pl.DataFrame:
    last = pl.col("headings").list.last().str.to_lowercase().alias("heading")
    sections = blocks.select("document", "section", last).drop_nulls().unique()
    return sections.group_by(by).len().filter(pl.col("len") > 1).collect(engine="streaming")
