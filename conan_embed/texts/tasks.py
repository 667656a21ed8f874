"""The tasks of a run as arrays of text ids.

- retrieval: a query, its positives, perhaps negatives, and the passages to mine negatives from;
- classification, turned into retrieval (section 2.2 of the paper): same class positive, other class negative;
- STS: two texts and a score.

Rows of one query are one set of positives: a positive of any of them is never a negative of another. Texts count as the
same if the model reads them alike (`contents`). Three phases in a row: read the files, build the store, look ids up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from conan_embed.console import console
from conan_embed.errors import UserError
from conan_embed.recipes.data import ClassificationData, Data, RetrievalData, StsData
from conan_embed.texts.columns import (
    CLASSIFICATION,
    CORPUS,
    RETRIEVAL,
    SCORED_PAIRS,
    STS,
    ColumnNames,
    TableSchema,
)
from conan_embed.texts.known_positives import KnownPositives
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.readers import (
    OnBadRow,
    find_text,
    read_classification,
    read_corpus,
    read_retrieval,
    read_sts,
    read_table,
)
from conan_embed.texts.store import CountTokens, StoreInfo, TextStore, TextStoreBuilder, Tokenize


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
        has_labels: classes as positives: no other passage can be an answer that nobody labelled.
        elsewhere_E, elsewhere_list_E, elsewhere: queries of other data sets that are also queries of this one, which of
            the lists answers each there, and these lists (`with_answers_elsewhere`).
        scored_query_X, scored_passage_X, score_X: text ids and scores (float64) of graded pairs; None without any.
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
    has_labels: bool = False
    elsewhere_E: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    elsewhere_list_E: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    elsewhere: Ragged = field(default_factory=lambda: Ragged.empty(0))
    scored_query_X: np.ndarray | None = None
    scored_passage_X: np.ndarray | None = None
    score_X: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.query_Q)

    def known_positives(self, store: TextStore) -> KnownPositives:
        """Return what answers each query, here or in another data set: all positives of its lists, and its own text."""
        return KnownPositives(
            np.concatenate([self.query_Q, self.elsewhere_E]),
            np.concatenate([self.list_Q, self.elsewhere_list_E + len(self.positives)]),
            Ragged.joined([self.positives, self.elsewhere]),
            store.content,
        )


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
    data: Data,
    prompts: dict[str, str],
    tokenize: Tokenize,
    *,
    fingerprint: str,
    cache: Path,
    count_tokens: CountTokens | None = None,
    dataset_prompts: Mapping[str, Mapping[str, str]] | None = None,
) -> Tasks:
    """Read, check and tokenise every file of a recipe.

    Args:
        data: the recipe's section.
        prompts: of the model, by role (query, passage, sts).
        tokenize, fingerprint, cache, count_tokens: see `TextStoreBuilder.build`; with the last it is printed how much
            of the texts is cut off.
        dataset_prompts: of data sets that have their own, by name and role.

    Raises:
        UserError: a file that cannot be read or holds a bad row (see readers.py), a text of which the tokenizer leaves
            nothing, or a task left empty.
    """
    tables: list[_Table] = [
        *(_read_retrieval(part, data.on_bad_row) for part in data.retrieval),
        *(_read_classification(part, data.on_bad_row) for part in data.classification),
        *(_read_sts(part, data.on_bad_row) for part in data.sts),
    ]
    builder = _builder_of(tables, prompts, dataset_prompts or {})
    store, ids = builder.build(cache, tokenize, fingerprint=fingerprint, count_tokens=count_tokens)
    unread = builder.unread(store, tokenize)
    if len(unread):
        _report_unread(tables, unread, data.on_bad_row)
        tables = [table.without(unread) for table in tables]
        builder = _builder_of(tables, prompts, dataset_prompts or {})
        store, ids = builder.build(cache, tokenize, fingerprint=fingerprint, count_tokens=count_tokens)
    _print_cut(store.info())
    columns = iter(ids)
    datasets = [table.dataset([next(columns) for _ in table.columns()], store) for table in tables]
    retrieval = [dataset for dataset in datasets if isinstance(dataset, RetrievalDataset)]
    retrieval = [
        _without_false_negatives(dataset, store)
        for dataset in with_answers_elsewhere(retrieval, store.content)
    ]
    return Tasks(store, retrieval, [dataset for dataset in datasets if isinstance(dataset, StsDataset)])


def _builder_of(
    tables: Sequence["_Table"], prompts: Mapping[str, str], dataset_prompts: Mapping[str, Mapping[str, str]]
) -> TextStoreBuilder:
    builder = TextStoreBuilder()
    for table in tables:
        own = dataset_prompts.get(table.data.name, prompts)
        for texts, role in table.columns():
            builder.add(texts, own[role])
    return builder


def _print_cut(info: StoreInfo) -> None:
    """Print how many texts are longer than the model reads, and how much of all texts is lost."""
    if info.cut_texts and info.cut_tokens:
        console.print(
            f"{info.cut_texts:,} of {info.texts:,} texts are longer than {info.max_length} tokens and are cut there: "
            f"{info.cut_tokens / (info.tokens + info.cut_tokens):.1%} of all tokens are not read."
        )


def _report_unread(tables: Sequence["_Table"], unread: pl.Series, on_bad_row: OnBadRow) -> None:
    """Refuse texts of which the tokenizer leaves nothing, or print how many are dropped; by file and row."""
    places = (find_text(*file, unread[0]) for table in tables for file in table.files())
    place = next((place for place in places if place), "data")
    found = f"{place}: found the text {unread[0]!r}, of which the tokenizer leaves nothing"
    if on_bad_row == "error":
        raise UserError(f"{found}, expected texts that the model can read.")
    console.print(f"dropped {len(unread):,} texts that the model cannot read; the first is {found}.")


# ----------------------------------------------------------------------------------------------- retrieval


@dataclass(frozen=True)
class _RetrievalTable:
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
        scored = (str(self.data.scores), SCORED_PAIRS, self.data.scores_columns)
        return [
            (self.data.path, RETRIEVAL, self.data.columns),
            *corpus,
            *([] if self.scored is None else [scored]),
        ]

    def without(self, texts: pl.Series) -> "_RetrievalTable":
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
        dataset = RetrievalDataset(
            self.data.name,
            query_Q,
            self.rows["list"].to_numpy().astype(np.int64),
            Ragged.of_lengths(positives, self.lists["positive"].list.len().to_numpy()),
            Ragged.of_lengths(given, self.rows["negative"].list.len().to_numpy()),
            _once_each(np.unique(np.concatenate(pool)), store),
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


def _read_retrieval(data: RetrievalData, on_bad_row: OnBadRow) -> _RetrievalTable:
    frame = read_retrieval(data.path, data.columns, on_bad_row=on_bad_row)
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
    return _RetrievalTable(data, rows, lists, corpus, scored)


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
    left out. Nothing changes where equal contents are equal texts.

    Args:
        content: int64, by text id.
        unread: text ids that are no text to the model; as positives they are left out, and as queries.
    """
    unread = np.empty(0, np.int64) if unread is None else unread
    content_L = np.empty(len(dataset.positives), np.int64)
    content_L[dataset.list_Q] = content[dataset.query_Q]
    _, first_L, group_L = np.unique(content_L, return_index=True, return_inverse=True)
    list_of_value, values = dataset.positives.rows(np.arange(len(content_L)))
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


