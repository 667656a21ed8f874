"""Real texts of real, skewed lengths for the benchmarks: the Python documentation of this machine."""

from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.python_docs import build

DATA = Path("cache/benchmark-python-docs")


def documentation() -> Path:
    """Build the data once; return its folder."""
    if not (DATA / "summary.json").exists():
        build(DATA)
    return DATA


def passages(count: int) -> list[str]:
    """Return `count` passages in shuffled order."""
    texts = pl.read_parquet(documentation() / "eval/retrieval/PythonDocs/corpus.parquet")["text"]
    return texts.sample(min(count, len(texts)), seed=0, shuffle=True).to_list()


def triples(rows: int, negatives: int) -> pl.DataFrame:
    """Return `rows` queries with one positive and so many random other passages as negatives."""
    pairs = pl.read_parquet(documentation() / "train/retrieval.parquet").head(rows)
    pool = passages(5000)
    generator = np.random.default_rng(0)
    drawn = [
        [pool[place] for place in generator.choice(len(pool), negatives, replace=False)]
        for _ in range(len(pairs))
    ]
    return pairs.select("query", positive=pl.col("positive").list.head(1)).with_columns(
        negative=pl.Series(drawn)
    )
