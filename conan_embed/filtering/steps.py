"""What is done to one shard: three steps, each a function of the run's folder and the shard's number.

    read       read, normalise, language, rules, prompt-response rules; fingerprints of what is left
    (join)     duplicates over all shards: `duplicates.find_duplicates`
    check      duplicates taken out, safety, decontamination
    finish     teacher scores compared, kept and dropped pairs written

A step writes a folder aside and renames it, so a step that was killed leaves nothing, and one that is done is
not done again. Teacher scores are a fourth step where the recipe names a teacher.
"""

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from conan_embed.files import atomic_write, read_json, write_json
from conan_embed.filtering.decontamination import EvaluationIndex, check_evaluation, resemblance
from conan_embed.filtering.duplicates import fingerprints
from conan_embed.filtering.language import check_language, with_languages
from conan_embed.filtering.measures import with_measures
from conan_embed.filtering.normalise import normalise
from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES, check_prompt_response
from conan_embed.filtering.readers import Shard, read_shard
from conan_embed.filtering.recipe import FilterRecipe
from conan_embed.filtering.rules import RULES, active_rules, apply_rules
from conan_embed.filtering.safety import check_safety, read_block_lists, with_hosts
from conan_embed.filtering.stage import LANGUAGE_COLUMNS, PAIR_COLUMNS, Outcome, split
from conan_embed.filtering.teacher import Encoder, check_teacher, score_pairs

STAGES = (
    "normalise",
    "language",
    "rules",
    "prompt_response",
    "duplicates",
    "safety",
    "decontamination",
    "teacher",
)
_SAMPLE_CHARACTERS = 400


@dataclass(frozen=True)
class Run:
    """Where a run lives. Attributes: `recipe`; `shards`, its plan; `output`, its folder."""

    recipe: FilterRecipe
    shards: tuple[Shard, ...]
    output: Path

    @property
    def work(self) -> Path:
        return self.output / "work"

    def place(self, step: str, number: int) -> Path:
        """Return the folder that a step writes for a shard."""
        return self.work / step / f"{number:05d}"

    def todo(self, step: str) -> list[int]:
        """Return the shards for which a step is not done yet."""
        return [shard.number for shard in self.shards if not self.place(step, shard.number).is_dir()]


class _Account:
    """Counts of one shard while it goes through the stages."""

    def __init__(self) -> None:
        self.left: dict[str, dict[str, int]] = {}
        self.applied: dict[str, int] = {}
        self.seconds: dict[
            str, float
        ] = {}  # of processor time, which other users of the machine do not change
        self.dropped: list[pl.DataFrame] = []

    def count(self, stage: str, pairs: pl.DataFrame) -> None:
        counts = pairs["category"].value_counts().sort("category")
        self.left[stage] = dict(counts.iter_rows())

    def through(self, stage: str, run: Callable[[], Outcome]) -> pl.DataFrame:
        start = time.process_time()
        outcome = run()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - start
        self.dropped.append(outcome.dropped)
        for name, number in outcome.applied.items():
            self.applied[name] = self.applied.get(name, 0) + number
        self.count(stage, outcome.kept)
        return outcome.kept

    def write(self, folder: Path, **more: Any) -> None:
        _write_work(pl.concat(self.dropped), folder / "dropped.parquet")
        counts = {"left": self.left, "applied": self.applied, "seconds": self.seconds, **more}
        write_json(folder / "counts.json", counts)


def _normalised(pairs: pl.DataFrame, recipe: FilterRecipe) -> Outcome:
    clean = normalise(pairs, recipe.normalise)
    empty = (pl.col("query") == "") | (pl.col("positive") == "")
    return split(clean, "normalise", {"empty": (empty, pl.lit(None))})


