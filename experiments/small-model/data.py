"""Data of the small model: training files, and rows of them held out to choose by.

    WORK/train/{sts,retrieval,classification}/NAME.parquet   rows to train on, shuffled: a recipe's limit is a sample
    WORK/train/corpus/NAME.parquet                           passages to mine from
    WORK/pairs/CATEGORY.parquet                              filtered weak pairs; parallel.parquet: English and Chinese
    WORK/development/{sts,retrieval}/...                     laid out as an evaluation folder: all choices are made here

No text of a development row is in any training file: graded pairs of all files are grouped by the texts that they share,
whole groups are held out, and rows of every other training file that hold one of these texts are left out. Texts count
as equal if their letters and digits are. Passages of a corpus stay, so that questions are asked among many.

The sets that the table reports are never looked at for a choice.
"""

from pathlib import Path

import numpy as np
import polars as pl
from sources import EVALUATED_SOURCES

from conan_embed.console import console
from conan_embed.documents.held_out import connected_groups
from conan_embed.files import atomic_write, write_json
from conan_embed.filtering.minhash import plain
from conan_embed.filtering.pipeline import filter_pairs
from conan_embed.filtering.recipe import FilterRecipe

CATEGORIES = (
    *("news", "knowledge_base", "web_page", "academic_paper"),
    *("community_qa", "instruction", "llm_generated"),
)
PARALLEL = ("python_docs", "titles_lctt_goldminer", "terms_lctt", "alpaca_instructions")
PAIRS_OF_A_SOURCE = 4000  # stage 1 sees 25,600 pairs in all, and filtering costs too
GRADED = 600  # development pairs of each graded file, at most a tenth of it
QUESTIONS = 300  # of each development set of retrieval
DEVELOPMENT_PASSAGES = 400  # beside the answers: scoring is what a candidate costs
MINED = {  # file: training file, passages to mine from
    "qa_medical_toyhom": ("pretrain", 1500),
    "web_tidb_docs": ("pretrain", 1500),
    "acad_paperlists_en": ("pretrain", 800),
    "c3_mixed": ("finetune/retrieval", 1500),
}
PARALLEL_PASSAGES = 1000
TEXTS = ("text_a", "text_b", "query", "positive", "negative", "text")


def write_data(data: Path, work: Path) -> None:
    """Write all files, once."""
    if (work / "data.json").exists():
        return
    console.rule("data")
    graded = {
        file.stem: pl.read_parquet(file).unique(maintain_order=True)
        for file in sorted((data / "finetune/sts").glob("*.parquet"))
    }
    held_out = hold_out_pairs(graded)
    for name, pairs in graded.items():
        write(pairs.filter(held_out[name]), work / f"development/sts/{name}.parquet")
    development = [pairs.filter(held_out[name]) for name, pairs in graded.items()]
    development += write_questions(data, work / "development/retrieval")
    known = texts_of(development)
    for name, pairs in graded.items():
        write_training(pairs.filter(~held_out[name]), known, work / f"train/sts/{name}.parquet")
    for kind in ("retrieval", "classification"):
        for file in sorted((data / f"finetune/{kind}").glob("*.parquet")):
            write_training(pl.read_parquet(file), known, work / f"train/{kind}/{file.name}")
    for name, (folder, _) in MINED.items():
        rows = pl.read_parquet(data / folder / f"{name}.parquet")
        write_training(rows, known, work / f"train/retrieval/{name}.parquet")
    write_pairs(data, work, known)
    write_corpora(data, work)
    write_json(work / "data.json", count_rows(work))


# ------------------------------------------------------------------------------------------------ development


