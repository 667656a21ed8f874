"""Training pairs, cleaned: the filter's rules and its search for duplicates, one row a query.

Texts stay as they are (the passages of the corpus must be known again), and of the rules those are off that stand in
the way of technical documents: tables, code and version numbers are what people search there.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from conan_embed.errors import UserError
from conan_embed.filtering.pipeline import filter_pairs
from conan_embed.filtering.recipe import FilterRecipe

MIN_PAIRS = 30
_OFF = (
    *("query_symbols", "positive_symbols", "query_punctuation", "positive_punctuation"),
    *("query_digits", "positive_digits", "query_letters", "positive_letters"),
    *(
        "navigation",
        "truncated",
        "repeated_grams",
        "repeated_lines",
        "positive_characters",
        "positive_tokens",
    ),
)
_OFF_SECTIONS = ("normalise", "language", "safety")


@dataclass(frozen=True)
class CleanPairs:
    """Attributes:
    path: `query`, `positive` (a list): what is trained on.
    queries: rows.
    kept, dropped: pairs.
    reasons: dropped pairs by reason.
    """

    path: Path
    queries: int
    kept: int
    dropped: int
    reasons: dict[str, int]

    def sentence(self) -> str:
        return (
            f"{self.queries:,} training queries; the filter dropped {self.dropped:,} of "
            f"{self.kept + self.dropped:,} pairs"
        )


def clean_pairs(pairs: Path, work: Path, output: Path, *, workers: int | None = None) -> CleanPairs:
    """Filter pairs and put those of one query together.

    Args:
        pairs: `query`, `positive`.
        work: folder of the filter's run.
        output: the file to write.

    Raises:
        UserError: fewer than MIN_PAIRS are left.
    """
    recipe = FilterRecipe.model_validate(
        {
            "sources": [{"path": str(pairs), "name": "pairs"}],
            "rules": dict.fromkeys(_OFF, False),
            **{section: {"enabled": False} for section in _OFF_SECTIONS},
            "engine": {"workers": workers},
        }
    )
    summary = filter_pairs(recipe, work)
    reasons = {reason.reason: reason.dropped for reason in summary.reasons if reason.dropped}
    if summary.kept < MIN_PAIRS:
        raise UserError(
            f"{pairs}: {summary.kept} training pairs are left after cleaning, expected {MIN_PAIRS} or more: "
            "give more documents."
        )
    kept = pl.read_parquet(sorted((work / "kept").rglob("*.parquet")), columns=["id", "query", "positive"])
    grouped = (
        kept.sort("id")
        .group_by("query", maintain_order=True)
        .agg(pl.col("positive").unique(maintain_order=True))
    )
    grouped.write_parquet(output)
    return CleanPairs(output, len(grouped), summary.rows.kept, summary.rows.dropped, reasons)
