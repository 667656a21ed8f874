"""What a stage gives back: the pairs that stay, the pairs that go with the reason, and how often each reason
applied.

A stage is a pure function from a batch of pairs (a polars frame, which is Arrow) to an `Outcome`. Every pair
has `id` (UInt64: shard number in the upper 32 bits, row in the shard below), `query`, `positive`, `category`,
`source`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

PAIR_COLUMNS = ("id", "query", "positive", "category", "source")
LANGUAGE_COLUMNS = ("query_language", "positive_language")
REASON_COLUMNS = ("stage", "dropped_by", "value", "duplicate_of")


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    kept: the pairs that stay, with all their columns.
    dropped: the pairs that go, with `stage`, `dropped_by` (the first reason that applied), `value` (what it
        measured, Float64) and `duplicate_of` (the id of the pair that stays instead, UInt64).
    applied: how many pairs each reason applied to, whether or not an earlier reason took them.
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame
    applied: dict[str, int]


def split(pairs: pl.DataFrame, stage: str, reasons: Mapping[str, tuple[pl.Expr, pl.Expr]]) -> Outcome:
    """Take out the pairs to which a reason applies.

    Args:
        reasons: in order, name to (whether the pair goes: boolean, null for no; the value to report).
    """
    if not reasons:
        return Outcome(pairs, with_reason(pairs.clear(), stage), {})
    flags = pairs.select(flag.fill_null(False).alias(name) for name, (flag, _) in reasons.items())
    applied = dict(zip(flags.columns, flags.sum().row(0), strict=True)) if pairs.height else {}
    which = flags.select(
        pl.coalesce(pl.when(pl.col(name)).then(pl.lit(name)) for name in reasons).alias("dropped_by")
    )["dropped_by"]
    gone = which.is_not_null()
    dropped = pairs.filter(gone).with_columns(which.drop_nulls())
    value = pl.coalesce(
        pl.when(pl.col("dropped_by") == name).then(value.cast(pl.Float64))
        for name, (_, value) in reasons.items()
    )
    dropped = dropped.with_columns(value.alias("value"))
    return Outcome(pairs.filter(~gone), with_reason(dropped, stage), {k: v for k, v in applied.items() if v})


def with_reason(dropped: pl.DataFrame, stage: str) -> pl.DataFrame:
    """Bring dropped pairs to the columns that all stages share."""
    defaults: dict[str, tuple[object, type[pl.DataType]]] = {
        "query_language": (None, pl.String),
        "positive_language": (None, pl.String),
        "stage": (stage, pl.String),
        "dropped_by": (None, pl.String),
        "value": (None, pl.Float64),
        "duplicate_of": (None, pl.UInt64),
    }
    missing = [
        pl.lit(value, dtype=dtype).alias(name)
        for name, (value, dtype) in defaults.items()
        if name not in dropped.columns
    ]
    return dropped.with_columns(missing).select(*PAIR_COLUMNS, *LANGUAGE_COLUMNS, *REASON_COLUMNS)