def hold_out_pairs(graded: dict[str, pl.DataFrame]) -> dict[str, pl.Series]:
    """Return for each file which of its rows are held out, bool [rows]: whole groups, drawn at random.

    A group is what shares texts, directly or through others, over all files. Groups of more than a fifth of a file's
    share are never drawn: the logs of customer services hang together by thousands.
    """
    sizes = [len(pairs) for pairs in graded.values()]
    first, second = (
        plain(pl.concat([pairs[side] for pairs in graded.values()])) for side in ("text_a", "text_b")
    )
    rows = np.arange(len(first))
    group_R = connected_groups(np.concatenate([rows, rows]), pl.concat([first, second]))[: len(first)]
    file_R = np.repeat(np.arange(len(sizes)), sizes)
    num_groups = int(group_R.max()) + 1
    all_sizes_G = np.bincount(group_R, minlength=num_groups)
    order = np.random.default_rng(0).permutation(num_groups)
    is_drawn_G = np.zeros(num_groups, bool)
    for number, size in enumerate(sizes):
        wanted = min(GRADED, size // 10)
        size_G = np.bincount(group_R[file_R == number], minlength=num_groups)
        missing = wanted - size_G[is_drawn_G].sum()
        usable = order[(size_G[order] > 0) & (all_sizes_G[order] <= max(1, wanted // 5)) & ~is_drawn_G[order]]
        before = np.cumsum(size_G[usable]) - size_G[usable]
        is_drawn_G[usable[before < missing]] = True
    parts = np.split(is_drawn_G[group_R], np.cumsum(sizes)[:-1])
    return {name: pl.Series(part) for name, part in zip(graded, parts, strict=True)}


def write_questions(data: Path, folder: Path) -> list[pl.DataFrame]:
    """Write questions with their passages as sets of retrieval: Chinese, English, and across; return the pairs."""
    drcd = pl.read_parquet(data / "finetune/retrieval/drcd_dev.parquet").select("query", "positive")
    docs = pl.read_parquet(data / "pretrain/web_lctt_en.parquet").select("query", "positive")
    titles = pl.read_parquet(data / "parallel/titles_lctt_goldminer.parquet")
    return [
        write_set(drcd.explode("positive"), folder / "DRCD"),
        write_set(docs, folder / "LCTT-en"),
        write_set(titles.select(query="en", positive="zh"), folder / "Titles-en-zh"),
    ]


def write_set(pairs: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Write a set of retrieval from pairs drawn at random, one question of a passage; return all pairs of its texts."""
    shuffled = pairs.unique(maintain_order=True).sample(fraction=1.0, shuffle=True, seed=0)
    distinct = shuffled.unique("query", keep="first", maintain_order=True)
    asked = distinct.unique("positive", keep="first", maintain_order=True).head(QUESTIONS)
    others = shuffled["positive"].unique(maintain_order=True)
    others = others.filter(~others.is_in(asked["positive"].implode())).head(DEVELOPMENT_PASSAGES)
    corpus = pl.DataFrame({"text": pl.concat([asked["positive"], others])}).with_row_index("doc_id")
    corpus = corpus.cast({"doc_id": pl.String})
    queries = asked.with_row_index("query_id").cast({"query_id": pl.String})
    answers = pairs.filter(pl.col("query").is_in(asked["query"].implode())).unique()
    judged = (
        queries.select("query_id", "query")
        .join(answers, on="query")
        .join(corpus, left_on="positive", right_on="text")
        .select("query_id", "doc_id", score=pl.lit(1))
    )
    write(corpus, folder / "corpus.parquet")
    write(queries.select("query_id", text="query"), folder / "queries.parquet")
    write(judged, folder / "qrels.parquet")
    return asked


# --------------------------------------------------------------------------------------------------- training


def write_training(rows: pl.DataFrame, known: pl.Series, path: Path) -> None:
    """Write rows without those that hold a known text, shuffled."""
    write(
        rows.filter(~holds_text(rows, known)).sample(fraction=1.0, shuffle=True, seed=0),
        path,
    )


def write_pairs(data: Path, work: Path, known: pl.Series) -> None:
    """Filter a sample of the weak pairs of every source that is not an evaluated set's; write a file per category."""
    for file in sorted((data / "pretrain").glob("*.parquet")):
        if file.stem not in EVALUATED_SOURCES and not file.stem.startswith("social_"):
            pairs = pl.read_parquet(file)
            sample = pairs.sample(min(PAIRS_OF_A_SOURCE, len(pairs)), seed=0, shuffle=True)
            write(sample, work / f"sampled/{file.name}")
    recipe = {"sources": [{"path": str(work / "sampled")}]}
    filter_pairs(FilterRecipe.model_validate(recipe), work / "filtered")
    kept = pl.read_parquet(work / "filtered/kept/*/*.parquet")
    for category in CATEGORIES:
        write_training(kept.filter(pl.col("category") == category), known, work / f"pairs/{category}.parquet")
    files = [pl.read_parquet(data / f"parallel/{name}.parquet", columns=["en", "zh"]) for name in PARALLEL]
    parallel = pl.concat(files).select(query="en", positive="zh")
    write_training(parallel, known, work / "pairs/parallel.parquet")


def write_corpora(data: Path, work: Path) -> None:
    """Write the passages that negatives are mined from: few enough that a bank of them is cheap."""
    for name in ("drcd_dev", "cmrc_trial"):
        passages = pl.read_parquet(data / f"finetune/corpus/{name}.parquet").select("text")
        write(passages.unique(maintain_order=True), work / f"train/corpus/{name}.parquet")
    files = {work / f"train/retrieval/{name}.parquet": count for name, (_, count) in MINED.items()}
    for file, count in {**files, work / "pairs/parallel.parquet": PARALLEL_PASSAGES}.items():
        positives = pl.read_parquet(file)["positive"].head(count)
        if positives.dtype == pl.List:
            positives = positives.explode()
        passages = pl.DataFrame({"text": positives.unique(maintain_order=True)})
        write(passages, work / f"train/corpus/{file.name}")


# ------------------------------------------------------------------------------------------------------ texts


def texts_of(frames: list[pl.DataFrame]) -> pl.Series:
    """Return the distinct plain texts of frames, without empty ones."""
    columns = [
        frame[column].explode() if frame[column].dtype == pl.List else frame[column]
        for frame in frames
        for column in frame.columns
        if column in TEXTS
    ]
    texts = plain(pl.concat([column.rename("text").drop_nulls() for column in columns]).unique())
    return texts.filter(texts != "").unique()


def holds_text(rows: pl.DataFrame, known: pl.Series) -> pl.Series:
    """Return which rows hold one of the known texts, in any column: bool [rows]."""
    found = np.zeros(len(rows), bool)
    for column in (column for column in rows.columns if column in TEXTS):
        flat = rows.select(column).with_row_index("row")
        if rows[column].dtype == pl.List:
            flat = flat.explode(column)
        is_known = plain(flat[column].fill_null("")).is_in(known.implode())
        found[flat.filter(is_known)["row"].to_numpy()] = True
    return pl.Series(found)


def count_rows(work: Path) -> dict[str, int]:
    """Return the rows of every file, by its path below `work`."""
    files = [
        file
        for part in ("train", "pairs", "development")
        for file in sorted((work / part).rglob("*.parquet"))
    ]
    return {
        str(file.relative_to(work)): pl.scan_parquet(file).select(pl.len()).collect().item() for file in files
    }


def write(frame: pl.DataFrame, path: Path) -> None:
    with atomic_write(path) as aside:
        frame.write_parquet(aside)
