"""The formats that files may have, by their names: each reader turns a file into `rows.Rows`.

A reader finds the columns that a schema needs and brings their cells into one form; columns that the schema does not
need are not looked at.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from conan_embed.errors import UserError
from conan_embed.texts.cells import Fault
from conan_embed.texts.columns import TableSchema, listed
from conan_embed.texts.delimited import header_of, read_delimited, records_in
from conan_embed.texts.json_rows import json_batches, read_json
from conan_embed.texts.rows import Part, Rows, columnar, suffix_of, used

Reader = Callable[[Path, TableSchema, Part | None], Rows]


def format_of(path: Path) -> Reader | None:
    """Return the function that reads a file like this one, by its name; None for an unknown format."""
    if path.is_dir():
        is_saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
        return _read_saved_dataset if is_saved else None
    return READERS.get(suffix_of(path))


def _read_parquet(path: Path, schema: TableSchema, part: Part | None) -> Rows:
    sources = schema.sources(path, list(pl.read_parquet_schema(path)))
    rows = pl.scan_parquet(path, glob=False).select(used(sources))
    start, stop = part or (0, None)
    frame = rows.slice(start, None if stop is None else stop - start).collect()
    return columnar(path, schema, sources, frame, start + 1)


def _read_saved_dataset(path: Path, schema: TableSchema, part: Part | None) -> Rows:
    assert part is None
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{path}: found a folder saved by Hugging Face datasets, expected that package to be installed: "
            f"pip install 'conan-embed[datasets]'."
        ) from None
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise UserError(f"{path}: found the splits {listed(splits)}, expected one, e.g. {path / splits[0]}.")
    dataset = datasets.load_from_disk(str(path))
    sources = schema.sources(path, dataset.column_names)
    return columnar(path, schema, sources, dataset.select_columns(used(sources)).to_polars())


def names_in(path: Path) -> list[str]:
    """Return the names of a file's columns (of JSON, those of its first rows)."""
    if path.is_dir():  # saved by Hugging Face datasets
        return list(json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))["features"])
    match suffix_of(path):
        case ".parquet":
            return list(pl.read_parquet_schema(path))
        case ".csv" | ".tsv":
            return header_of(path, records_in(path))
        case _:
            _, rows = next(json_batches(path, None), (range(0), []))
            return list(dict.fromkeys(itertools.chain(*(row for row in rows if not isinstance(row, Fault)))))


READERS: Mapping[str, Reader] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".parquet": _read_parquet,
}
