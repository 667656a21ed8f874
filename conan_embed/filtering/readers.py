"""Where raw pairs come from: files are cut into shards, and a shard is read into a batch.

Files are read by `texts.readers`, as everywhere: the same formats, column names and checks. A shard is a range of rows
of a Parquet file, a range of bytes of JSON lines (cut at line ends), or a whole file of another kind. The shards are a
function of the recipe and the files; a pair's id is the number of its shard and its number there, so it does not depend
on who reads what when. A bad row does not end the run: it is left out and counted, with its place.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from conan_embed.errors import UserError
from conan_embed.filtering.conversations import alpaca_pairs, conversation_pairs
from conan_embed.filtering.recipe import Source
from conan_embed.filtering.summary import BadRows
from conan_embed.texts.columns import RETRIEVAL, Column, TableSchema
from conan_embed.texts.formats import format_of
from conan_embed.texts.readers import data_files, read_rows

GENERATED = ("instruction", "llm_generated")  # categories written by language models
_LINE_BYTES = 1024  # assumed weight of a line where JSON lines are cut

_COLUMNS = {
    "pairs": RETRIEVAL.columns[:2],
    "alpaca": (
        Column("instruction", "text"),
        Column("input", "text", required=False),
        Column("output", "text"),
    ),
    "messages": (Column("messages", "messages", ("conversations", "conversation")),),
}
_CATEGORY = Column("category", "name", required=False)


@dataclass(frozen=True)
class Shard:
    """A unit of work.

    Attributes:
        number: its index in the list of shards.
        source: the index of its source in the recipe.
        path: the file.
        part: start and stop, rows (Parquet) or bytes (JSON lines); None for the whole file.
    """

    number: int
    source: int
    path: str
    part: tuple[int, int] | None


@dataclass(frozen=True)
class Batch:
    """What is read of a shard: pairs, and what was wrong with the other rows."""

    pairs: pl.DataFrame
    bad: list[BadRows] = field(default_factory=list)


def source_files(path: str) -> list[Path]:
    """Return the files that a path, a folder (with those below it) or a pattern stands for, sorted.

    Raises:
        UserError: there is none, or one of an unknown format.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() or format_of(folder):
        return data_files(path)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and format_of(file))
    return [file for file in files if not file.name.startswith(".")] or data_files(path)


def plan_shards(sources: Sequence[Source], shard_rows: int) -> list[Shard]:
    """Cut the files of all sources into shards of about `shard_rows` rows.

    Raises:
        UserError: a source has no files, or a Parquet file cannot be read.
    """
    parts = [
        (number, str(file), part)
        for number, source in enumerate(sources)
        for file in source_files(source.path)
        for part in _parts(file, shard_rows)
    ]
    return [Shard(number, *part) for number, part in enumerate(parts)]


def _parts(file: Path, shard_rows: int) -> Iterable[tuple[int, int] | None]:
    if file.suffix == ".parquet":
        try:
            size, step = pq.read_metadata(file).num_rows, shard_rows
        except (OSError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise UserError(f"{file}: not a Parquet file: {reason}.") from None
    elif file.suffix in (".jsonl", ".ndjson"):
        size, step = file.stat().st_size, shard_rows * _LINE_BYTES
    else:
        return [None]
    # An empty file is one empty shard, so that it shows in the summary.
    return [(start, min(start + step, size)) for start in range(0, max(size, 1), step)]


def read_shard(shard: Shard, source: Source) -> Batch:
    """Read a shard.

    Returns:
        `id`, `query`, `positive`, `category`, `source`, `prompt_response` (boolean); a row with several positives
        gives a pair for each.

    Raises:
        UserError: the file cannot be read, or its first shard lacks a column.
    """
    rows = read_rows(Path(shard.path), _schema(shard, source), shard.part)
    first = rows.first_fault()
    bad = [BadRows(shard.path, rows.reasons.total(), dict(rows.reasons), first)] if first else []
    records = rows.good_rows()
    if not records.width:
        return Batch(_with_ids(_no_pairs(), shard, source), bad)
    if source.format == "alpaca":
        records = alpaca_pairs(records)
    elif source.format == "messages":
        records = conversation_pairs(records, source.turns)
    else:
        # An empty list becomes null, which stays a pair (and is dropped as empty); exploded, it would be lost.
        filled = pl.when(pl.col("positive").list.len() > 0).then("positive")
        records = records.with_columns(filled.alias("positive")).explode("positive")
    return Batch(_with_ids(records, shard, source), bad)


def _no_pairs() -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(("query", "positive", "category"), pl.String))


def _schema(shard: Shard, source: Source) -> TableSchema:
    """Return what to read of a file; only its first shard must have all columns, since lines may leave some out."""
    is_first = shard.part is None or shard.part[0] == 0
    columns = _COLUMNS[source.format] + ((_CATEGORY,) if source.category is None else ())
    schema = TableSchema(
        tuple(replace(column, required=column.required and is_first, filled=False) for column in columns)
    )
    names = {"query": source.query, "positive": source.positive} if source.format == "pairs" else {}
    return schema.with_names({ours: theirs for ours, theirs in names.items() if theirs is not None})


def _with_ids(records: pl.DataFrame, shard: Shard, source: Source) -> pl.DataFrame:
    category = pl.lit(source.category) if source.category else pl.col("category").fill_null("uncategorised")
    generated = pl.lit(source.format != "pairs") | pl.col("category").is_in(GENERATED)
    return records.select(
        id=pl.int_range(pl.len(), dtype=pl.UInt64) + (shard.number << 32),
        query=pl.col("query"),
        positive=pl.col("positive"),
        category=category,
        source=pl.lit(source.name or Path(shard.path).stem),
    ).with_columns(
        prompt_response=generated if source.prompt_response is None else pl.lit(source.prompt_response)
    )


def read_texts(path: str, columns: Sequence[str]) -> pl.Series:
    """Return every text in some columns (strings or lists of strings) of a path's files; columns may be missing.

    Raises:
        UserError: the path has no files, or none of them has text in one of the columns.
    """
    texts = []
    for file in source_files(path):
        schema = _texts_schema(file, columns)
        frame = read_rows(file, schema).good_rows()
        texts += [frame[name].explode().rename("text") for name in frame.columns]
    if not any(column.count() for column in texts):
        raise UserError(f"{path}: none of the columns {', '.join(columns)} there holds text.")
    return pl.concat(texts)


def _texts_schema(file: Path, columns: Sequence[str]) -> TableSchema:
    if file.suffix == ".parquet":  # where a column of another type would be an error of the whole file
        types = pl.read_parquet_schema(file)
        columns = [name for name in columns if types.get(name) in (pl.String, pl.List(pl.String))]
    return TableSchema(tuple(Column(name, "texts", required=False, filled=False) for name in columns))


def merge_bad_rows(parts: Iterable[BadRows]) -> list[BadRows]:
    """Add up the bad rows of each file; the first place is that of its first shard that has any."""
    by_path: dict[str, list[BadRows]] = {}
    for part in parts:
        by_path.setdefault(part.path, []).append(part)
    return [
        BadRows(path, sum(bad.rows for bad in parts_of_file), _add_up(parts_of_file), parts_of_file[0].first)
        for path, parts_of_file in by_path.items()
    ]


def _add_up(parts: list[BadRows]) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for bad in parts:
        reasons.update(bad.reasons)
    return dict(reasons.most_common())
