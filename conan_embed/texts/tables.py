"""What the files of one data set hold, as tables of texts, and the data set that follows once its texts have ids."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from conan_embed.console import console
from conan_embed.errors import UserError
from conan_embed.recipes.data import ClassificationData, RetrievalData, StsData
from conan_embed.texts.columns import (
    CLASSIFICATION,
    CORPUS,
    SCORED_PAIRS,
    SCORED_RETRIEVAL,
    STS,
    ColumnNames,
    TableSchema,
    listed,
)
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.readers import (
    OnBadRow,
    column_names,
    data_files,
    read_classification,
    read_corpus,
    read_retrieval,
    read_scored_retrieval,
    read_sts,
    read_table,
)
from conan_embed.texts.shared_positives import with_equal_queries_merged, with_shared_positives
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset, StsDataset


@dataclass(frozen=True)
class RetrievalTable:
    """What the files of a retrieval data set hold.

    Attributes:
        rows: query: str, negative: list[str], list: u32.
        lists: query: str, positive: list[str].
        corpus: passages to mine from, or None for the data set's own.
        scored: query: str, passage: str, score: f64, graded pairs, or None.
    """

    data: RetrievalData
    rows: pl.DataFrame
    lists: pl.DataFrame
    corpus: pl.Series | None
    scored: pl.DataFrame | None = None

    def columns(self) -> list[tuple[pl.Series, str]]:
        """Return the columns of texts and their roles."""
        corpus = [] if self.corpus is None else [(self.corpus, "passage")]
        return [
            (self.rows["query"], "query"),
            (self.lists["positive"].explode().drop_nulls(), "passage"),
            (self.rows["negative"].explode().drop_nulls(), "passage"),
            *corpus,
            *(
                []
                if self.scored is None
                else [(self.scored["query"], "query"), (self.scored["passage"], "passage")]
            ),
        ]

    def files(self) -> list[tuple[str, TableSchema, ColumnNames]]:
        corpus = [] if self.corpus is None else [(str(self.data.corpus), CORPUS, self.data.corpus_columns)]
        scored = (
            [] if self.data.scores is None else [(self.data.scores, SCORED_PAIRS, self.data.scores_columns)]
        )
        return [(self.data.path, SCORED_RETRIEVAL, self.data.columns), *corpus, *scored]

    def without(self, texts: pl.Series) -> "RetrievalTable":
        bad = pl.element().is_in(texts.implode())
        rows = self.rows.filter(~pl.col("query").is_in(texts.implode()))
        rows = rows.with_columns(pl.col("negative").list.filter(~bad))
        lists = self.lists.with_columns(pl.col("positive").list.filter(~bad))
        corpus = None if self.corpus is None else self.corpus.filter(~self.corpus.is_in(texts.implode()))
        scored = self.scored
        if scored is not None:
            scored = scored.filter(~pl.any_horizontal(pl.col("query", "passage").is_in(texts.implode())))
        return replace(self, rows=rows, lists=lists, corpus=corpus, scored=scored)

    def dataset(self, ids: list[np.ndarray], store: TextStore) -> RetrievalDataset:
        ids, scored = (ids, []) if self.scored is None else (ids[:-2], ids[-2:])
        query_Q, positives, given, *corpus = ids
        pool = [*corpus, positives] if corpus else [positives, given]
        passages = _once_each(np.unique(np.concatenate(pool)), store)
        positives, given = (_with_ids_of(passages, texts, store) for texts in (positives, given))
        dataset = RetrievalDataset(
            self.data.name,
            query_Q,
            self.rows["list"].to_numpy().astype(np.int64),
            Ragged.of_lengths(positives, self.lists["positive"].list.len().to_numpy()),
            Ragged.of_lengths(given, self.rows["negative"].list.len().to_numpy()),
            passages,
            self.data.negative_source,
            self.data.ranking,
            self.data.weight,
        )
        if self.scored is not None:
            dataset = replace(
                dataset,
                scored_query_X=scored[0],
                scored_passage_X=scored[1],
                score_X=self.scored["score"].to_numpy(),
            )
        merged = with_equal_queries_merged(dataset, store.content)
        if len(merged) < len(query_Q):
            console.print(
                f"{self.data.path}: left out {len(query_Q) - len(merged)} queries whose only positive is read like "
                "the query itself."
            )
        if not len(merged):
            raise UserError(
                f"{self.data.path}: each query is its own only positive, expected positives that are other texts."
            )
        return merged


def read_retrieval_table(
    data: RetrievalData, on_bad_row: OnBadRow, *, with_scores: bool = False
) -> RetrievalTable:
    """Read the files of a retrieval data set; scores that stand beside its texts on wish, unless it names a table."""
    with_scores = with_scores and data.scores is None
    read = read_scored_retrieval if with_scores else read_retrieval
    frame = read(data.path, data.columns, on_bad_row=on_bad_row)
    if not with_scores:
        _print_unused_scores(data)
    frame = frame.head(data.limit) if data.limit else frame
    rows, lists = with_shared_positives(frame)
    if len(rows) < len(frame):
        console.print(
            f"{data.path}: left out {len(frame) - len(rows)} queries whose only positive is their own text."
        )
    if rows.is_empty():
        raise UserError(
            f"{data.path}: each query is its own only positive, expected positives that are other texts."
        )
    corpus = None
    if data.corpus is not None and data.negative_source in ("mined", "random"):
        corpus = read_passages(data, lists["positive"].explode(), on_bad_row)
    scored = None
    if data.scores is not None:
        scored = read_table(data.scores, SCORED_PAIRS, data.scores_columns, on_bad_row=on_bad_row)
    elif with_scores:
        # Of texts that the set keeps, so that it has the same texts with the scores and without them.
        kept = pl.concat([lists["positive"].explode(), rows["negative"].explode()])
        scored = pairs_among(scored_pairs(frame), rows["query"], kept)
        scored = None if scored.is_empty() else scored
    return RetrievalTable(data, rows, lists, corpus, scored)


def scored_pairs(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the passages that have a score, of what `read_scored_retrieval` read: query, passage: str, score: f64."""
    sides = [
        frame.filter(pl.col(score).list.len() > 0)
        .select("query", passage=side, score=score)
        .explode("passage", "score")
        for side, score in (("positive", "positive_score"), ("negative", "negative_score"))
    ]
    return pl.concat(sides)


