"""Rows of a query, its positive and its hard negatives, as other libraries' trainers read them."""

from collections.abc import Mapping

import polars as pl

from conan_embed.negatives.table import NegativeTable
from conan_embed.texts.tasks import Tasks


def mined_rows(tasks: Tasks, table: NegativeTable, count: int) -> pl.DataFrame:
    """Return query, positive and `negative_0`, `negative_1`, ...: the first ranks; queries with fewer are left out."""
    records, start = [], 0
    for data in tasks.retrieval:
        for row in range(len(data)):
            negatives = table.ranking_QK[start + row, :count]
            texts = (data.query_Q[row], data.positives[data.list_Q[row]][0], *negatives)
            if (negatives >= 0).all():
                records.append([tasks.store.text(int(text)) for text in texts])
        start += len(data)
    columns = ["query", "positive", *(f"negative_{number}" for number in range(count))]
    return pl.DataFrame(records, schema=columns, orient="row")


def with_prompts(rows: pl.DataFrame, prompts: Mapping[str, str]) -> pl.DataFrame:
    """Put the prompt of queries before the column `query`, and that of passages before the others."""
    return rows.with_columns(
        (pl.lit(prompts["query" if name == "query" else "passage"]) + pl.col(name)).alias(name)
        for name in rows.columns
    )