def _languages(pairs: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Count the languages of both sides by source: {"query": {"source\\tlanguage": pairs}, ...}."""
    found = {}
    for column in LANGUAGE_COLUMNS:
        counts = pairs.group_by("source", column).len().sort("source", column)
        found[column.removesuffix("_language")] = {
            f"{name}\t{code}": n for name, code, n in counts.iter_rows()
        }
    return found


def read_step(run: Run, number: int) -> dict[str, Any]:
    """Read a shard and do everything to it that needs no other shard and no list."""
    recipe, shard, account = run.recipe, run.shards[number], _Account()
    start = time.process_time()
    pairs = read_shard(shard, recipe.sources[shard.source])
    account.count("read", pairs)
    sources = dict(pairs["source"].value_counts().sort("source").iter_rows())
    account.seconds["read"] = time.process_time() - start
    if recipe.safety.enabled and recipe.safety.domains:
        pairs = with_hosts(pairs)
    pairs = account.through("normalise", lambda: _normalised(pairs, recipe))
    start = time.process_time()
    pairs = with_measures(pairs)
    account.seconds["measures"] = time.process_time() - start
    start = time.process_time()
    pairs = with_languages(pairs, recipe.language)
    account.seconds["language"] = time.process_time() - start
    languages = _languages(pairs)
    if recipe.language.enabled:
        pairs = account.through("language", lambda: check_language(pairs, recipe.language))
    rules = active_rules(RULES, recipe.rules, "rules")
    pairs = account.through("rules", lambda: apply_rules(pairs, rules, "rules"))
    rules = active_rules(PROMPT_RESPONSE_RULES, recipe.prompt_response, "prompt_response")
    pairs = account.through("prompt_response", lambda: check_prompt_response(pairs, rules))
    start = time.process_time()
    near = (recipe.duplicates.enabled and recipe.duplicates.near) or _looks_for_near_evaluation(recipe)
    keys, texts = fingerprints(pairs, recipe.duplicates, near=near)
    account.seconds["duplicates"] = time.process_time() - start
    more = ["hosts"] if "hosts" in pairs.columns else []
    with atomic_write(run.place("read", number)) as folder:
        folder.mkdir()
        _write_work(pairs.select(*PAIR_COLUMNS, *LANGUAGE_COLUMNS, *more), folder / "pairs.parquet")
        _write_work(keys, folder / "keys.parquet")
        _write_work(texts, folder / "texts.parquet")
        account.write(folder, sources=sources, languages=languages)
    return {"rows": sum(sources.values()), "kept": pairs.height}


def _looks_for_near_evaluation(recipe: FilterRecipe) -> bool:
    return recipe.decontaminate.enabled and bool(recipe.decontaminate.paths) and recipe.decontaminate.near


def check_step(run: Run, number: int) -> dict[str, Any]:
    """Take out duplicates, unsafe pairs and evaluation texts."""
    recipe, account, read = run.recipe, _Account(), run.place("read", number)
    fingerprinted = pairs = pl.read_parquet(read / "pairs.parquet")
    before = pairs.height
    if recipe.duplicates.enabled:
        gone = pl.read_parquet(run.work / "join" / f"{number:05d}.parquet")
        reasons = {
            name: (pl.col("dropped_by") == name, pl.col("value"))
            for name in ("exact_duplicate", "near_duplicate", "query_repeats", "positive_repeats")
        }
        marked = pairs.join(gone, on="id", how="left", maintain_order="left")
        outcome = split(marked, "duplicates", reasons)
        kept = outcome.kept.select(pairs.columns)
        pairs = account.through("duplicates", lambda: Outcome(kept, outcome.dropped, outcome.applied))
    if recipe.safety.enabled:
        lists = read_block_lists(recipe.safety)
        pairs = account.through("safety", lambda: check_safety(pairs, lists, recipe.safety))
    if recipe.decontaminate.enabled and recipe.decontaminate.paths:
        start = time.process_time()
        path = run.work / "evaluation.parquet"
        index = _evaluation_index(path, path.stat().st_mtime_ns)
        texts = pl.read_parquet(read / "texts.parquet")
        similar = resemblance(fingerprinted, texts, index, recipe.decontaminate)
        keys = pl.read_parquet(read / "keys.parquet")
        account.seconds["decontamination"] = time.process_time() - start
        keyed = pairs.join(keys, on="id", how="left", maintain_order="left")
        pairs = account.through("decontamination", lambda: check_evaluation(keyed, similar))
    with atomic_write(run.place("check", number)) as folder:
        folder.mkdir()
        _write_work(pairs.select(*PAIR_COLUMNS, *LANGUAGE_COLUMNS), folder / "pairs.parquet")
        account.dropped.append(pl.read_parquet(read / "dropped.parquet"))
        account.write(folder)
    return {"rows": before, "kept": pairs.height}


@functools.lru_cache(maxsize=1)
def _evaluation_index(path: Path, written: int) -> EvaluationIndex:
    """Read the index of evaluation texts, once a process for all its shards."""
    return EvaluationIndex(pl.read_parquet(path))


def score_step(run: Run, number: int, encoder: Encoder) -> dict[str, Any]:
    """Score a shard with the teacher."""
    pairs = pl.read_parquet(run.place("check", number) / "pairs.parquet")
    start = time.process_time()
    scores = score_pairs(pairs, encoder, run.recipe.teacher)
    with atomic_write(run.place("score", number)) as folder:
        folder.mkdir()
        scores.write_parquet(folder / "scores.parquet")
        write_json(folder / "counts.json", {"seconds": {"teacher": time.process_time() - start}})
    return {"rows": pairs.height, "kept": pairs.height}


def finish_step(run: Run, number: int) -> dict[str, Any]:
    """Write a shard's kept and dropped pairs, and its part of the summary."""
    checked, account = run.place("check", number), _Account()
    pairs = pl.read_parquet(checked / "pairs.parquet")
    before = pairs.height
    histogram: dict[str, list[int]] = {}
    if run.recipe.teacher.model is not None:
        scores = pl.read_parquet(run.place("score", number) / "scores.parquet")
        pairs = pairs.join(scores, on="id", how="left", maintain_order="left")
        binned = pairs.group_by(
            "category", ((pl.col("score") + 1) / 2 * SCORE_BINS).floor().clip(0, SCORE_BINS - 1).alias("bin")
        )
        for category, place, size in binned.len().iter_rows():
            histogram.setdefault(category, [0] * SCORE_BINS)[int(place)] = size
        pairs = account.through("teacher", lambda: check_teacher(pairs, run.recipe.teacher))
    dropped = pl.concat([pl.read_parquet(checked / "dropped.parquet"), *account.dropped]).sort("id")
    # A folder a category, so that training can give each its share.
    by_folder = pl.col("category").str.replace_all(r"\W+", "_").alias("folder")
    parts_kept = (
        pairs.sort("id").with_columns(by_folder).partition_by("folder", include_key=False, as_dict=True)
    )
    for (name,), part in parts_kept.items():
        _write(part, run.output / "kept" / (name or "_") / f"{number:05d}.parquet")
    _write(dropped, run.output / "dropped" / f"{number:05d}.parquet")
    parts = [read_json(run.place(step, number) / "counts.json") for step in ("read", "check")]
    if run.recipe.teacher.model is not None:
        parts.append(read_json(run.place("score", number) / "counts.json"))
    parts.append({"left": account.left, "applied": account.applied, "seconds": account.seconds})
    kept_sources = dict(pairs["source"].value_counts().sort("source").iter_rows())
    with atomic_write(run.place("finish", number)) as folder:
        folder.mkdir()
        facts = {
            "parts": parts,
            "kept_sources": kept_sources,
            "dropped": _counted(dropped),
            "samples": _samples(dropped, run.recipe.engine.samples),
            "scores": histogram,
        }
        write_json(folder / "counts.json", facts)
    return {"rows": before, "kept": pairs.height}


SCORE_BINS = 100  # of the cosine from -1 to 1: the scores of some models lie all within a few tenths
_GROUP_ROWS = 8192  # a streamed training shuffles row groups: small ones shuffle well


def _write_work(frame: pl.DataFrame, path: Path) -> None:
    """Write what another step reads, once or twice: lightly compressed, since that is read soon and then removed."""
    frame.write_parquet(path, compression="lz4", statistics=False)


def _write(pairs: pl.DataFrame, path: Path) -> None:
    with atomic_write(path) as aside:
        pairs.write_parquet(aside, compression="zstd", row_group_size=_GROUP_ROWS)


def _counted(dropped: pl.DataFrame) -> list[list[Any]]:
    """Count the dropped pairs: rows of (stage, reason, category, source, pairs)."""
    counts = dropped.group_by("stage", "dropped_by", "category", "source").len()
    return [list(row) for row in counts.sort(pl.all()).iter_rows()]


def _samples(dropped: pl.DataFrame, number: int) -> list[dict[str, Any]]:
    """Choose samples for a person to read, by a hash of the id, so that a second run shows the same ones."""
    order = [int.from_bytes(hashlib.blake2b(str(i).encode(), digest_size=6).digest()) for i in dropped["id"]]
    chosen = dropped.with_columns(pl.Series("order", order, dtype=pl.UInt64)).sort("order")
    chosen = chosen.group_by("dropped_by", maintain_order=True).head(number)
    texts = [pl.col(side).str.slice(0, _SAMPLE_CHARACTERS) for side in ("query", "positive")]
    return chosen.with_columns(texts).drop(LANGUAGE_COLUMNS).to_dicts()
