"""What the files of an evaluation set hold (see discovery.py for the files).

Everything is read into lists of texts and arrays of indices into them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from conan_embed.errors import UserError
from conan_embed.evaluation.discovery import print_once, table_path
from conan_embed.files import read_json
from conan_embed.texts.columns import (
    CLASSIFICATION,
    JUDGED_CORPUS,
    JUDGED_QUERIES,
    JUDGEMENTS,
    LABELLED_PAIRS,
    RERANKING,
    STS,
    Column,
    TableSchema,
)
from conan_embed.texts.readers import column_names, data_files, read_table

_BEIR_NAMES = ("arguana", "fever", "fiqa", "msmarco", "quora")
_MTEB_NAMES = """
    ArguAna ArguAna-Fa ArguAna-Fa.v2 ArguAna-NL ArguAna-NL.v2 ArguAna-PL BSARDRetrieval BSARDRetrieval.v2
    DanFEVER EcomRetrieval FEVER FEVER-FaHardNegatives FEVER-NL FEVERHardNegatives FEVERHardNegatives.v2
    FeedbackQARetrieval FiQA-PL FiQA2018 FiQA2018-Fa FiQA2018-Fa.v2 FiQA2018-NL FiQADecontaminated IFIRFiQA
    JaCWIRRetrieval JaGovFaqsRetrieval LegalQANLRetrieval MLQuestions MMarcoRetrieval
    MMarcoRetrievalMultilingual MSMARCO MSMARCO-Fa MSMARCO-FaHardNegatives MSMARCO-PL MSMARCO-PLHardNegatives
    MSMARCOHardNegatives MedicalRetrieval NLPJournalAbsArticleRetrieval NLPJournalAbsArticleRetrieval.V2
    PersianWebDocumentRetrieval Quora-NL QuoraRetrieval QuoraRetrieval-Fa QuoraRetrieval-Fa.v2
    QuoraRetrievalDecontaminated QuoraRetrievalHardNegatives QuoraRetrievalHardNegatives.v2 RiaNewsRetrieval
    RiaNewsRetrievalHardNegatives RiaNewsRetrievalHardNegatives.v2 RuBQRetrieval RuSciBenchCiteRetrieval
    RuSciBenchCociteRetrieval SynPerChatbotRAGFAQRetrieval SynPerChatbotRAGTopicsRetrieval
    SynPerChatbotTopicsRetrieval SynPerQARetrieval T2Retrieval TRECDL2019 TRECDL2020
    VideoRetrieval bBSARDNLRetrieval mMARCO-NL
