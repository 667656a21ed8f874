"""Pairs of queries and positives: the training data of a retrieval model, from a file or from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl
import xxhash

from conan_embed.errors import UserError
from conan_embed.files import atomic_write
from conan_embed.texts.checked_rows import check_rows
from conan_embed.texts.columns import CORPUS, RETRIEVAL, ColumnNames, TableSchema
from conan_embed.texts.readers import OnBadRow, read_corpus, read_retrieval
from conan_embed.texts.rows import columnar

if TYPE_CHECKING:
    import pandas as pd

Frame: TypeAlias = "pl.DataFrame | pd.DataFrame | Sequence[Mapping[str, Any]]"
"""Rows in memory."""

CACHE = Path("cache")
"""Where pairs that came from memory are written when a recipe needs a file (also the recipes' own default)."""

_MEMORY = Path("data in memory")  # how messages call it


@dataclass(frozen=True, repr=False)
class Pairs:
    """Queries with their positives and, if the source has any, negatives: Q rows, one per query.

    Made by `read_pairs`; a list of dicts, a polars or a pandas frame will do as well as a file.

    Attributes:
        frame: columns `query: str`, `positive: list[str]`, `negative: list[str]` (may be empty), [Q].
        name: how tables and recipes call these pairs.
        source: the file that they are, whole and unchanged, or None.
        columns: the source's names for the columns.

    Example:
        >>> pairs = ce.read_pairs([{"query": "reset?", "positive": "Hold the button."}], name="faq")
        >>> pairs
        Pairs 'faq': 1 query, 1.0 positives and 0.0 negatives each
          reset?  ->  Hold the button.
        >>> len(pairs)
        1
    """

    frame: pl.DataFrame
    name: str
    source: Path | None = None
    columns: Mapping[str, str | Sequence[str]] | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        positives, negatives = (
            self.frame[side].list.len().sum() / len(self) for side in ("positive", "negative")
        )
        noun = "query" if len(self) == 1 else "queries"
        sides = f"{positives:.1f} positives and {negatives:.1f} negatives each"
        rows = self.frame.head(3).select("query", pl.col("positive").list.first()).rows()
        lines = [f"  {_short(query)}  ->  {_short(positive)}" for query, positive in rows]
        return "\n".join([f"Pairs {self.name!r}: {len(self):,} {noun}, {sides}", *lines])

    def _repr_html_(self) -> str:
        return self.frame.head(10)._repr_html_()

    def head(self, n: int = 5) -> Pairs:
        """Return the first `n` rows.

        Example:
            >>> rows = [{"query": f"question {i}", "positive": f"answer {i}"} for i in range(20)]
            >>> len(ce.read_pairs(rows).head(3))
            3
        """
        return Pairs(self.frame.head(n), self.name)

    def to_frame(self) -> pl.DataFrame:
        """Return the rows as a polars frame: `query: str`, `positive: list[str]`, `negative: list[str]`.

        Example:
            >>> ce.read_pairs([{"query": "reset?", "positive": "Hold the button."}]).to_frame().columns
            ['query', 'positive', 'negative']
        """
        return self.frame

    def split(self, test: float = 0.1, *, seed: int = 0) -> tuple[Pairs, Pairs]:
        """Split into training and test pairs; equal queries, whatever their case and spaces, go to the same side.

        Args:
            test: share of the distinct queries that go to the test side, above 0 and below 1.
            seed: another seed, another split.

        Raises:
            UserError: one of the sides would be empty.

        Example:
            >>> rows = [{"query": f"question {i}", "positive": f"answer {i}"} for i in range(20)]
            >>> train, test = ce.read_pairs(rows, name="faq").split(0.25)
            >>> len(train), len(test), test.name
            (15, 5, 'faq-test')
        """
        from conan_embed.documents.held_out import text_key

        keys = text_key(self.frame["query"])
        queries = keys.unique(maintain_order=True)
        num_test = round(test * len(queries))
        if not 0 < num_test < len(queries):
            raise UserError(
                f"split: {test} of {len(queries)} distinct queries leaves one side empty; expected a share in between."
            )
        chosen = queries.sample(num_test, seed=seed)
        is_test = keys.is_in(chosen.implode())
        return (
            Pairs(self.frame.filter(~is_test), f"{self.name}-train"),
            Pairs(self.frame.filter(is_test), f"{self.name}-test"),
        )

    def save(self, path: str | Path) -> Path:
        """Write the pairs as Parquet, where recipes and every other tool can read them; return the path.

        Example:
            >>> path = ce.read_pairs([{"query": "reset?", "positive": "Hold the button."}]).save("faq.parquet")
            >>> len(ce.read_pairs(path))
            1
        """
        with atomic_write(path) as aside:
            self.frame.write_parquet(aside)
        return Path(path)

    def recipe_entry(self) -> dict[str, Any]:
        """Return these pairs as an entry of a recipe's `data.retrieval`; pairs from memory are written to `cache/`."""
        if self.source is not None:
            return {"name": self.name, "path": str(self.source), "columns": dict(self.columns or {})}
        return {"name": self.name, "path": str(to_cache(self.frame))}


def read_pairs(
    source: str | Path | Frame | Pairs,
    columns: ColumnNames | None = None,
    *,
    name: str | None = None,
    on_bad_row: OnBadRow = "error",
) -> Pairs:
    """Read pairs of queries and positives, perhaps with negatives, from a file or from memory.

    Files: JSON lines, JSON, CSV, TSV (each also with .gz or .zst), Parquet, a folder or a pattern of such files, or a
    saved Hugging Face dataset. Usual column names are recognised: `query`/`anchor`/`question`, `positive`/`pos`/
    `answer`/`passage`, `negative`/`neg`/`negative_1...`; a positive or a negative is a text or a list of texts.

    Args:
        source: a path, a polars or pandas frame, or a list of dicts.
        columns: the source's names for our columns: `{"query": "title", "positive": "answer"}`.
        name: how tables and recipes call the pairs; by default the file's name.
        on_bad_row: "error" stops at the first bad row, "drop" leaves bad rows out and says how many and why. In
            memory, the first bad row is always an error.

    Raises:
        UserError: names the file, the line and the column, what was found and what was expected.

    Example:
        >>> rows = [{"title": "How do I reset it?", "answer": "Hold the button for ten seconds."}]
        >>> ce.read_pairs(rows, columns={"query": "title", "positive": "answer"}, name="faq")
        Pairs 'faq': 1 query, 1.0 positives and 0.0 negatives each
          How do I reset it?  ->  Hold the button for ten seconds.
        >>> ce.read_pairs(rows)
        Traceback (most recent call last):
            ...
        conan_embed.errors.UserError: data in memory: found the columns 'title' and 'answer', expected 'query', ...
    """
    if isinstance(source, Pairs):
        return source if name is None else Pairs(source.frame, name, source.source, source.columns)
    if isinstance(source, str | Path):
        frame = read_retrieval(source, columns, on_bad_row=on_bad_row)
        # Only a file without dropped rows is the same for whoever reads it next.
        kept = Path(source) if on_bad_row == "error" else None
        return Pairs(frame, name or Path(source).name.split(".")[0] or "pairs", kept, columns)
    return Pairs(_from_memory(source, RETRIEVAL, columns), name or "pairs")


def read_passages(
    source: str | Path | Frame | Sequence[str], columns: ColumnNames | None = None
) -> pl.DataFrame:
    """Return passages, `doc_id: str, text: str`, from a file, a frame, a list of dicts or a list of texts."""
    if isinstance(source, str | Path):
        return read_corpus(source, columns)
    if not isinstance(source, pl.DataFrame) and len(source) and isinstance(next(iter(source)), str):
        source = pl.DataFrame({"text": list(source)})
    frame = _from_memory(source, CORPUS, columns)
    number = pl.int_range(1, pl.len() + 1).cast(pl.String)
    return frame.with_columns(pl.col("doc_id").fill_null(number))


def to_cache(frame: pl.DataFrame, folder: Path = CACHE) -> Path:
    """Write a frame to `folder`/data under a name that is a hash of its content; return the path."""
    key = xxhash.xxh3_128_hexdigest(frame.write_ipc(None, compat_level=pl.CompatLevel.oldest()).getvalue())
    path = folder / "data" / f"{key}.parquet"
    if not path.exists():
        with atomic_write(path) as aside:
            frame.write_parquet(aside)
    return path


def _from_memory(data: Frame, schema: TableSchema, columns: ColumnNames | None) -> pl.DataFrame:
    """Check rows in memory as those of a file are checked."""
    frame = _as_polars(data)
    if frame.is_empty():
        raise UserError(f"{_MEMORY}: found no rows, expected at least one.")
    schema = schema.with_names(columns)
    sources = schema.sources(_MEMORY, frame.columns)
    rows = check_rows(columnar(_MEMORY, schema, sources, frame), schema)
    if (first := rows.first_fault()) is not None:
        raise UserError(f"{_MEMORY}: {first}.")
    return rows.frame


def _as_polars(data: Frame) -> pl.DataFrame:
    if isinstance(data, pl.DataFrame):
        return data
    try:
        if hasattr(data, "iloc"):  # pandas, which is not ours to import
            return pl.from_pandas(data)
        return pl.DataFrame(data, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"{_MEMORY}: cannot be read as a table: {reason}.") from error


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