def pairs_among(pairs: pl.DataFrame, queries: pl.Series, passages: pl.Series) -> pl.DataFrame:
    """Return the pairs whose query and passage are among these."""
    return pairs.filter(
        pl.col("query").is_in(queries.implode()) & pl.col("passage").is_in(passages.implode())
    )


def _print_unused_scores(data: RetrievalData) -> None:
    """Print that scores which stand beside the texts are not read."""
    sources = SCORED_RETRIEVAL.with_names(data.columns).sources
    file = data_files(data.path)[0]
    found = sources(file, column_names(file))
    unused = [*found["positive_score"], *found["negative_score"]]
    if unused:
        reason = "teacher.kind: columns would use them"
        if data.scores is not None:
            reason = f"those in {data.scores} count"
        console.print(f"{data.path}: the scores in {listed(unused)} are not used; {reason}.")


def read_passages(data: RetrievalData, positives: pl.Series, on_bad_row: OnBadRow) -> pl.Series:
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


@dataclass(frozen=True)
class ClassificationTable:
    """Labelled texts; `rows` is text: str, label: u32, a row per text and label."""

    data: ClassificationData
    rows: pl.DataFrame

    def columns(self) -> list[tuple[pl.Series, str]]:
        # Both sides of a pair are of one kind, so they share the prompt of symmetric tasks.
        return [(self.rows["text"], "sts")]

    def files(self) -> list[tuple[str, TableSchema, ColumnNames]]:
        return [(self.data.path, CLASSIFICATION, self.data.columns)]

    def without(self, texts: pl.Series) -> "ClassificationTable":
        return replace(self, rows=self.rows.filter(~pl.col("text").is_in(texts.implode())))

    def dataset(self, ids: list[np.ndarray], store: TextStore) -> RetrievalDataset:
        """Return the texts as queries; positives of a text are all texts that share a label with it."""
        labels = self.rows.select("label", content=pl.Series(store.content[ids[0]])).unique(
            maintain_order=True
        )
        texts = labels.group_by("content", maintain_order=True).agg(pl.col("label").sort())
        texts = texts.with_columns(
            id=pl.Series(_once_each(ids[0], store)),
            labels=pl.col("label").list.eval(pl.element().cast(pl.String).str.zfill(10)).list.join(","),
        ).with_columns(list=pl.col("labels").rank("dense") - 1)
        lists = texts.unique("list").sort("list").select("list", "label").explode("label")
        members = texts.select("id", "label").with_row_index("order").explode("label")
        members = lists.join(members, on="label").unique(["list", "id"]).sort("list", "order")
        text_ids = texts["id"].to_numpy()
        return RetrievalDataset(
            self.data.name,
            text_ids,
            texts["list"].to_numpy().astype(np.int64),
            Ragged.of_lengths(members["id"].to_numpy(), np.bincount(members["list"].to_numpy())),
            Ragged.empty(len(texts)),
            np.unique(text_ids),
            self.data.negative_source,
            None,
            self.data.weight,
            has_labels=True,
        )


