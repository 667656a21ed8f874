"""Evaluation sets on disk: which tasks a folder holds, and what is in their files.

A folder has one sub-folder per type of task:

    retrieval/NAME/           corpus (doc_id, text and, if there are any, title),
                              queries (query_id, text), qrels (query_id, doc_id, score)
    reranking/NAME            query, positive (list), negative (list)
    sts/NAME                  text_a, text_b, score (higher is closer)
    pair_classification/NAME  text_a, text_b, score (1 positive, 0 not)
    classification/NAME/      train, test (text, label)
    clustering/NAME           text, label
    bitext/NAME               two columns of text, named as you like; row i translates row i

Each table is a Parquet file or a file of JSON lines. A retrieval folder as BEIR lays it out works as it is:
`_id` instead of doc_id and query_id, qrels in `qrels/test.tsv`.

Everything is read into lists of texts and arrays of indices into them. Whatever is wrong with a file is a
`UserError` that names the file, the row and the column.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from conan_embed.errors import UserError, suggestion

TYPES = ("retrieval", "reranking", "sts", "pair_classification", "classification", "clustering", "bitext")
_FOLDER_TYPES = {"retrieval": ("corpus", "queries", "qrels"), "classification": ("train", "test")}
_SUFFIXES = (".parquet", ".jsonl", ".tsv")


@dataclass(frozen=True)
class LocalTask:
    """One evaluation set: its type (a member of `TYPES`), its name, and its folder or file."""

    type: str
    name: str
    path: Path

    @property
    def key(self) -> str:
        """The name under which results are kept, for example `retrieval/MedicalQA`."""
        return f"{self.type}/{self.name}"


def discover(folder: str | Path) -> list[LocalTask]:
    """Return the tasks in `folder`, by type (in the order of `TYPES`) and name.

    Raises:
        UserError: no such folder, or no task in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of evaluation sets.")
    found = []
    for type_ in TYPES:
        for path in sorted((folder / type_).iterdir()) if (folder / type_).is_dir() else ():
            if path.name.startswith("."):
                continue
            if type_ in _FOLDER_TYPES and path.is_dir():
                found.append(LocalTask(type_, path.name, path))
            elif type_ not in _FOLDER_TYPES and path.suffix in _SUFFIXES:
                found.append(LocalTask(type_, path.stem, path))
    if not found:
        raise UserError(
            f"{folder}: holds no evaluation set; expected folders like retrieval/NAME/ or files like "
            f"sts/NAME.parquet in it (types: {', '.join(TYPES)})."
        )
    return found


def select(found: Sequence[LocalTask], wanted: Iterable[str] | None) -> list[LocalTask]:
    """Return the tasks that `wanted` names by type (`"sts"`) or by key (`"sts/STSB"`), in the order found.

    Raises:
        UserError: a name fits no task.
    """
    if wanted is None:
        return list(found)
    wanted = list(wanted)
    known = {name for task in found for name in (task.type, task.key)}
    for name in wanted:
        if name not in known:
            raise UserError(
                f"evaluation task {name!r} is not in the folder{suggestion(name, known)}; "
                f"expected a type or type/name among {', '.join(task.key for task in found)}."
            )
    return [task for task in found if task.type in wanted or task.key in wanted]


_Table = dict[str, list[Any]]  # columns by name
_Check = Callable[[Any], Any]  # of a value: returns it as wanted, or raises ValueError with what was expected

