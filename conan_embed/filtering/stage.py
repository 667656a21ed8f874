"""A stage of the filter: it takes a batch of pairs and returns those that stay and those that go, with the reason.

A batch is a polars frame with `id` (UInt64: number of the shard in the upper 32 bits, row in the shard below), `query`,
`positive`, `category`, `source`, and whatever columns earlier stages added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import polars as pl

PAIR_COLUMNS = ("id", "query", "positive", "category", "source")
LANGUAGE_COLUMNS = ("query_language", "positive_language")
REASON_COLUMNS = ("stage", "dropped_by", "value", "duplicate_of")


@dataclass(frozen=True)
class Outcome:
    """What a stage did to a batch.

    Attributes:
        kept: the pairs that stay, with all their columns.
        dropped: the pairs that go, with `stage`, `dropped_by` (the first reason that applied), `value` (what it
            measured, Float64) and `duplicate_of` (the id of the pair that stays instead, UInt64).
        applied: how many pairs each reason applied to, including those that an earlier reason had taken.
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame
    applied: dict[str, int]


class Stage(Protocol):
    """One stage: a name for the funnel, and a pure function of a batch."""

    @property
    def name(self) -> str: ...

    def __call__(self, pairs: pl.DataFrame) -> Outcome: ...


def keep_all(pairs: pl.DataFrame, stage: str) -> Outcome:
    """Return the outcome of a stage that drops nothing."""
    return Outcome(pairs, with_reason(pairs.clear(), stage), {})


def split(pairs: pl.DataFrame, stage: str, reasons: Mapping[str, tuple[pl.Expr, pl.Expr]]) -> Outcome:
    """Drop the pairs to which a reason applies.

    Args:
        reasons: in order, name -> (whether the pair goes: boolean, null for no; the value to report).
    """
    if not reasons:
        return keep_all(pairs, stage)
    flags = pairs.select(flag.fill_null(False).alias(name) for name, (flag, _) in reasons.items())
    applied = dict(zip(flags.columns, flags.sum().row(0), strict=True)) if pairs.height else {}
    first = pl.coalesce(pl.when(pl.col(name)).then(pl.lit(name)) for name in reasons)
    reason = flags.select(first.alias("dropped_by"))["dropped_by"]
    value = pl.coalesce(
        pl.when(pl.col("dropped_by") == name).then(value.cast(pl.Float64))
        for name, (_, value) in reasons.items()
    )
    goes = reason.is_not_null()
    dropped = pairs.filter(goes).with_columns(reason.drop_nulls()).with_columns(value.alias("value"))
    applied = {name: count for name, count in applied.items() if count}
    return Outcome(pairs.filter(~goes), with_reason(dropped, stage), applied)


def with_reason(dropped: pl.DataFrame, stage: str) -> pl.DataFrame:
    """Bring dropped pairs to the columns that all stages share."""
    defaults = {
        **{name: pl.lit(None, pl.String) for name in (*LANGUAGE_COLUMNS, "dropped_by")},
        "stage": pl.lit(stage),
        "value": pl.lit(None, pl.Float64),
        "duplicate_of": pl.lit(None, pl.UInt64),
    }
    missing = {name: value for name, value in defaults.items() if name not in dropped.columns}
    return dropped.with_columns(**missing).select(*PAIR_COLUMNS, *LANGUAGE_COLUMNS, *REASON_COLUMNS)
