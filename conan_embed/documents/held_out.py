"""The questions that are never trained on: chosen by document, without copies on the other side, as evaluation folders.

    test/retrieval/NAME/{corpus,queries,qrels}.parquet          the reported questions, against all passages
    development/retrieval/NAME/...                              to stop early and to choose by, never reported

What belongs together is held out together: a document, or the sections of one where there are few documents, and all
that share a text, exactly. What is left on the training side but nearly equals a held-out question or its answer
(character 5-grams, as in the filter) is taken out of training.

Shapes: P pairs, U units (documents or sections), H held-out texts.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from conan_embed.filtering.grams import grams
from conan_embed.filtering.known_texts import KnownTexts
from conan_embed.filtering.minhash import GRAM, plain, signatures

MIN_QUESTIONS = 150
"""So many questions are held out where the share asked for gives fewer, but at most `MAX_SHARE` of all."""
MAX_QUESTIONS = 3_000
MAX_SHARE = 0.3
DEVELOPMENT_SHARE = 0.3
"""Of the held-out questions: those that training may look at."""
DEVELOPMENT_PASSAGES = 1_000
"""Beside the answers: enough to rank models by, and embedded anew at every look."""
MIN_DOCUMENTS = 20
"""With fewer documents, sections are held out instead of documents."""
_BANDS, _ROWS, _SIMILARITY = 12, 5, 0.8
_MOST_IN_GROUP = 0.25  # of the questions to hold out; a larger group of shared texts stays in training


@dataclass(frozen=True)
class Split:
    """Attributes:
    role: of each pair: "train", "development", "test", or "none" for a pair that is in neither (a held-out
        document's pairs that make no question), String [P].
    unit: what was held out whole: "document" or "section".
    num_groups: units that share no text with another, or groups of those that do.
    largest: of all questions, the share that is in the largest group; 0 where nothing is held out.
    """

    role: pl.Series
    unit: str
    num_groups: int
    largest: float


def split_pairs(pairs: pl.DataFrame, share: float, seed: int) -> Split:
    """Choose the pairs to hold out.

    Args:
        pairs: `document`, `section`, `query_key`, `passage_key`, `kind` of each pair.
        share: of the questions to hold out, see MIN_QUESTIONS for small collections.
    """
    by_document = pairs["document"].n_unique() >= MIN_DOCUMENTS
    columns = ["document"] if by_document else ["document", "section"]
    unit_P = pairs.select(pl.struct(columns).rank("dense") - 1).to_series().to_numpy().astype(np.int64)
    group_P = connected_groups(unit_P, pairs["query_key"], pairs["passage_key"])
    is_question = _questions(pairs["kind"])
    # A question whose section is several passages is several pairs, and one question.
    group_Q = group_P[(is_question & _first(pairs["query_key"], is_question)).to_numpy()]
    role_of_group = choose_groups(group_Q, int(group_P.max()) + 1, share, seed)
    role = pl.Series("role", np.array(["train", "development", "test"])[role_of_group[group_P]])
    role = pl.select(
        pl.when((role == "train") | is_question).then(role).otherwise(pl.lit("none"))
    ).to_series()
    unit = "document" if by_document else "section"
    largest = float(np.bincount(group_Q).max() / len(group_Q)) if share else 0.0
    return Split(role.alias("role"), unit, int(group_P.max()) + 1, largest)


def _first(key: pl.Series, among: pl.Series) -> pl.Series:
    """Return which rows are the first of their key among those rows."""
    return pl.select(pl.when(among).then(key)).to_series().is_first_distinct()


def _questions(kinds: pl.Series) -> pl.Series:
    """Return which pairs make questions: first sentences only where there is hardly anything else."""
    better = kinds != "sentence"
    return better if better.sum() >= MIN_QUESTIONS or better.all() else kinds.is_not_null()


def connected_groups(unit_P: NDArray[np.int64], *keys: pl.Series) -> NDArray[np.int64]:
    """Return the connected group of each pair: units that share a key are in one."""
    num_units = int(unit_P.max()) + 1
    rows, columns, size = [], [], num_units
    for key in keys:
        code_P = key.rank("dense").to_numpy().astype(np.int64) - 1 + size
        rows.append(unit_P)
        columns.append(code_P)
        size = int(code_P.max()) + 1
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(row), bool), (row, column)), shape=(size, size))
    return connected_components(graph, directed=False)[1][unit_P].astype(np.int64)


def choose_groups(group_Q: NDArray[np.int64], num_groups: int, share: float, seed: int) -> NDArray[np.int64]:
    """Return 0 (train), 1 (development) or 2 (test) for each group, given the group of each distinct question."""
    role_G = np.zeros(num_groups, np.int64)
    if share == 0:
        return role_G
    total = len(group_Q)
    wanted = min(max(share * total, min(MIN_QUESTIONS, MAX_SHARE * total)), MAX_QUESTIONS)
    size_G = np.bincount(group_Q, minlength=num_groups)
    order = np.random.default_rng(seed).permutation(num_groups)
    order = order[(size_G[order] > 0) & (size_G[order] <= max(1, _MOST_IN_GROUP * wanted))]
    wanted = min(wanted, size_G[order].sum())  # where most questions are in groups that are too large
    before = np.cumsum(size_G[order]) - size_G[order]
    chosen = order[before < wanted]
    in_development = before[before < wanted] < DEVELOPMENT_SHARE * wanted
    role_G[chosen] = np.where(in_development, 1, 2)
    return role_G


# ------------------------------------------------------------------------------------------------ near-duplicates


class HeldOutTexts:
    """Held-out questions and answers, in which texts from the training side are looked up."""

    def __init__(self, texts: pl.Series) -> None:
        """Index the texts: String [H]."""
        texts = plain(texts).unique()
        self._known = KnownTexts(texts, _bands(texts))

    def near(self, texts: pl.Series) -> NDArray[np.bool_]:
        """Return which texts equal a held-out one, or nearly (Jaccard similarity of 5-grams of 0.8 and more)."""
        texts = plain(texts)
        bands_NB = _bands(texts)
        near_N = self._known.share_a_band(bands_NB)
        near_N[near_N] = self._known.similarity(texts.filter(near_N), bands_NB[near_N]) >= _SIMILARITY
        return near_N


def _bands(texts: pl.Series) -> NDArray[np.uint32]:
    return signatures(*grams(texts, GRAM), _BANDS, _ROWS)


# ------------------------------------------------------------------------------------------------ evaluation folders


def write_questions(folder: Path, name: str, pairs: pl.DataFrame, corpus: Path | pl.DataFrame) -> int:
    """Write an evaluation set; return its number of questions.

    Args:
        folder: gets `retrieval/NAME/{corpus,queries,qrels}.parquet`.
        pairs: `query`, `doc_id` of the held-out pairs; equal queries become one with several answers.
        corpus: `doc_id`, `text`.
    """
    target = folder / "retrieval" / name
    target.mkdir(parents=True, exist_ok=True)
    queries = pairs.select(text="query").unique(maintain_order=True)
    queries = queries.select(query_id=pl.format("q{}", pl.int_range(pl.len())), text="text")
    judged = (
        pairs.join(queries, left_on="query", right_on="text")
        .select("query_id", "doc_id")
        .unique(maintain_order=True)
    )
    queries.write_parquet(target / "queries.parquet")
    judged.with_columns(score=pl.lit(1)).write_parquet(target / "qrels.parquet")
    if isinstance(corpus, Path):
        _link(target / "corpus.parquet", corpus)
    else:
        corpus.write_parquet(target / "corpus.parquet")
    return len(queries)


def _link(path: Path, file: Path) -> None:
    """Put a file under a second name, as a copy where the disk has no links (exFAT, SMB)."""
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, path)


def text_key(texts: pl.Series) -> pl.Series:
    """Return texts without case and runs of white space: those of one key must not stand on both sides of a split."""
    return texts.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def development_corpus(corpus: pl.DataFrame, answers: pl.Series, seed: int) -> pl.DataFrame:
    """Return the passages that answer development questions, and others drawn at random, in the corpus's order."""
    is_answer = corpus["doc_id"].is_in(answers.implode())
    others = np.flatnonzero(~is_answer.to_numpy())
    drawn = np.random.default_rng(seed).permutation(others)[:DEVELOPMENT_PASSAGES]
    chosen = is_answer.to_numpy().copy()
    chosen[drawn] = True
    return corpus.filter(pl.Series(chosen))