# ---- what the files hold -----------------------------------------------------------------------


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents and judgements.

    Documents are sorted by falling id: search puts the lower index first among equal scores, and
    pytrec_eval the larger id, so that sorting makes the two agree. `judged_*` are int64 `[J]` indices
    and float64 `[J]` relevances; every query is judged at least once. `own_document` is, for each query,
    the index of the document of the same id (then the query itself is part of the corpus and may not be
    its own answer), or -1; a document that the judgements call relevant is not meant.
    """

    queries: list[str]
    documents: list[str]
    judged_query: NDArray[np.int64]
    judged_document: NDArray[np.int64]
    judged_gain: NDArray[np.float64]
    own_document: NDArray[np.int64]


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
    corpus_file, queries_file = _table_path(path, "corpus"), _table_path(path, "queries")
    qrels_file = _table_path(path, "qrels", "qrels/test")
    queries = _read(queries_file, {"query_id": _id, "text": _text})
    corpus = _read(corpus_file, {"doc_id": _id, "text": _any_text}, {"title": _any_text})
    qrels = _read(qrels_file, {"query_id": _id, "doc_id": _id, "score": _number})
    _check_ids(queries_file, "query_id", queries, qrels_file, qrels)
    _check_ids(corpus_file, "doc_id", corpus, qrels_file, qrels)

    text_of_document: dict[str, str] = {}
    titles = corpus.get("title", [""] * len(corpus["text"]))
    for row, (name, title, text) in enumerate(zip(corpus["doc_id"], titles, corpus["text"], strict=True), 1):
        text_of_document[name] = f"{title} {text}".strip()  # as mteb joins them
        if not text_of_document[name]:
            raise UserError(f"{corpus_file}: {_row(corpus_file, row)}, column 'text': an empty document.")
    documents = sorted(text_of_document, reverse=True)
    document_index = {name: index for index, name in enumerate(documents)}

    # Queries without a judgement say nothing: they are left out, as in mteb.
    judged_ids = set(qrels["query_id"])
    kept = [row for row, name in enumerate(queries["query_id"]) if name in judged_ids]
    kept = [kept[i] for i in _sample(len(kept), limit)]
    query_index = {queries["query_id"][row]: index for index, row in enumerate(kept)}
    gain = {
        (query_index[query], document_index[document]): score
        for query, document, score in zip(qrels["query_id"], qrels["doc_id"], qrels["score"], strict=True)
        if query in query_index
    }
    own = [(index, document_index.get(name, -1)) for name, index in query_index.items()]
    judged = np.array(list(gain), dtype=np.int64)
    return RetrievalSet(
        queries=[queries["text"][row] for row in kept],
        documents=[text_of_document[name] for name in documents],
        judged_query=judged[:, 0],
        judged_document=judged[:, 1],
        judged_gain=np.array(list(gain.values()), dtype=np.float64),
        own_document=np.array([-1 if gain.get(pair, 0) > 0 else pair[1] for pair in own], dtype=np.int64),
    )


def _check_ids(path: Path, column: str, table: _Table, qrels_path: Path, qrels: _Table) -> None:
    """Refuse ids that occur twice in a table, and judgements of ids that do not occur."""
    names = table[column]
    known = set(names)
    if len(known) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        row = names.index(twice, names.index(twice) + 1) + 1
        raise UserError(f"{path}: {_row(path, row)}, column {column!r}: {twice!r} is there twice.")
    for row, name in enumerate(qrels[column], start=1):
        if name not in known:
            place = f"{_row(qrels_path, row)}, column {column!r}"
            raise UserError(f"{qrels_path}: {place}: {name!r} is not in {path}.")


def read_reranking(path: Path, limit: int | None = None) -> RerankingSet:
    """Read a reranking file; rows without a positive or without a negative are left out, as in mteb."""
    table = _read(path, {"query": _text, "positive": _texts, "negative": _texts})
    groups = [row for row in zip(*table.values(), strict=True) if row[1] and row[2]]
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
    table = _read(path, {"text_a": _text, "text_b": _text, "score": _zero_or_one if binary else _number})
    if binary and len(set(table["score"])) < 2:
        raise UserError(
            f"{path}: column 'score': every pair has {table['score'][0]:g}, expected both 0 and 1."
        )
    rows = _sample(len(table["score"]), limit)
    return PairSet(
        first=[table["text_a"][i] for i in rows],
        second=[table["text_b"][i] for i in rows],
        score=np.array(table["score"], dtype=np.float64)[rows],
    )


def read_labelled(path: Path, limit: int | None = None) -> LabelledSet:
    """Read a file of labelled texts with at least two labels."""
    table = _read(path, {"text": _text, "label": _label})
    if len(set(table["label"])) < 2:
        raise UserError(
            f"{path}: column 'label': every text has {table['label'][0]!r}, expected two labels or more."
        )
    rows = _sample(len(table["label"]), limit)
    return LabelledSet([table["text"][i] for i in rows], [table["label"][i] for i in rows])


def read_classification(path: Path, limit: int | None = None) -> tuple[LabelledSet, LabelledSet]:
    """Read a classification folder: training and test texts; `limit` is for the test texts."""
    train_file, test_file = _table_path(path, "train"), _table_path(path, "test")
    return read_labelled(train_file), read_labelled(test_file, limit)


def read_bitext(path: Path, limit: int | None = None) -> BitextSet:
    """Read a file of two columns of text."""
    names = _column_names(path)
    if len(names) != 2:
        raise UserError(f"{path}: found the columns {', '.join(names)}, expected two, one a language.")
    table = _read(path, dict.fromkeys(names, _text))
    rows = _sample(len(table[names[0]]), limit)
    return BitextSet((names[0], names[1]), *([table[name][i] for i in rows] for name in names))


def _sample(num_rows: int, limit: int | None) -> list[int]:
    """Return the rows to keep, in order: all, or `limit` of them, always the same ones."""
    if limit is None or limit >= num_rows:
        return list(range(num_rows))
    return sorted(np.random.default_rng(0).permutation(num_rows)[:limit].tolist())


# ---- tables ------------------------------------------------------------------------------------

_ALIASES = {  # of BEIR and mteb
    "doc_id": ("_id", "id", "corpus-id", "corpus_id"),
    "query_id": ("_id", "id", "query-id"),
    "text_a": ("sentence1",),
    "text_b": ("sentence2",),
    "score": ("label",),
}


def _table_path(folder: Path, *names: str) -> Path:
    """Return the one file of a folder that holds the table of these names."""
    paths = [folder / f"{name}{suffix}" for name in names for suffix in _SUFFIXES]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise UserError(f"{folder}: has no {names[0]}.parquet and no {names[0]}.jsonl.")
    if len(found) > 1:
        raise UserError(f"{folder}: has {' and '.join(path.name for path in found)}, expected one of them.")
    return found[0]


def _read(path: Path, columns: dict[str, _Check], optional: dict[str, _Check] | None = None) -> _Table:
    """Read columns of a table as lists, each value passed through the check of its column."""
    names = _column_names(path)
    checks = {**columns, **(optional or {})}
    source = {
        column: next((name for name in (column, *_ALIASES.get(column, ())) if name in names), None)
        for column in checks
    }
    for column in columns:
        if source[column] is None:
            found = ", ".join(names) or "none"
            raise UserError(f"{path}: no column {column!r}{suggestion(column, names)}; found {found}.")
    readers = [(column, name, checks[column]) for column, name in source.items() if name is not None]
    table: _Table = {column: [] for column, _, _ in readers}
    row = 0
    for row, record in enumerate(_records(path, [name for _, name, _ in readers]), start=1):
        for column, name, check in readers:
            value = record.get(name)
            try:
                table[column].append(check(value))
            except ValueError as error:
                place = f"{_row(path, row)}, column {name!r}"
                raise UserError(f"{path}: {place}: found {_shown(value)}, expected {error}.") from None
    if row == 0:
        raise UserError(f"{path}: holds no rows.")
    return table


def _column_names(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        try:
            return list(pl.read_parquet_schema(path))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{path}: cannot be read as Parquet: {error}.") from None
    return list(next(iter(_records(path, [])), {}))


def _records(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table; of a Parquet file only the columns `names`."""
    if path.suffix == ".parquet":
        try:
            table = pl.read_parquet(path, columns=names)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{path}: cannot be read as Parquet: {error}.") from None
        yield from table.iter_rows(named=True)
        return
    header: list[str] | None = None
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: line {number}: not UTF-8 at byte {error.start}.") from None
            if path.suffix == ".jsonl":
                yield _json_object(path, number, line)
            elif header is None:
                header = line.split("\t")
            else:
                yield dict(zip(header, line.split("\t"), strict=False))


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {number}: not JSON: {error.msg}.") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: line {number}: found {_shown(record)}, expected an object in braces.")
    return record


def _row(path: Path, row: int) -> str:
    """Say where row `row` (from 1) is: a line of a text file (TSV has a header), a row of Parquet."""
    return f"row {row}" if path.suffix == ".parquet" else f"line {row + (path.suffix == '.tsv')}"


def _shown(value: Any) -> str:
    text = repr(value)
    return "nothing" if value is None else text if len(text) <= 40 else f"{text[:40]}..."


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty")
    return value


def _any_text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise ValueError("a list of texts that are not empty")
    return value


def _id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError("an id")
    return str(value)


def _label(value: Any) -> str:
    if not isinstance(value, str | int) or value == "":
        raise ValueError("a label")
    return str(value)


def _number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a number")
    return number


def _zero_or_one(value: Any) -> float:
    if not isinstance(value, int | float) or value not in (0, 1):
        raise ValueError("0 or 1")
    return float(value)
