"""A user's pairs as the data set that mining reads: checked texts, known positives, and nothing tokenised."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from conan_embed.console import console
from conan_embed.errors import UserError, suggestion
from conan_embed.negatives.table import NegativeTable
from conan_embed.texts.cells import describe, has_text
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStore, TextStoreBuilder
from conan_embed.texts.tasks import RetrievalDataset

if TYPE_CHECKING:
    import datasets


def read_column(pairs: "datasets.Dataset", column: str) -> pl.Series:
    """Return a column of the user's data set, which must be texts."""
    if column not in pairs.column_names:
        near = suggestion(column, pairs.column_names)
        raise UserError(f"pairs: no column {column!r}{near}; found {', '.join(pairs.column_names)}.")
    kind = pairs.features[column]
    if getattr(kind, "dtype", None) not in ("string", "large_string"):
        raise UserError(f"pairs: column {column!r} holds {kind}; expected one text a row.")
    return check_texts(f"pairs: column {column!r}", pairs[column][:])


def check_texts(name: str, values: list[Any]) -> pl.Series:
    """Return texts, each with something to read in it."""
    is_text = np.array([isinstance(value, str) for value in values], bool)
    texts = pl.Series(
        "text", [value if ok else "" for value, ok in zip(values, is_text, strict=True)], dtype=pl.String
    )
    good = texts.to_frame().select(has_text(pl.col("text")))["text"].to_numpy()
    if not good.all():
        row = int(good.argmin())
        raise UserError(f"{name}: row {row} is {describe(values[row])}; expected a text.")
    return texts


def retrieval_dataset(
    name: str, frame: pl.DataFrame, corpus: pl.Series, prompts: tuple[str, str], cache: Path
) -> tuple[RetrievalDataset, TextStore]:
    """Return the pairs as text ids; the store holds no tokens, since the trainer's collator makes them."""
    lists = (
        frame.group_by("anchor", maintain_order=True)
        .agg(pl.col("positive").unique(maintain_order=True))
        .with_row_index("list")
    )
    list_of_row = frame.join(lists, on="anchor", maintain_order="left")["list"].to_numpy()
    builder = TextStoreBuilder()
    query = builder.add(frame["anchor"], prompts[0])
    positive = builder.add(lists["positive"].explode(), prompts[1])
    others = builder.add(corpus, prompts[1])
    store, columns = builder.build(cache, _no_tokens, fingerprint="not tokenised")
    data = RetrievalDataset(
        name,
        columns[query],
        list_of_row.astype(np.int64),
        Ragged.of_lengths(columns[positive], lists["positive"].list.len().to_numpy()),
        Ragged.empty(len(frame)),
        np.unique(np.concatenate([columns[positive], columns[others]])),
        "mined",
        None,
        None,
    )
    return data, store


def rows_with_enough(table: NegativeTable, data: RetrievalDataset, offset: int) -> np.ndarray:
    """Return the queries that have n negatives or more; every row of a data set has the same columns."""
    rows = np.flatnonzero(table.available_Q >= table.num_negatives)
    if len(rows) == 0:
        raise UserError(
            f"per_query: {table.num_negatives} negatives were asked for, but no query has more than "
            f"{table.available_Q.max()} after the first {offset} of {len(data.passages):,} passages; expected a larger "
            "corpus, a smaller mining.offset, a looser mining.max_positive_ratio or a smaller number."
        )
    if len(rows) < len(table):
        console.print(
            f"{data.name}: left out {len(table) - len(rows):,} of {len(table):,} queries, which have fewer than "
            f"{table.num_negatives} negatives."
        )
    return rows


def _no_tokens(texts: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.empty(0, np.int32), np.zeros(len(texts) + 1, np.int64)
