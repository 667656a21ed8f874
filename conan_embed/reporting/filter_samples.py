"""Dropped pairs to read on the page of a filter output, those of duplicates with the pair that they resemble."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from conan_embed.filtering import summary
from conan_embed.reporting.filters import Filtered

_LETTERS = 400  # of a text


@dataclass(frozen=True)
class Sample:
    """A dropped pair; `original` is the pair that a duplicate resembles."""

    query: str
    positive: str
    meta: str
    original: Mapping[str, str] | None


@dataclass(frozen=True)
class Samples:
    """Dropped pairs of one reason."""

    name: str
    about: str
    of: str
    pairs: Sequence[Sample]


def samples(filtered: Filtered) -> list[Samples]:
    """Return dropped pairs of every reason, those of duplicates with the pair that they resemble."""
    shown = [reason for reason in filtered.reasons if reason.samples]
    ids = (sample.duplicate_of for reason in shown for sample in reason.samples)
    originals: dict[Any, dict[str, str]] = _pairs(filtered.path, {id for id in ids if id is not None})
    return [
        Samples(
            name=reason.reason,
            about=reason.about,
            of=f"{len(reason.samples)} of {reason.dropped:,}",
            pairs=[
                Sample(sample.query, sample.positive, _meta(sample), originals.get(sample.duplicate_of))
                for sample in reason.samples
            ],
        )
        for reason in shown
    ]


def _meta(sample: summary.Sample) -> str:
    parts = [] if sample.value is None else [f"value {sample.value:.4g}"]
    parts += dict.fromkeys([sample.category, sample.source])
    parts += [f"pair {sample.id}"]
    parts += [f"like pair {sample.duplicate_of}"] if sample.duplicate_of is not None else []
    return " · ".join(parts)


def _pairs(folder: Path, ids: set[int]) -> dict[int, dict[str, str]]:
    """Look up pairs of the output by id; those whose files are gone or damaged are left out."""
    pairs: dict[int, dict[str, str]] = {}
    if not ids:
        return pairs
    columns = ["id", "query", "positive"]
    texts = [pl.col(side).str.slice(0, _LETTERS) for side in columns[1:]]
    for part in ("kept", "dropped"):
        for file in sorted((folder / part).rglob("*.parquet")):
            wanted = pl.scan_parquet(file).select(columns).filter(pl.col("id").is_in(ids))
            with contextlib.suppress(pl.exceptions.PolarsError, OSError):
                pairs |= {row["id"]: row for row in wanted.with_columns(texts).collect().to_dicts()}
    return pairs