def _once_each(text_ids: np.ndarray, store: TextStore) -> np.ndarray:
    """Return of texts that are read alike the first, in their order."""
    return text_ids[np.sort(np.unique(store.content[text_ids], return_index=True)[1])]


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


def _without_false_negatives(dataset: RetrievalDataset, store: TextStore) -> RetrievalDataset:
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


# ------------------------------------------------------------------------------------------ classification


@dataclass(frozen=True)
class _ClassificationTable:
    """Labelled texts; `rows` is text: str, label: u32, a row per text and label."""

    data: ClassificationData
    rows: pl.DataFrame

    def columns(self) -> list[tuple[pl.Series, str]]:
        # Both sides of a pair are of one kind, so they share the prompt of symmetric tasks.
        return [(self.rows["text"], "sts")]

    def files(self) -> list[tuple[str, TableSchema, ColumnNames]]:
        return [(self.data.path, CLASSIFICATION, self.data.columns)]

    def without(self, texts: pl.Series) -> "_ClassificationTable":
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


def _read_classification(data: ClassificationData, on_bad_row: OnBadRow) -> _ClassificationTable:
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
    return _ClassificationTable(data, frame.with_columns(label=pl.col("label").rank("dense")))


# ----------------------------------------------------------------------------------------------------- STS


@dataclass(frozen=True)
class _StsTable:
    """Graded pairs; `rows` is text_a: str, text_b: str, score: f64."""

    data: StsData
    rows: pl.DataFrame

    def columns(self) -> list[tuple[pl.Series, str]]:
        return [(self.rows["text_a"], "sts"), (self.rows["text_b"], "sts")]

    def files(self) -> list[tuple[str, TableSchema, ColumnNames]]:
        return [(self.data.path, STS, self.data.columns)]

    def without(self, texts: pl.Series) -> "_StsTable":
        bad = pl.col("text_a", "text_b").is_in(texts.implode())
        return replace(self, rows=self.rows.filter(~pl.any_horizontal(bad)))

    def dataset(self, ids: list[np.ndarray], store: TextStore) -> StsDataset:
        left_P, right_P = ids
        return StsDataset(self.data.name, left_P, right_P, self.rows["score"].to_numpy(), self.data.weight)


def _read_sts(data: StsData, on_bad_row: OnBadRow) -> _StsTable:
    frame = read_sts(data.path, data.columns, on_bad_row=on_bad_row)
    return _StsTable(data, frame.head(data.limit) if data.limit else frame)


_Table = _RetrievalTable | _ClassificationTable | _StsTable
