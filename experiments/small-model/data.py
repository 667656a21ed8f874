"""Data of the small model: filtered pairs by category, graded pairs and questions held out to choose by, the rest to train.

    WORK/pairs/CATEGORY.parquet           filtered weak pairs; parallel.parquet: English and Chinese
    WORK/train/{sts,retrieval}/...        training files without the held-out rows
    WORK/development/{sts,retrieval}/...  laid out as an evaluation folder: everything is chosen by these

The sets that the table reports are never looked at for a choice. Rows that share a text, directly or through others, stay
on one side.
"""

from pathlib import Path

import numpy as np
import polars as pl

from conan_embed.documents.held_out import connected_groups
from conan_embed.files import atomic_write
from conan_embed.filtering.pipeline import filter_pairs
from conan_embed.filtering.recipe import FilterRecipe

CATEGORIES = (
    *("news", "knowledge_base", "web_page", "academic_paper"),
    *("community_qa", "instruction", "llm_generated"),
)
PARALLEL = ("python_docs", "titles_lctt_goldminer", "terms_lctt", "alpaca_instructions")
HELD_OUT = 600  # pairs of each graded set, at most a tenth of it
HELD_OUT_QUESTIONS = 500


def write_data(data: Path, work: Path) -> None:
    """Write all files; those that are there stay."""
    write_pairs(data, work / "pairs")
    for file in sorted((data / "finetune/sts").glob("*.parquet")):
        write_graded(file, work)
    write_questions(data / "finetune", work)


def write_pairs(data: Path, folder: Path) -> None:
    """Filter the weak pairs; write a file for each category, and one of parallel text."""
    filtered = folder.with_name("filtered")
    if not all((folder / f"{category}.parquet").exists() for category in CATEGORIES):
        filter_pairs(
            FilterRecipe.model_validate({"sources": [{"path": str(data / "pretrain/*.parquet")}]}), filtered
        )
        kept = pl.read_parquet(filtered / "kept" / "*" / "*.parquet")
        for category in CATEGORIES:
            write(kept.filter(pl.col("category") == category), folder / f"{category}.parquet")
    files = [data / f"parallel/{name}.parquet" for name in PARALLEL]
    parallel = pl.concat([pl.read_parquet(file, columns=["en", "zh"]) for file in files])
    write(parallel.rename({"en": "query", "zh": "positive"}), folder / "parallel.parquet")


def write_graded(file: Path, work: Path) -> None:
    """Split a file of graded pairs into training rows and development rows."""
    pairs = pl.read_parquet(file).unique(maintain_order=True)
    component = _components(pairs["text_a"], pairs["text_b"])
    held_out = _drawn(component, min(HELD_OUT, len(pairs) // 10))
    write(pairs.filter(held_out), work / "development/sts" / file.name)
    write(pairs.filter(~held_out), work / "train/sts" / file.name)


def write_questions(finetune: Path, work: Path) -> None:
    """Hold out questions of DRCD; their passages stay in the corpus, and no training question has one of them."""
    pairs = pl.read_parquet(finetune / "retrieval/drcd_dev.parquet")
    corpus = pl.read_parquet(finetune / "corpus/drcd_dev.parquet")
    flat = pairs.with_row_index("row").explode("positive")
    component = _components(flat["query"], flat["positive"])
    held_out_rows = flat.filter(_drawn(component, HELD_OUT_QUESTIONS))["row"].unique()
    is_held_out = pl.Series(range(len(pairs))).is_in(held_out_rows.implode())
    questions = pairs.filter(is_held_out).with_row_index("query_id").cast({"query_id": pl.String})
    folder = work / "development/retrieval/DRCD"
    write(corpus, folder / "corpus.parquet")
    write(questions.select("query_id", text="query"), folder / "queries.parquet")
    ids = corpus.select("doc_id", positive="text")
    judged = (
        questions.explode("positive").join(ids, on="positive").select("query_id", "doc_id", score=pl.lit(1))
    )
    write(judged, folder / "qrels.parquet")
    write(pairs.filter(~is_held_out), work / "train/retrieval/drcd_dev.parquet")


def write(frame: pl.DataFrame, path: Path) -> None:
    if not path.exists():
        with atomic_write(path) as aside:
            frame.write_parquet(aside)


def _components(left: pl.Series, right: pl.Series) -> np.ndarray:
    """Return int [rows]: rows with a text in common, directly or through others, have one number."""
    rows = np.arange(len(left))
    return connected_groups(np.concatenate([rows, rows]), pl.concat([left, right]))[: len(left)]


def _drawn(component: np.ndarray, count: int) -> pl.Series:
    """Return bool [rows]: whole components drawn at random until they hold `count` rows, none of more than a fifth."""
    sizes = np.bincount(component)
    order = np.random.default_rng(0).permutation(np.flatnonzero((sizes > 0) & (sizes <= max(1, count // 5))))
    chosen = order[: np.searchsorted(np.cumsum(sizes[order]), count) + 1]
    return pl.Series(np.isin(component, chosen))
