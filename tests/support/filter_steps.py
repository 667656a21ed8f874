"""Shards of a filter run as `check_step` leaves them, with random pairs."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from conan_embed.files import write_json
from conan_embed.filtering.readers import Shard
from conan_embed.filtering.recipe import Engine, FilterRecipe, Source, Teacher
from conan_embed.filtering.steps import Counts, Run

CATEGORIES = ("web page", "知识/问答", "!")
REASONS = (("normalise", "empty"), ("rules", "copy"), ("duplicates", "near_duplicate"))


def random_pairs(count: int, *, seed: int, first: int = 0) -> pl.DataFrame:
    """Return pairs with ids from `first` on."""
    rng = random.Random(seed)
    return pl.DataFrame(
        {
            "id": pl.Series(range(first, first + count), dtype=pl.UInt64),
            "query": pl.Series([f"问题 {number}" for number in range(count)], dtype=pl.String),
            "positive": pl.Series([f"answer {number}" for number in range(count)], dtype=pl.String),
            **{
                name: pl.Series([rng.choice(values) for _ in range(count)], dtype=pl.String)
                for name, values in (
                    ("category", CATEGORIES),
                    ("source", ("one", "two\ttabs")),
                    ("query_language", ("zh", "en")),
                    ("positive_language", ("zh", "en")),
                )
            },
        }
    )


def random_dropped(count: int, *, seed: int, first: int) -> pl.DataFrame:
    """Return pairs that stages dropped, in no order."""
    rng = random.Random(seed)
    reasons = [rng.choice(REASONS) for _ in range(count)]
    pairs = random_pairs(count, seed=seed, first=first).with_columns(
        stage=pl.Series([stage for stage, _ in reasons], dtype=pl.String),
        dropped_by=pl.Series([reason for _, reason in reasons], dtype=pl.String),
        value=pl.Series([rng.random() for _ in range(count)], dtype=pl.Float64),
        duplicate_of=pl.lit(None, pl.UInt64),
    )
    return pairs.sample(fraction=1.0, shuffle=True, seed=seed)


def checked_run(
    output: Path,
    shards: Sequence[tuple[pl.DataFrame, pl.DataFrame, Sequence[float]]],
    *,
    teacher: Teacher | None = None,
    samples: int = 5,
) -> Run:
    """Write shards of (pairs left, pairs dropped, scores) and return their run."""
    recipe = FilterRecipe(
        sources=(Source(path="x"),), teacher=teacher or Teacher(), engine=Engine(samples=samples)
    )
    run = Run(recipe, tuple(Shard(number, 0, "x", None) for number in range(len(shards))), output)
    for number, (pairs, dropped, scores) in enumerate(shards):
        every = pl.concat([pairs, dropped], how="diagonal")
        read, check = Counts(), Counts()
        read.count("read", every)
        read.sources = dict(every["source"].value_counts().iter_rows())
        read.languages = {
            "query": {
                f"{source}\t{code}": count
                for source, code, count in every.group_by("source", "query_language").len().iter_rows()
            }
        }
        read.applied = dict(dropped["dropped_by"].value_counts().iter_rows())
        read.seconds = {"rules": 2.0}
        check.count("duplicates", pairs)
        for step, counts in (("read", read), ("check", check), ("score", Counts())):
            with run.write(step, number) as folder:
                write_json(folder / "counts.json", asdict(counts))
                if step == "check":
                    pairs.write_parquet(folder / "pairs.parquet")
                    dropped.write_parquet(folder / "dropped.parquet")
                if step == "score":
                    score = pl.Series("score", scores, dtype=pl.Float32)
                    pl.DataFrame({"id": pairs["id"], "score": score}).write_parquet(folder / "scores.parquet")
    return run
