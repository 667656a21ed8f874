"""Where raw pairs come from: files are cut into shards, and a shard is read into a batch.

A shard is a range of rows of a Parquet file or a range of bytes of a JSON-lines file (at line ends), so that
it can be read without the rest. The list of shards is a function of the recipe and the files; a pair's id is
its shard's number and its row there, so ids do not depend on who reads what when.
"""

import glob
import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from conan_embed.errors import UserError, suggestion
from conan_embed.filtering.conversations import read_alpaca, read_messages
from conan_embed.filtering.recipe import Source

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json")
GENERATED = ("instruction", "llm_generated")  # categories written by language models
_LINE_BYTES = 1024  # what a line is taken to weigh when JSON lines are cut


@dataclass(frozen=True)
class Shard:
    """Attributes:
    number: place in the list of shards.
    source: place of its source in the recipe.
    path: the file.
    start, stop: rows (Parquet) or bytes (JSON lines); a JSON array is one shard.
    """

    number: int
    source: int
    path: str
    start: int
    stop: int


def source_files(path: str, *, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Return the files that a path, a folder or a glob names, sorted.

    Raises:
        UserError: there is none, or one of another kind.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.suffix in suffixes)
    elif place.is_file():
        files = [place]
    else:
        files = sorted(Path(name) for name in glob.glob(path, recursive=True))
    if not files:
        raise UserError(f"{path}: no file there (expected {', '.join(suffixes)}).")
    for file in files:
        if file.suffix not in suffixes:
            raise UserError(f"{file}: cannot read {file.suffix!r} files (expected {', '.join(suffixes)}).")
    return files


def plan_shards(sources: tuple[Source, ...], shard_rows: int) -> list[Shard]:
    """Cut the files of all sources into shards of about `shard_rows` rows.

    Raises:
        UserError: a source has no files, or a Parquet file cannot be read.
    """
    ranges: list[tuple[int, str, int, int]] = []
    for place, source in enumerate(sources):
        for file in source_files(source.path):
            if file.suffix == ".parquet":
                try:
                    size = pq.read_metadata(file).num_rows
                except (OSError, ValueError) as error:
                    raise UserError(f"{file}: not a Parquet file: {error}.") from None
                step = shard_rows
            else:
                size = file.stat().st_size
                step = size if file.suffix == ".json" else shard_rows * _LINE_BYTES
            # An empty file still is one (empty) shard, so that it shows in the summary.
            ranges += [
                (place, str(file), at, min(at + step, size)) for at in range(0, max(size, 1), max(step, 1))
            ]
    return [Shard(number, *rest) for number, rest in enumerate(ranges)]


def _read_json_lines(shard: Shard) -> pl.DataFrame:
    """Read the lines that begin in the shard's range of bytes."""
    with open(shard.path, "rb") as file:
        # A line belongs to the range in which its first byte lies.
        if shard.start:
            file.seek(shard.start - 1)
            file.readline()
        begin = file.tell()
        size = Path(shard.path).stat().st_size
        file.seek(min(shard.stop, size) - 1 if shard.stop else 0)
        file.readline()
        end = file.tell()
        if end <= begin:
            return pl.DataFrame()
        file.seek(begin)
        content = file.read(end - begin)
    records = []
    for offset, line in enumerate(content.splitlines()):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                where = f"byte {begin}, line {offset + 1} from there" if begin else f"line {offset + 1}"
                raise UserError(f"{shard.path}: {where}: not JSON: {error}.") from None
    return _frame(records, shard.path)


def _frame(records: list[object], path: str) -> pl.DataFrame:
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise UserError(f"{path}: record {number}: expected an object, found {type(record).__name__}.")
    return pl.DataFrame(records, infer_schema_length=None, strict=False)


def _read_json_array(path: str) -> pl.DataFrame:
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}.") from None
    if not isinstance(records, list):
        raise UserError(f"{path}: expected a JSON array of records, found {type(records).__name__}.")
    return _frame(records, path)


def read_shard(shard: Shard, source: Source) -> pl.DataFrame:
    """Read a shard: `id`, `query`, `positive`, `category`, `source`, `prompt_response` (boolean).

    Raises:
        UserError: a column is missing or is not text, or a record is not JSON.
    """
    suffix = Path(shard.path).suffix
    if suffix == ".parquet":
        records = pl.scan_parquet(shard.path).slice(shard.start, shard.stop - shard.start).collect()
    elif suffix == ".json":
        records = _read_json_array(shard.path)
    else:
        records = _read_json_lines(shard)
    if not records.width:
        records = pl.DataFrame(schema={source.query: pl.String, source.positive: pl.String})
    elif source.format == "alpaca":
        records = read_alpaca(records, source)
    elif source.format == "messages":
        records = read_messages(records, source)
    columns = (source.query, source.positive) if source.format == "pairs" else ("query", "positive")
    for name in columns:
        if name not in records.columns:
            found = ", ".join(records.columns)
            raise UserError(
                f"{shard.path}: no column {name!r}{suggestion(name, records.columns)} (found: {found})."
            )
        if records.schema[name] not in (pl.String, pl.Null):
            raise UserError(f"{shard.path}: column {name!r} holds {records.schema[name]}, expected text.")
    if source.category is not None or "category" not in records.columns:
        category = pl.lit(source.category or "uncategorised")
    else:
        category = pl.col("category").cast(pl.String).fill_null("uncategorised")
    marked = source.prompt_response
    chat = (
        pl.lit(marked)
        if marked is not None
        else pl.lit(source.format != "pairs") | pl.col("category").is_in(GENERATED)
    )
    rows = pl.int_range(pl.len(), dtype=pl.UInt64)
    return records.select(
        (rows + (shard.number << 32)).alias("id"),
        pl.col(columns[0]).cast(pl.String).alias("query"),
        pl.col(columns[1]).cast(pl.String).alias("positive"),
        category.alias("category"),
        pl.lit(source.name or Path(shard.path).stem).alias("source"),
    ).with_columns(chat.alias("prompt_response"))