"""
IGNORES_IDENTICAL_IDS = frozenset((*_MTEB_NAMES.split(), *_BEIR_NAMES))
"""Retrieval tasks of mteb in which the document with the query's own id is no answer (as of mteb 2.26)."""


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents and judgements.

    Documents are sorted by falling id: search puts the lower index first among equal scores, and pytrec_eval the larger
    id, so that sorting makes the two agree.

    Attributes:
        judged_query, judged_document: int64 `[J]`, indices; every query is judged at least once. The document is -1
            where the corpus lacks it: it counts among the relevant ones, and nothing finds it.
        judged_gain: float64 `[J]`, relevances.
        excluded_document: int64 `[Q]`, the document that has the query's own id, or -1. Only for tasks that ignore
            identical ids (`ignores_identical_ids`); elsewhere equal ids mean nothing.
    """

    queries: list[str]
    documents: list[str]
    judged_query: NDArray[np.int64]
    judged_document: NDArray[np.int64]
    judged_gain: NDArray[np.float64]
    excluded_document: NDArray[np.int64]


@dataclass(frozen=True)
class RerankingSet:
    """Queries and candidates: texts, the query of each (int64, rising) and whether it is relevant."""

    queries: list[str]
    candidates: list[str]
    candidate_query: NDArray[np.int64]
    relevant: NDArray[np.bool_]


@dataclass(frozen=True)
class PairSet:
    """Pairs of texts with a gold score each, float64."""

    first: list[str]
    second: list[str]
    score: NDArray[np.float64]


@dataclass(frozen=True)
class LabelledSet:
    """Texts and their labels."""

    texts: list[str]
    labels: list[str]


@dataclass(frozen=True)
class BitextSet:
    """Two lists of texts, row i of the one translating row i of the other; `names` are their column names."""

    names: tuple[str, str]
    first: list[str]
    second: list[str]


def read_retrieval(path: Path, limit: int | None = None) -> RetrievalSet:
    """Read a retrieval folder; `limit` keeps that many of the judged queries, and the whole corpus."""
    qrels_file = table_path(path, "qrels", "qrels/test", "qrels/dev")
    queries = read_table(table_path(path, "queries"), JUDGED_QUERIES)
    corpus = read_table(table_path(path, "corpus"), JUDGED_CORPUS)
    corpus = corpus.sort("doc_id", descending=True).with_row_index("document")
    judgements = read_table(qrels_file, JUDGEMENTS)
    qrels = judgements.unique(["query_id", "doc_id"], keep="last", maintain_order=True)
    documents = [  # as mteb joins title and text
        f"{title or ''} {text or ''}".strip() for title, text in corpus.select("title", "text").iter_rows()
    ]
    _print_oddities(path, queries, corpus, qrels, documents)
    _print_judgement_oddities(path, judgements, qrels)
    # Queries without a judgement are left out, as in mteb.
    queries = queries.filter(pl.col("query_id").is_in(qrels["query_id"].unique().implode()))
    if queries.is_empty():
        raise UserError(f"{qrels_file}: found no judgement of a query that is there, expected at least one.")
    if not (qrels["score"] > 0).any():
        raise UserError(f"{qrels_file}: found no score above 0, expected a relevant document at least.")
    if not qrels["doc_id"].is_in(corpus["doc_id"].implode()).any():
        raise UserError(
            f"{qrels_file}: found no judgement of a document that is there, expected at least one."
        )
    queries = queries[_sample(len(queries), limit)].with_row_index("query")
    judged = qrels.join(queries, on="query_id", maintain_order="left")
    judged = judged.join(corpus, on="doc_id", how="left", maintain_order="left")
    own = queries.join(corpus, left_on="query_id", right_on="doc_id", how="left", maintain_order="left")
    excluded = own["document"] if ignores_identical_ids(path) else own["document"].clear(len(own))
    return RetrievalSet(
        queries=queries["text"].to_list(),
        documents=documents,
        judged_query=_indices(judged["query"]),
        judged_document=_indices(judged["document"]),
        judged_gain=judged["score"].to_numpy(),
        excluded_document=_indices(excluded),
    )


def _indices(column: pl.Series) -> NDArray[np.int64]:
    return column.cast(pl.Int64).fill_null(-1).to_numpy()


def ignores_identical_ids(path: Path) -> bool:
    """Say whether the document with a query's own id is no answer to it: by task.json, else as mteb's task of the name.

    Raises:
        UserError: task.json holds something else.
    """
    settings = path / "task.json"
    if not settings.is_file():
        return path.name in IGNORES_IDENTICAL_IDS
    value = read_json(settings)
    if (
        not isinstance(value, dict)
        or set(value) != {"ignore_identical_ids"}
        or type(*value.values()) is not bool
    ):
        raise UserError(f'{settings}: found {value!r}, expected {{"ignore_identical_ids": true}} or false.')
    return bool(value["ignore_identical_ids"])


def _print_oddities(
    path: Path, queries: pl.DataFrame, corpus: pl.DataFrame, qrels: pl.DataFrame, documents: Sequence[str]
) -> None:
    """Print how much of a set is not as it should be; it is treated as mteb treats it."""
    no_query = len(qrels.join(queries, on="query_id", how="anti"))
    no_document = len(qrels.join(corpus, on="doc_id", how="anti"))
    for count, what in (
        (no_query, "judgements are of queries that are not there; they are left out"),
        (no_document, "judgements are of documents that the corpus lacks; these count as never found"),
        (documents.count(""), "documents are empty; they are ranked like the others"),
    ):
        if count:
            print_once(f"{path}: {count:,} {what}.")


def _print_judgement_oddities(path: Path, judgements: pl.DataFrame, qrels: pl.DataFrame) -> None:
    """Print how many judgements contradict each other, and how many queries have nothing to find."""
    by_pair = judgements.group_by("query_id", "doc_id").agg(pl.col("score").n_unique())
    by_query = qrels.group_by("query_id").agg(pl.col("score").max())
    for count, what in (
        (
            (by_pair["score"] > 1).sum(),
            "pairs are judged several times, and differently; the last judgement counts",
        ),
        ((by_query["score"] <= 0).sum(), "judged queries have no relevant document; they score 0"),
    ):
        if count:
            print_once(f"{path}: {count:,} {what}.")


def read_reranking(path: Path, limit: int | None = None) -> RerankingSet:
    """Read a reranking file; rows without a positive or without a negative are left out, as in mteb."""
    groups = [row for row in read_table(path, RERANKING).iter_rows() if row[1] and row[2]]
    if not groups:
        raise UserError(f"{path}: no row has both a positive and a negative candidate.")
    groups = [groups[i] for i in _sample(len(groups), limit)]
    sizes = [len(positive) + len(negative) for _, positive, negative in groups]
    return RerankingSet(
        queries=[query for query, _, _ in groups],
        candidates=[text for _, positive, negative in groups for text in (*positive, *negative)],
        candidate_query=np.repeat(np.arange(len(groups)), sizes),
        relevant=np.concatenate(
            [np.arange(size) < len(row[1]) for size, row in zip(sizes, groups, strict=True)]
        ),
    )


def read_pairs(path: Path, limit: int | None = None, *, binary: bool = False) -> PairSet:
    """Read a file of scored pairs; with `binary` a score must be 0 or 1, and both must occur."""
    table = read_table(path, LABELLED_PAIRS if binary else STS)
    if binary and table["score"].n_unique() < 2:
        raise UserError(
            f"{path}: column 'score': every pair has {table['score'][0]:g}, expected both 0 and 1."
        )
    table = table[_sample(len(table), limit)]
    return PairSet(table["text_a"].to_list(), table["text_b"].to_list(), table["score"].to_numpy())


def read_labelled(path: Path, limit: int | None = None) -> LabelledSet:
    """Read a file of labelled texts with at least two labels."""
    table = read_table(path, CLASSIFICATION)
    if table["label"].n_unique() < 2:
        raise UserError(
            f"{path}: column 'label': every text has {table['label'][0]!r}, expected two labels or more."
        )
    table = table[_sample(len(table), limit)]
    return LabelledSet(table["text"].to_list(), table["label"].to_list())


def read_classification(path: Path, limit: int | None = None) -> tuple[LabelledSet, LabelledSet]:
    """Read a classification folder: training and test texts; `limit` is for the test texts."""
    train_file, test_file = table_path(path, "train"), table_path(path, "test")
    train, test = read_labelled(train_file), read_labelled(test_file, limit)
    unknown = set(test.labels) - set(train.labels)
    if unknown:
        count = sum(label in unknown for label in test.labels)
        label = repr(min(unknown))
        print_once(
            f"{path}: {count:,} of {len(test.labels):,} test texts have labels that no training text has, for "
            f"instance {label}; they count as wrong."
        )
    return train, test


def read_bitext(path: Path, limit: int | None = None) -> BitextSet:
    """Read a file of two columns of text."""
    names = column_names(data_files(path)[0])
    if len(names) != 2:
        raise UserError(f"{path}: found the columns {', '.join(names)}, expected two, one a language.")
    table = read_table(path, TableSchema(tuple(Column(name, "text") for name in names)))
    table = table[_sample(len(table), limit)]
    return BitextSet((names[0], names[1]), table[names[0]].to_list(), table[names[1]].to_list())


def _sample(num_rows: int, limit: int | None) -> list[int]:
    """Return the rows to keep, in order: all, or `limit` of them, always the same ones."""
    if limit is None or limit >= num_rows:
        return list(range(num_rows))
    return sorted(np.random.default_rng(0).permutation(num_rows)[:limit].tolist())
