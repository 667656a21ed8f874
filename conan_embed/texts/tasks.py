"""The tasks of a run as arrays of text ids.

- retrieval: a query, its positives, perhaps negatives, and the passages to mine negatives from;
- classification, turned into retrieval (section 2.2 of the paper): same class positive, other class negative;
- STS: two texts and a score.

Rows of one query are one set of positives: a positive of any of them is never a negative of another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from conan_embed.console import console
from conan_embed.errors import UserError
from conan_embed.recipes.schema import ClassificationData, Data, RetrievalData, StsData
from conan_embed.texts.known_positives import KnownPositives
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.readers import OnBadRow, read_classification, read_corpus, read_retrieval, read_sts
from conan_embed.texts.store import TextStore, TextStoreBuilder, Tokenize


@dataclass(frozen=True)
class RetrievalDataset:
    """One data set of queries; Q queries, L lists of positives.

    Attributes:
        query_Q: text id of each query.
        list_Q: which list of `positives` is the query's own (all members of its class, for classification).
        positives: L lists of text ids.
        given: the file's own negatives, Q lists of text ids (known positives taken out).
        passages: unique text ids to mine negatives from.
        negative_source: where hard negatives come from: mined, given, random or none.
        ranking: folder with rankings made before, or None.
        weight: share of the queries of a step, or None for by size.
    """

    name: str
    query_Q: np.ndarray
    list_Q: np.ndarray
    positives: Ragged
    given: Ragged
    passages: np.ndarray
    negative_source: str
    ranking: str | None
    weight: float | None

    def __len__(self) -> int:
        return len(self.query_Q)

    def known_positives(self, store: TextStore) -> KnownPositives:
        """Return what answers each query: all positives of its list, and its own text."""
        return KnownPositives(self.query_Q, self.list_Q, self.positives, store.content)


@dataclass(frozen=True)
class StsDataset:
    """One data set of graded pairs; P pairs."""

    name: str
    left_P: np.ndarray
    right_P: np.ndarray
    score_P: np.ndarray
    weight: float | None

    def __len__(self) -> int:
        return len(self.left_P)


@dataclass(frozen=True)
class Tasks:
    """All data sets of a run, over one text store."""

    store: TextStore
    retrieval: list[RetrievalDataset]
    sts: list[StsDataset]


def load_tasks(
    data: Data, prompts: dict[str, str], tokenize: Tokenize, *, fingerprint: str, cache: Path
) -> Tasks:
    """Read, check and tokenise every file of a recipe.

    Args:
        data: the recipe's section.
        prompts: of the model, by role (query, passage, sts).
        tokenize, fingerprint, cache: see `TextStoreBuilder.build`.

    Raises:
        UserError: a file that cannot be read or holds a bad row (see readers.py), or a task left empty.
    """
    builder = TextStoreBuilder()
    finish: list[Callable[[list[np.ndarray]], RetrievalDataset | StsDataset]] = []
    for retrieval in data.retrieval:
        finish.append(_collect_retrieval(builder, retrieval, prompts, data.on_bad_row))
    for classification in data.classification:
        finish.append(_collect_classification(builder, classification, prompts, data.on_bad_row))
    for sts in data.sts:
        finish.append(_collect_sts(builder, sts, prompts, data.on_bad_row))
    store, columns = builder.build(cache, tokenize, fingerprint=fingerprint)
    sets = [make(columns) for make in finish]
    retrieval_sets = [
        _without_false_negatives(found, store) for found in sets if isinstance(found, RetrievalDataset)
    ]
    return Tasks(store, retrieval_sets, [found for found in sets if isinstance(found, StsDataset)])


def _collect_retrieval(
    builder: TextStoreBuilder, data: RetrievalData, prompts: dict[str, str], on_bad_row: OnBadRow
) -> Callable[[list[np.ndarray]], RetrievalDataset]:
    frame = read_retrieval(data.path, data.columns, on_bad_row=on_bad_row)
    frame = frame.head(data.limit) if data.limit else frame
    rows = len(frame)
    frame, lists = with_shared_positives(frame)
    if len(frame) < rows:
        console.print(
            f"{data.path}: left out {rows - len(frame)} queries whose only positive is their own text."
        )
    if frame.is_empty():
        raise UserError(
            f"{data.path}: each query is its own only positive, expected positives that are other texts."
        )
    list_of_query = frame["list"].to_numpy()
    queries = builder.add(frame["query"], prompts["query"])
    positives = builder.add(lists["positive"].explode(), prompts["passage"])
    given = builder.add(frame["negative"].explode().drop_nulls(), prompts["passage"])
    corpus = None
    if data.corpus is not None and data.negative_source in ("mined", "random"):
        passages = _read_corpus(data, lists["positive"].explode(), on_bad_row)
        corpus = builder.add(passages, prompts["passage"])
    positive_counts = lists["positive"].list.len().to_numpy()
    given_counts = frame["negative"].list.len().to_numpy()

    def make(columns: list[np.ndarray]) -> RetrievalDataset:
        pool = (
            [columns[positives], columns[given]] if corpus is None else [columns[corpus], columns[positives]]
        )
        return RetrievalDataset(
            data.name,
            columns[queries],
            list_of_query.astype(np.int64),
            Ragged.of_lengths(columns[positives], positive_counts),
            Ragged.of_lengths(columns[given], given_counts),
            np.unique(np.concatenate(pool)),
            data.negative_source,
            data.ranking,
            data.weight,
        )

    return make


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


def _read_corpus(data: RetrievalData, positives: pl.Series, on_bad_row: OnBadRow) -> pl.Series:
    """Read the passages as the positives are written: with their titles before them, or without.

    A positive "text" beside a passage "title, text" would not be recognised, and be mined as a negative of its query.
    """
    assert data.corpus is not None
    with_title = read_corpus(data.corpus, data.corpus_columns, on_bad_row=on_bad_row)["text"]
    if "title" in data.corpus_columns:
        return with_title
    known = positives.unique()
    plain = read_corpus(data.corpus, {**data.corpus_columns, "title": []}, on_bad_row=on_bad_row)["text"]
    return (
        plain if known.is_in(plain.implode()).sum() > known.is_in(with_title.implode()).sum() else with_title
    )


def _collect_classification(
    builder: TextStoreBuilder, data: ClassificationData, prompts: dict[str, str], on_bad_row: OnBadRow
) -> Callable[[list[np.ndarray]], RetrievalDataset]:
    frame = read_classification(data.path, data.columns, on_bad_row=on_bad_row)
    frame = frame.head(data.limit) if data.limit else frame
    frame = frame.unique("text", keep="first", maintain_order=True)
    sizes = frame["label"].value_counts()
    lonely = sizes.filter(pl.col("count") < 2)["label"].to_list()
    if lonely:
        console.print(
            f"{data.path}: left out {len(lonely)} classes with a single text, for instance {lonely[0]!r}."
        )
        frame = frame.filter(~pl.col("label").is_in(lonely))
    if frame["label"].n_unique() < 2:
        raise UserError(
            f"{data.path}: found {frame['label'].n_unique()} class of two texts or more, expected at least 2."
        )
    class_of_text = frame["label"].rank("dense").to_numpy().astype(np.int64) - 1
    # Both sides of a pair are of one kind, so they share the prompt of symmetric tasks.
    texts = builder.add(frame["text"], prompts["sts"])

    def make(columns: list[np.ndarray]) -> RetrievalDataset:
        order = np.argsort(class_of_text, kind="stable")
        return RetrievalDataset(
            data.name,
            columns[texts],
            class_of_text,
            Ragged.of_lengths(columns[texts][order], np.bincount(class_of_text)),
            Ragged.empty(len(frame)),
            np.unique(columns[texts]),
            data.negative_source,
            None,
            data.weight,
        )

    return make


def _collect_sts(
    builder: TextStoreBuilder, data: StsData, prompts: dict[str, str], on_bad_row: OnBadRow
) -> Callable[[list[np.ndarray]], StsDataset]:
    frame = read_sts(data.path, data.columns, on_bad_row=on_bad_row)
    frame = frame.head(data.limit) if data.limit else frame
    left, right = builder.add(frame["text_a"], prompts["sts"]), builder.add(frame["text_b"], prompts["sts"])
    score = frame["score"].to_numpy()
    return lambda columns: StsDataset(data.name, columns[left], columns[right], score, data.weight)


def _without_false_negatives(found: RetrievalDataset, store: TextStore) -> RetrievalDataset:
    """Take known positives of a query, and the query's own text, out of its given negatives."""
    if len(found.given.values) == 0:
        return found
    rows, values = found.given.rows(np.arange(len(found)))
    wrong = found.known_positives(store).contains(rows, values)
    if wrong.any():
        console.print(
            f"{found.name}: {int(wrong.sum())} given negatives are known positives of their query; left out."
        )
    kept = Ragged.of_lengths(values[~wrong], np.bincount(rows[~wrong], minlength=len(found)))
    return replace(found, given=kept)
