"""Which texts answer a query, put together over rows, data sets and spellings.

Rows of one query are one set of positives: a positive of any of them is never a negative of another. Texts count as the
same if the model reads them alike (`contents`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from conan_embed.console import console
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset


def with_shared_positives(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Put together the positives of equal queries: what answers one of them is no negative of the other.

    Args:
        frame: query: str, positive: list[str], ...; a text is no positive of itself.

    Returns:
        the rows whose query has a positive, with their `list`: u32; and the lists: list: u32, query: str,
        positive: list[str], each text once.
    """
    lists = (
        frame.explode("positive")
        .filter(pl.col("positive") != pl.col("query"))  # a text teaches nothing as an answer to itself
        .group_by("query", maintain_order=True)
        .agg(pl.col("positive").unique(maintain_order=True))
        .with_row_index("list")
    )
    return frame.join(lists.select("query", "list"), on="query", maintain_order="left"), lists


def with_equal_queries_merged(
    dataset: RetrievalDataset, content: np.ndarray, unread: np.ndarray | None = None
) -> RetrievalDataset:
    """Do by content what `with_shared_positives` does by text: queries of the same tokens share their positives.

    Positives of one content are one, and a positive that is read like its query is none; queries without any other are
    left out, and so are lists that no query has. Nothing else changes where equal contents are equal texts.

    Args:
        content: int64, by text id.
        unread: text ids that are no text to the model; as positives they are left out, and as queries.
    """
    unread = np.empty(0, np.int64) if unread is None else unread
    lists = np.unique(dataset.list_Q)  # the others lost their query, which the tokenizer leaves nothing of
    content_L = np.full(len(dataset.positives), -1)
    content_L[dataset.list_Q] = content[dataset.query_Q]
    _, first_L, group_L = np.unique(content_L, return_index=True, return_inverse=True)
    position, values = dataset.positives.rows(lists)
    list_of_value = lists[position]
    first_list = first_L[group_L]  # of each list the first one whose queries are the same
    span = int(content.max(initial=0)) + 1
    _, new = np.unique(first_list[list_of_value] * span + content[values], return_index=True)
    new = np.sort(new[content[values[new]] != content_L[list_of_value[new]]])
    new = new[~np.isin(values[new], unread)]
    new = new[np.argsort(first_list[list_of_value[new]], kind="stable")]
    lengths = np.bincount(first_list[list_of_value[new]], minlength=len(content_L))
    used = np.flatnonzero(lengths)
    number = np.cumsum(lengths > 0) - 1
    rows = np.flatnonzero((lengths[first_list[dataset.list_Q]] > 0) & ~np.isin(dataset.query_Q, unread))
    _, given = dataset.given.rows(rows)
    return replace(
        dataset,
        query_Q=dataset.query_Q[rows],
        list_Q=number[first_list[dataset.list_Q[rows]]],
        positives=Ragged.of_lengths(values[new], lengths[used]),
        given=Ragged.of_lengths(given, dataset.given.lengths[rows]),
    )


def with_answers_elsewhere(sets: Sequence[RetrievalDataset], content: np.ndarray) -> list[RetrievalDataset]:
    """Tell each data set what answers its queries in the others: an answer there is no negative here.

    Args:
        content: int64, by text id.
    """
    contents = [np.unique(content[data.query_Q]) for data in sets]
    queries, count = np.unique(np.concatenate([np.empty(0, np.int64), *contents]), return_counts=True)
    shared = queries[count > 1]
    if not len(shared):
        return list(sets)
    rows = [np.flatnonzero(np.isin(content[data.query_Q], shared)) for data in sets]
    return [
        _with_elsewhere(
            data, [(other, r) for other, r in zip(sets, rows, strict=True) if other is not data], content
        )
        for data in sets
    ]


def _with_elsewhere(
    data: RetrievalDataset, others: Sequence[tuple[RetrievalDataset, np.ndarray]], content: np.ndarray
) -> RetrievalDataset:
    """Note of the `rows` of other data sets those whose query is one of this data set's."""
    queries, lists, positives, count = [], [], [], 0
    for other, rows in others:
        rows = rows[np.isin(content[other.query_Q[rows]], content[data.query_Q])]
        used, number = np.unique(other.list_Q[rows], return_inverse=True)
        queries.append(other.query_Q[rows])
        lists.append(number + count)
        positives.append(Ragged.of_lengths(other.positives.rows(used)[1], other.positives.lengths[used]))
        count += len(used)
    return replace(
        data,
        elsewhere_E=np.concatenate(queries),
        elsewhere_list_E=np.concatenate(lists),
        elsewhere=Ragged.joined(positives),
    )


def without_false_negatives(dataset: RetrievalDataset, store: TextStore) -> RetrievalDataset:
    """Take known positives of a query, and the query's own text, out of its given negatives."""
    if len(dataset.given.values) == 0:
        return dataset
    rows, values = dataset.given.rows(np.arange(len(dataset)))
    wrong = dataset.known_positives(store).contains(rows, values)
    if wrong.any():
        console.print(
            f"{dataset.name}: {int(wrong.sum())} given negatives are known positives of their query; left out."
        )
    lengths = np.bincount(rows[~wrong], minlength=len(dataset))
    return replace(dataset, given=Ragged.of_lengths(values[~wrong], lengths))
