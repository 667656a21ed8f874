"""Training and evaluation data from the Python documentation that is installed on this machine.

`build` reads the docstrings of the standard library and of every installed package (`documents.python_packages`, which
imports nothing), makes retrieval and graded pairs of them (`pairs.py`), and writes both sides of the split. Nothing
depends on anything but the installed files and the arguments: two builds write the same bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.python_pairs import (
    RetrievalPair,
    choose,
    document,
    graded_pairs,
    held_out_objects,
    name_hash,
    passage,
    retrieval_pairs,
)
from conan_embed.console import tracked
from conan_embed.documents.docstring_documents import is_document
from conan_embed.documents.python_packages import (
    STANDARD_LIBRARY,
    Package,
    PythonObject,
    installed_packages,
    read_package,
)
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, write_json

EVAL_PAIRS_PER_GRADE = 300


@dataclass(frozen=True)
class Summary:
    """What `build` made: numbers of objects and pairs, and the objects of each distribution, most first."""

    objects: int
    train_queries: int
    train_passages: int
    train_graded_pairs: int
    eval_queries: int
    eval_passages: int
    eval_graded_pairs: int
    packages: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def build(
    folder: Path,
    *,
    max_objects: int = 20_000,
    seed: int = 0,
    held_out: float = 0.1,
    max_eval_queries: int = 1_500,
    pairs_per_grade: int = 2_000,
    packages: Sequence[Package] | None = None,
) -> Summary:
    """Write training and evaluation data from installed Python documentation into `folder`.

    | file | columns |
    |---|---|
    | train/retrieval.parquet | query, positive (list): training summaries and their passages |
    | train/sts.parquet | text_a, text_b, score in [0, 1]: pairs of training objects |
    | train/corpus.parquet | doc_id, title, text: passages of training objects, to mine negatives from |
    | eval/retrieval/PythonDocs/ | corpus (passages of *all* objects), queries (held-out summaries), qrels |
    | eval/sts/PythonTree.parquet | text_a, text_b, score: pairs of held-out objects |
    | documents.parquet | doc_id, title, text, ...: every object with its whole documentation, to search in |
    | summary.json | the `Summary` |

    A passage begins with the object's name, so `title` is empty wherever passages stand.

    Args:
        folder: made if missing; these files in it are replaced.
        max_objects: how many documented objects to take at most.
        seed: of the graded pairs; the split does not depend on it.
        held_out: share of the objects that is kept for evaluation.
        max_eval_queries: how many of the held-out summaries to ask.
        pairs_per_grade: training pairs of each grade of nearness; the evaluation takes up to 300 of each.
        packages: what to read; by default the standard library and everything installed.

    Raises:
        UserError: `held_out` is not between 0 and 1, there is too little documentation to have both sides, or the
            files cannot be written.
    """
    if not 0 < held_out < 1:
        raise UserError(f"held_out is {held_out}, expected a share between 0 and 1.")
    objects = choose(_read(installed_packages() if packages is None else packages, max_objects), max_objects)
    is_held_out = held_out_objects(objects, held_out) if objects else np.zeros(0, dtype=bool)
    train_objects = [one for one, out in zip(objects, is_held_out, strict=True) if not out]
    train_pairs = retrieval_pairs(train_objects)
    eval_pairs = retrieval_pairs([one for one, out in zip(objects, is_held_out, strict=True) if out])
    if not train_pairs or not eval_pairs:
        raise UserError(
            f"The installed Python documentation is too small to learn from: {len(objects)} documented objects give "
            f"{len(train_pairs)} training and {len(eval_pairs)} held-out queries, expected at least one of each."
        )
    queries = sorted(eval_pairs, key=lambda pair: name_hash(pair.objects[0].name))[:max_eval_queries]
    generator = np.random.default_rng(seed)
    train_graded = graded_pairs(_objects(train_pairs), pairs_per_grade, generator)
    eval_graded = graded_pairs(_objects(eval_pairs), EVAL_PAIRS_PER_GRADE, generator)
    folder = Path(folder)
    _write_training(folder / "train", train_pairs, train_graded, train_objects)
    _write_evaluation(folder / "eval", objects, queries, eval_graded)
    _write_documents(folder / "documents.parquet", objects, is_held_out)
    summary = Summary(
        objects=len(objects),
        train_queries=len(train_pairs),
        train_passages=len(train_objects),
        train_graded_pairs=len(train_graded),
        eval_queries=len(queries),
        eval_passages=len(objects),
        eval_graded_pairs=len(eval_graded),
        packages=dict(Counter(one.package for one in objects).most_common()),
    )
    write_json(folder / "summary.json", summary.to_json())
    return summary


def _read(packages: Iterable[Package], max_objects: int) -> Mapping[str, list[PythonObject]]:
    """Return documented objects by distribution, capped so that none dominates."""
    objects: dict[str, list[PythonObject]] = defaultdict(list)
    for package in tracked(packages, "Reading the installed documentation"):
        limit = max_objects // (4 if package.distribution == STANDARD_LIBRARY else 16)
        room = limit - len(objects[package.distribution])
        objects[package.distribution] += islice(filter(is_document, read_package(package)), room)
    return objects


def _objects(pairs: Sequence[RetrievalPair]) -> list[PythonObject]:
    return [one for pair in pairs for one in pair.objects]


def _write(path: Path, frame: pl.DataFrame) -> None:
    with atomic_write(path) as aside:
        frame.write_parquet(aside, compression="zstd")


def _write_training(
    folder: Path, pairs: Sequence[RetrievalPair], graded: pl.DataFrame, objects: Sequence[PythonObject]
) -> None:
    positives = [[passage(one) for one in pair.objects] for pair in pairs]
    retrieval = pl.DataFrame({"query": [pair.query for pair in pairs], "positive": positives})
    _write(folder / "retrieval.parquet", retrieval)
    _write(folder / "sts.parquet", graded)
    _write_corpus(folder / "corpus.parquet", objects)


def _write_corpus(path: Path, objects: Sequence[PythonObject]) -> None:
    names, texts = [one.name for one in objects], [passage(one) for one in objects]
    _write(path, pl.DataFrame({"doc_id": names, "title": [""] * len(objects), "text": texts}))


def _write_evaluation(
    folder: Path, objects: Sequence[PythonObject], queries: Sequence[RetrievalPair], graded: pl.DataFrame
) -> None:
    _write(folder / "sts" / "PythonTree.parquet", graded)
    retrieval = folder / "retrieval" / "PythonDocs"
    _write_corpus(retrieval / "corpus.parquet", objects)
    ids = [pair.objects[0].name for pair in queries]
    texts = pl.DataFrame({"query_id": ids, "text": [pair.query for pair in queries]})
    _write(retrieval / "queries.parquet", texts)
    rows = [
        (query_id, one.name, 1) for query_id, pair in zip(ids, queries, strict=True) for one in pair.objects
    ]
    schema = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Int32}
    _write(retrieval / "qrels.parquet", pl.DataFrame(rows, schema=schema, orient="row"))


def _write_documents(path: Path, objects: Sequence[PythonObject], is_held_out: np.ndarray) -> None:
    columns = {
        "doc_id": [one.name for one in objects],
        "title": [one.name for one in objects],
        "text": [document(one) for one in objects],
        "summary": [one.summary for one in objects],
        "kind": [one.kind for one in objects],
        "package": [one.package for one in objects],
        "held_out": is_held_out,
    }
    _write(path, pl.DataFrame(columns))
