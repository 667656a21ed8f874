"""Data and base model of run.py: one large domain, questions held out, a base that is new to it.

    DATA/pretrain (technical documentation) -> pairs.parquet, corpus.parquet, eval/retrieval/Docs, eval of other domains

The pool is every passage of the domain, about 128,000, so that an informative negative hardly ever comes with the batch
for nothing. Queries are heading paths; those that share a passage (directly or through others) stay on one side of the
split, and evaluation searches the whole pool. The base is the lower layers of a small encoder, the upper half of
them drawn anew, which then learns from in-batch negatives only: it has never seen a hard one.
"""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from conan_embed.documents.held_out import connected_groups
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.files import atomic_write, write_json

DOCUMENTATION = (
    *("web_lctt_docs", "web_lctt_sections", "web_lctt_en", "web_goldminer", "web_tidb_docs", "web_oiwiki"),
    *("web_javaguide", "web_react_zh", "web_d2l_zh", "web_weekly", "web_howtocook", "qa_javaguide"),
)
OTHER_DOMAINS = ("MedicalQA", "DuReaderRobust", "CMRC2018")
SHORTEST_QUERY = 6  # characters; shorter headings ("Summary") ask for nothing


def write_domain(data: Path, folder: Path, *, num_train: int, num_held_out: int) -> None:
    """Write the training pairs, the pool and the evaluation folder; does nothing where they are.

    Args:
        data: laid out as docs/data.md says.
        num_train, num_held_out: queries on each side of the split.
    """
    if (folder / "domain.json").exists():
        return
    pairs = _read_documentation(data)
    queries = pairs.group_by("query", maintain_order=True).agg("positive", "passage", "component")
    held_out, train = _split(queries, num_held_out, num_train)
    corpus = pairs.unique("passage", keep="first", maintain_order=True).select(
        pl.col("passage").cast(pl.String).alias("doc_id"), text="positive"
    )
    _write(train.select("query", "positive"), folder / "pairs.parquet")
    _write(corpus, folder / "corpus.parquet")
    docs = folder / "eval/retrieval/Docs"
    _write(corpus, docs / "corpus.parquet")
    _write(held_out.select("query_id", text="query"), docs / "queries.parquet")
    judged = held_out.explode("passage").select(
        "query_id", pl.col("passage").cast(pl.String).alias("doc_id"), score=pl.lit(1)
    )
    _write(judged, docs / "qrels.parquet")
    for name in OTHER_DOMAINS:
        for file in (data / "eval/retrieval" / name).glob("*.parquet"):
            _write(pl.read_parquet(file), folder / "eval/retrieval" / name / file.name)
    counts = {"passages": len(corpus), "train queries": len(train), "held-out queries": len(held_out)}
    write_json(folder / "domain.json", counts)


def _read_documentation(data: Path) -> pl.DataFrame:
    """Return query, positive, passage (number of the text) and component (number of the connected group) of each pair."""
    files = [data / "pretrain" / f"{name}.parquet" for name in DOCUMENTATION]
    pairs = pl.concat([pl.read_parquet(file, columns=["query", "positive"]) for file in files])
    pairs = pairs.filter(pl.col("query").str.len_chars() >= SHORTEST_QUERY).unique(maintain_order=True)
    query = pairs["query"].rank("dense").to_numpy().astype(np.int64) - 1
    return pairs.with_columns(
        passage=pl.col("positive").rank("dense").cast(pl.Int64) - 1,
        component=pl.Series(connected_groups(query, pairs["positive"])),
    )


def _split(queries: pl.DataFrame, num_held_out: int, num_train: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return held-out and training queries, drawn by component, so that no passage answers on both sides."""
    queries = queries.with_columns(pl.col("component").list.first())
    order = queries["component"].unique(maintain_order=True).sample(fraction=1, shuffle=True, seed=0)
    position = pl.DataFrame({"component": order, "position": pl.Series(range(len(order)))})
    drawn = queries.join(position, on="component", maintain_order="left").sort("position")
    end = drawn["component"][num_held_out - 1]
    first_train = (
        int((drawn["component"] == end).arg_true().max() or 0) + 1
    )  # a component is never cut in two
    held_out = (
        drawn.head(first_train).with_row_index("query_id").with_columns(pl.col("query_id").cast(pl.String))
    )
    return held_out, drawn.slice(first_train, num_train)


def _write(frame: pl.DataFrame, path: Path) -> None:
    with atomic_write(path) as aside:
        frame.write_parquet(aside)


def write_fresh(base: Path, output: Path, num_layers: int, seed: int = 0) -> None:
    """Write the first layers of `base`, the upper half of them drawn anew; does nothing where the folder is."""
    if output.exists():
        return
    model = EmbeddingModel.load(base)
    layers = model.encoder.encoder.layer
    del layers[num_layers:]
    model.encoder.config.num_hidden_layers = num_layers
    torch.manual_seed(seed)
    for layer in layers[num_layers // 2 :]:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=model.encoder.config.initializer_range)
                torch.nn.init.zeros_(module.bias)
            elif isinstance(module, torch.nn.LayerNorm):
                module.reset_parameters()
    model.save(output)
