"""The parts of all batches to one collection: equal passages become one, questions are held out.

Only keys and ids of all passages and pairs are in memory; texts pass through a batch at a time.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from conan_embed.console import tracked
from conan_embed.documents.held_out import (
    HeldOutTexts,
    Split,
    development_corpus,
    split_pairs,
    write_questions,
)
from conan_embed.errors import UserError
from conan_embed.files import atomic_write


@dataclass(frozen=True)
class Finished:
    """What `finish` made; see `build.PairsResult`."""

    passages: int
    tokens: int
    pairs: dict[str, int]
    questions: dict[str, int]
    unit: str
    largest_group: float
    near_duplicates: int


def finish(parts: Path, output: Path, name: str, *, hold_out: float, seed: int) -> Finished:
    """Write passages, training pairs and held-out questions.

    Args:
        parts: folder of the parts, see `parts`.
        name: of the evaluation set.
        hold_out: share of the questions.

    Raises:
        UserError: there is no pair.
    """
    passage_files, pair_files = (
        sorted(parts.glob("passages-*.parquet")),
        sorted(parts.glob("pairs-*.parquet")),
    )
    keys = ["document", "section", "query_key", "passage_key", "kind"]
    pairs = pl.scan_parquet(pair_files).select(keys).collect()
    passages = (
        pl.scan_parquet(passage_files).select("doc_id", "key", "num_tokens", "document", "section").collect()
    )
    if pairs.is_empty():
        raise UserError(
            f"found {len(passages):,} passages, but nothing that makes a pair; "
            "expected headings, questions, definitions, or passages of several sentences."
        )
    split = split_pairs(pairs, hold_out, seed)
    passages = _mark_passages(passages, pairs.hstack([split.role]), split.unit)
    _write_passages(passage_files, passages, output / "passages.parquet", parts / "corpus.parquet")
    id_of_key = passages.filter("first").select("key", "doc_id")
    held_out = _held_out_pairs(pair_files, split, id_of_key)
    questions = _write_held_out(output, name, held_out, parts / "corpus.parquet", seed)
    near = HeldOutTexts(pl.concat([held_out["query"], held_out["positive"]]))
    counts, dropped = _write_pairs(pair_files, output / "pairs.parquet", split, id_of_key, near)
    kept = passages.filter("first")
    return Finished(
        len(kept), int(kept["num_tokens"].sum()), counts, questions, split.unit, split.largest, dropped
    )


def _mark_passages(passages: pl.DataFrame, pairs: pl.DataFrame, unit: str) -> pl.DataFrame:
    """Add `first` (with its text, in the order of the files) and `held_out` (some unit that is has that text)."""
    columns = ["document"] if unit == "document" else ["document", "section"]
    units = pairs.filter(pl.col("role") != "train").select(columns).unique()
    marked = passages.join(units.with_columns(in_unit=True), on=columns, how="left", maintain_order="left")
    return marked.with_columns(
        first=pl.col("key").is_first_distinct(), held_out=pl.col("in_unit").fill_null(False).any().over("key")
    )


def _parts(files: list[Path], columns: list[str] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the rows of all files a row group at a time, each with the number of rows before it."""
    before = 0
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(columns=columns):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield before, frame
            before += len(frame)


@contextlib.contextmanager
def _frame_writer(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Yield a function that writes frames of one schema to a Parquet file, aside and renamed."""
    writer: pq.ParquetWriter | None = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal writer
        table = frame.to_arrow()
        if writer is None:
            writer = stack.enter_context(pq.ParquetWriter(aside, table.schema, compression="zstd"))
        writer.write_table(table)

    with atomic_write(path) as aside, contextlib.ExitStack() as stack:
        yield write


def _write_passages(files: list[Path], passages: pl.DataFrame, path: Path, corpus: Path) -> None:
    """Write each text once: the passages with their sources, and what is searched for held-out questions.

    A passage whose first sentence is a question stands in the corpus without it, else the words would give it away.
    """
    role = pl.when("held_out").then(pl.lit("held_out")).otherwise(pl.lit("train")).alias("split")
    marks = passages.select("first", role)
    with _frame_writer(path) as write_passages, _frame_writer(corpus) as write_corpus:
        for before, frame in _parts(files):
            rows = frame.hstack(marks[before : before + len(frame)]).filter("first")
            write_passages(
                rows.select(
                    *(
                        "doc_id",
                        "text",
                        pl.col("title").alias("document"),
                        "headings",
                        "file",
                        "line",
                        "num_tokens",
                    ),
                    "split",
                )
            )
            write_corpus(rows.select("doc_id", pl.coalesce("rest", "text").alias("text"), "split"))


def _held_out_pairs(files: list[Path], split: Split, id_of_key: pl.DataFrame) -> pl.DataFrame:
    found = []
    for before, frame in _parts(files):
        rows = frame.hstack([split.role[before : before + len(frame)]])
        found.append(rows.filter(pl.col("role").is_in(["development", "test"])))
    return _with_ids(pl.concat(found), id_of_key)


def _with_ids(pairs: pl.DataFrame, id_of_key: pl.DataFrame) -> pl.DataFrame:
    return pairs.join(id_of_key, left_on="passage_key", right_on="key", how="left", maintain_order="left")


def _write_held_out(
    output: Path, name: str, held_out: pl.DataFrame, corpus: Path, seed: int
) -> dict[str, int]:
    counts = {}
    for role in ("development", "test"):
        pairs = held_out.filter(role=role)
        counts[role] = pairs["query"].n_unique()
        if role == "test" and len(pairs):
            write_questions(output / role, name, pairs, corpus)
        elif len(pairs):
            texts = pl.read_parquet(corpus, columns=["doc_id", "text"])
            write_questions(output / role, name, pairs, development_corpus(texts, pairs["doc_id"], seed))
    return counts


def _write_pairs(
    files: list[Path], path: Path, split: Split, id_of_key: pl.DataFrame, near: HeldOutTexts
) -> tuple[dict[str, int], int]:
    """Write the training pairs; return their number by kind, and how many nearly equal a held-out text."""
    counts: Counter[str] = Counter()
    dropped = 0
    with _frame_writer(path) as write:
        for before, frame in tracked(_parts(files), "Comparing with held-out texts"):
            rows = frame.filter(split.role[before : before + len(frame)] == "train")
            is_near = near.near(rows["query"]) | near.near(rows["positive"])
            dropped += int(is_near.sum())
            rows = _with_ids(rows.filter(pl.Series(~is_near, dtype=pl.Boolean)), id_of_key)
            counts.update(rows["kind"].to_list())
            write(rows.select("query", "positive", "doc_id", "kind", "file", "heading", "line"))
    return dict(counts.most_common()), dropped