def read_classification_table(data: ClassificationData, on_bad_row: OnBadRow) -> ClassificationTable:
    frame = read_classification(data.path, data.columns, on_bad_row=on_bad_row)
    frame = frame.head(data.limit) if data.limit else frame
    frame = frame.unique(["text", "label"], keep="first", maintain_order=True)
    sizes = frame["label"].value_counts()
    lonely = sizes.filter(pl.col("count") < 2)["label"].sort().to_list()
    if lonely:
        console.print(
            f"{data.path}: left out {len(lonely)} classes with a single text, for instance {lonely[0]!r}."
        )
        frame = frame.filter(~pl.col("label").is_in(lonely))
    if frame["label"].n_unique() < 2:
        raise UserError(
            f"{data.path}: found {frame['label'].n_unique()} class of two texts or more, expected at least 2."
        )
    several = len(frame) - frame["text"].n_unique()
    if several:
        console.print(f"{data.path}: {several:,} labels are further ones of their text; all of them count.")
    return ClassificationTable(data, frame.with_columns(label=pl.col("label").rank("dense")))


@dataclass(frozen=True)
class StsTable:
    """Graded pairs; `rows` is text_a: str, text_b: str, score: f64."""

    data: StsData
    rows: pl.DataFrame

    def columns(self) -> list[tuple[pl.Series, str]]:
        return [(self.rows["text_a"], "sts"), (self.rows["text_b"], "sts")]

    def files(self) -> list[tuple[str, TableSchema, ColumnNames]]:
        return [(self.data.path, STS, self.data.columns)]

    def without(self, texts: pl.Series) -> "StsTable":
        bad = pl.col("text_a", "text_b").is_in(texts.implode())
        return replace(self, rows=self.rows.filter(~pl.any_horizontal(bad)))

    def dataset(self, ids: list[np.ndarray], store: TextStore) -> StsDataset:
        left_P, right_P = ids
        return StsDataset(self.data.name, left_P, right_P, self.rows["score"].to_numpy(), self.data.weight)


def read_sts_table(data: StsData, on_bad_row: OnBadRow) -> StsTable:
    frame = read_sts(data.path, data.columns, on_bad_row=on_bad_row)
    return StsTable(data, frame.head(data.limit) if data.limit else frame)


def _once_each(text_ids: np.ndarray, store: TextStore) -> np.ndarray:
    """Return of texts that are read alike the first, in their order."""
    return text_ids[np.sort(np.unique(store.content[text_ids], return_index=True)[1])]


def _with_ids_of(passages: np.ndarray, text_ids: np.ndarray, store: TextStore) -> np.ndarray:
    """Return the id of the passage that is read like each text, or else the lowest id of those read alike.

    All of these texts have one prompt. A content under two ids would stand twice in a row of negatives, and a positive
    would not be found among the passages.
    """
    pool = np.concatenate([passages, np.unique(text_ids)])
    contents, first = np.unique(store.content[pool], return_index=True)
    return pool[first[np.searchsorted(contents, store.content[text_ids])]]


Table = RetrievalTable | ClassificationTable | StsTable
