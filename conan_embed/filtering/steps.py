"""What is done to one shard: steps, each a function of the run's folder and the shard's number.

    read       read, normalise, language, rules, prompt-response rules; fingerprints of what is left
    (join)     duplicates over all shards: `duplicates.find_duplicates`
    check      duplicates dropped, safety, quality, decontamination
    score      teacher scores, where the recipe names a teacher
    finish     pairs under the teacher's minimum dropped; kept and dropped pairs written

A step is a loop over stages (`stage.Stage`). It writes a folder aside and renames it, so a killed step leaves nothing
behind, and a finished one is not repeated.
"""

import contextlib
import functools
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import polars as pl
from pydantic import TypeAdapter

from conan_embed.files import atomic_write, read_json, write_json
from conan_embed.filtering.decontamination import Decontamination, EvaluationIndex
from conan_embed.filtering.duplicates import DropDuplicates
from conan_embed.filtering.engine import Progress
from conan_embed.filtering.language import Languages
from conan_embed.filtering.measures import Measures
from conan_embed.filtering.minhash import fingerprints
from conan_embed.filtering.normalise import Normaliser
from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES, PromptResponseRules
from conan_embed.filtering.quality import QualityFilter, QualityModel
from conan_embed.filtering.readers import Shard, read_shard
from conan_embed.filtering.recipe import FilterRecipe
from conan_embed.filtering.rules import RULES, Rules, active_rules
from conan_embed.filtering.safety import Safe, read_block_lists, with_hosts
from conan_embed.filtering.stage import LANGUAGE_COLUMNS, PAIR_COLUMNS, Stage
from conan_embed.filtering.summary import BadRows
from conan_embed.filtering.teacher import Encoder, TeacherScores, score_pairs

Result = TypeVar("Result")
SCORE_BINS = 100  # of the cosine from -1 to 1: the scores of some models all lie within a few tenths
_SAMPLE_CHARACTERS = 400
_GROUP_ROWS = 8192  # streamed training shuffles row groups: small ones shuffle well


@dataclass(frozen=True)
class Run:
    """A filter run: its recipe, its shards, and its output folder."""

    recipe: FilterRecipe
    shards: tuple[Shard, ...]
    output: Path

    @property
    def work(self) -> Path:
        return self.output / "work"

    def folder(self, step: str, number: int) -> Path:
        """Return the folder that a step writes for a shard."""
        return self.work / step / f"{number:05d}"

    def todo(self, step: str) -> list[int]:
        """Return the shards for which a step is not done yet."""
        return [shard.number for shard in self.shards if not self.folder(step, shard.number).is_dir()]

    @contextlib.contextmanager
    def write(self, step: str, number: int) -> Iterator[Path]:
        """Yield an empty folder that becomes the step's when the block ends well."""
        with atomic_write(self.folder(step, number)) as folder:
            folder.mkdir()
            yield folder


@dataclass
class Counts:
    """What one step counted in one shard.

    Attributes:
        left: pairs left after each stage, by category.
        applied: pairs to which each reason applied.
        seconds: processor time of each stage (which other users of the machine do not change).
        sources: pairs read, by source.
        languages: side -> "source\\tlanguage" -> pairs.
        bad_rows: rows that could not be read, by file.
    """

    left: dict[str, dict[str, int]] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    languages: dict[str, dict[str, int]] = field(default_factory=dict)
    bad_rows: list[BadRows] = field(default_factory=list)

    def count(self, stage: str, pairs: pl.DataFrame) -> None:
        self.left[stage] = _value_counts(pairs, "category")

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - start


@dataclass(frozen=True)
class ShardResult:
    """What the summary needs of a finished shard.

    Attributes:
        counts: of its steps, in order.
        kept_sources: kept pairs by source.
        dropped: rows of (stage, reason, category, pairs).
        samples: dropped pairs to show.
        scores: category -> pairs in each bin of the teacher's score.
    """

    counts: list[Counts]
    kept_sources: dict[str, int]
    dropped: list[tuple[str, str, str, int]]
    samples: list[dict[str, object]]
    scores: dict[str, list[int]]


def apply_stages(
    stages: Sequence[Stage], pairs: pl.DataFrame, counts: Counts
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Send pairs through the stages; return those that are kept, and those that each stage dropped."""
    dropped = []
    for stage in stages:
        with counts.timed(stage.name):
            outcome = stage(pairs)
        pairs = outcome.kept
        dropped.append(outcome.dropped)
        counts.applied |= outcome.applied
        counts.count(stage.name, pairs)
    return pairs, dropped


def read_step(run: Run, number: int) -> Progress:
    """Read a shard and apply the stages that need neither other shards nor lists."""
    recipe, shard, counts = run.recipe, run.shards[number], Counts()
    with counts.timed("read"):
        batch = read_shard(shard, recipe.sources[shard.source])
    pairs, counts.bad_rows = batch.pairs, batch.bad
    rows = pairs.height
    counts.count("read", pairs)
    counts.sources = _value_counts(pairs, "source")
    if recipe.safety.enabled and recipe.safety.domains:
        pairs = with_hosts(pairs)
    pairs, dropped = apply_stages(_read_stages(recipe), pairs, counts)
    with counts.timed("duplicates"):
        keys, texts = fingerprints(pairs, recipe.duplicates, near=_needs_near(recipe))
    counts.languages = _count_languages([pairs, *dropped])
    hosts = ["hosts"] if "hosts" in pairs.columns else []
    with run.write("read", number) as folder:
        _write_work(pairs.select(*PAIR_COLUMNS, *LANGUAGE_COLUMNS, *hosts), folder / "pairs.parquet")
        _write_work(keys, folder / "keys.parquet")
        _write_work(texts, folder / "texts.parquet")
        _write_work(pl.concat(dropped), folder / "dropped.parquet")
        write_json(folder / "counts.json", asdict(counts))
    return Progress(rows, pairs.height)


def _read_stages(recipe: FilterRecipe) -> list[Stage]:
    return [
        Normaliser(recipe.normalise),
        Measures(),
        Languages(recipe.language),
        Rules(active_rules(RULES, recipe.rules, "rules")),
        PromptResponseRules(active_rules(PROMPT_RESPONSE_RULES, recipe.prompt_response, "prompt_response")),
    ]


def _needs_near(recipe: FilterRecipe) -> bool:
    """Return whether anything searches for near-duplicates."""
    near_evaluation = bool(recipe.decontaminate.paths) and recipe.decontaminate.near
    return (recipe.duplicates.enabled and recipe.duplicates.near) or near_evaluation


def check_step(run: Run, number: int) -> Progress:
    """Drop duplicates, unsafe pairs and evaluation texts."""
    read, counts = run.folder("read", number), Counts()
    pairs = pl.read_parquet(read / "pairs.parquet")
    kept, dropped = apply_stages(_check_stages(run, number, pairs), pairs, counts)
    with run.write("check", number) as folder:
        _write_work(kept.select(*PAIR_COLUMNS, *LANGUAGE_COLUMNS), folder / "pairs.parquet")
        _write_work(
            pl.concat([*dropped, pl.read_parquet(read / "dropped.parquet")]), folder / "dropped.parquet"
        )
        write_json(folder / "counts.json", asdict(counts))
    return Progress(pairs.height, kept.height)


def _check_stages(run: Run, number: int, pairs: pl.DataFrame) -> list[Stage]:
    recipe, read = run.recipe, run.folder("read", number)
    stages: list[Stage] = []
    if recipe.duplicates.enabled:
        stages.append(DropDuplicates(pl.read_parquet(run.work / "join" / f"{number:05d}.parquet")))
    if recipe.safety.enabled:
        stages.append(Safe(read_block_lists(recipe.safety), recipe.safety))
    if recipe.quality.good:
        stages.append(QualityFilter(QualityModel.load(run.work / "quality.npz"), recipe.quality))
    if recipe.decontaminate.paths:
        path = run.work / "evaluation.parquet"
        index = _evaluation_index(path, path.stat().st_mtime_ns)
        keys, texts = (pl.read_parquet(read / f"{name}.parquet") for name in ("keys", "texts"))
        stages.append(Decontamination(index, recipe.decontaminate, pairs, keys, texts))
    return stages


@functools.lru_cache(maxsize=1)
def _evaluation_index(path: Path, modified: int) -> EvaluationIndex:
    """Read the index of evaluation texts, once a process for all its shards."""
    return EvaluationIndex(pl.read_parquet(path))


def score_step(run: Run, number: int, encoder: Encoder) -> Progress:
    """Score a shard with the teacher."""
    pairs, counts = pl.read_parquet(run.folder("check", number) / "pairs.parquet"), Counts()
    with counts.timed("teacher"):
        scores = score_pairs(pairs, encoder, run.recipe.teacher)
    with run.write("score", number) as folder:
        scores.write_parquet(folder / "scores.parquet")
        write_json(folder / "counts.json", asdict(counts))
    return Progress(pairs.height, pairs.height)


def finish_step(run: Run, number: int) -> Progress:
    """Write a shard's kept and dropped pairs, and what the summary needs of it."""
    checked, counts = run.folder("check", number), Counts()
    pairs = pl.read_parquet(checked / "pairs.parquet")
    dropped, scores = [pl.read_parquet(checked / "dropped.parquet")], {}
    steps, kept = ["read", "check"], pairs
    if run.recipe.teacher.model is not None:
        steps.append("score")
        score = pl.read_parquet(run.folder("score", number) / "scores.parquet")
        scored = pairs.join(score, on="id", how="left", maintain_order="left")
        scores = _score_histogram(scored)
        kept, low = apply_stages([TeacherScores(run.recipe.teacher)], scored, counts)
        dropped += low
    every_dropped = pl.concat(dropped).sort("id")
    _write_pairs(run, number, kept.sort("id"), every_dropped)
    earlier = [read_as(Counts, run.folder(step, number) / "counts.json") for step in steps]
    result = ShardResult(
        counts=[*earlier, counts],
        kept_sources=_value_counts(kept, "source"),
        dropped=_count_dropped(every_dropped),
        samples=_samples(every_dropped, run.recipe.engine.samples),
        scores=scores,
    )
    with run.write("finish", number) as folder:
        write_json(folder / "result.json", asdict(result))
    return Progress(pairs.height, kept.height)


def read_result(run: Run, number: int) -> ShardResult:
    """Read what `finish_step` wrote."""
    return read_as(ShardResult, run.folder("finish", number) / "result.json")


def read_as(kind: type[Result], path: Path) -> Result:
    """Read a dataclass that was written as JSON."""
    return TypeAdapter(kind).validate_python(read_json(path))


def _write_pairs(run: Run, number: int, kept: pl.DataFrame, dropped: pl.DataFrame) -> None:
    # One folder for each category, so that training can give each its share. Many disks take "News" and "news", or two
    # spellings of an accent, for one name: there one file would overwrite the other.
    folder = pl.col("category").str.normalize("NFC").str.to_lowercase().str.replace_all(r"\W+", "_")
    parts = kept.with_columns(folder=folder).partition_by("folder", include_key=False, as_dict=True)
    for (name,), part in parts.items():
        _write_output(part, run.output / "kept" / (name or "_") / f"{number:05d}.parquet")
    _write_output(dropped, run.output / "dropped" / f"{number:05d}.parquet")


def _write_work(frame: pl.DataFrame, path: Path) -> None:
    """Write an intermediate file, lightly compressed: it is read once or twice soon, and then removed."""
    frame.write_parquet(path, compression="lz4", statistics=False)


def _write_output(pairs: pl.DataFrame, path: Path) -> None:
    with atomic_write(path) as aside:
        pairs.write_parquet(aside, compression="zstd", row_group_size=_GROUP_ROWS)


def _value_counts(pairs: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(pairs[column].value_counts().sort(column).iter_rows())


def _count_languages(parts: Sequence[pl.DataFrame]) -> dict[str, dict[str, int]]:
    """Count the languages of both sides by source, of all pairs that got as far as having one."""
    pairs = pl.concat([part.select("source", *LANGUAGE_COLUMNS) for part in parts]).drop_nulls()
    languages = {}
    for column in LANGUAGE_COLUMNS:
        counts = pairs.group_by("source", column).len().sort("source", column)
        by_name = {f"{source}\t{code}": count for source, code, count in counts.iter_rows()}
        languages[column.removesuffix("_language")] = by_name
    return languages


def _score_histogram(scored: pl.DataFrame) -> dict[str, list[int]]:
    bin_ = ((pl.col("score") + 1) / 2 * SCORE_BINS).floor().clip(0, SCORE_BINS - 1).cast(pl.Int64)
    histogram: dict[str, list[int]] = {}
    for category, index, count in scored.group_by("category", bin_).len().iter_rows():
        histogram.setdefault(category, [0] * SCORE_BINS)[index] = count
    return histogram


def _count_dropped(dropped: pl.DataFrame) -> list[tuple[str, str, str, int]]:
    return dropped.group_by("stage", "dropped_by", "category").len().sort(pl.all()).rows()


def _samples(dropped: pl.DataFrame, count: int) -> list[dict[str, object]]:
    """Choose samples of each reason by a hash of the id, so that another run shows the same ones."""
    order = [int.from_bytes(hashlib.blake2b(str(i).encode(), digest_size=6).digest()) for i in dropped["id"]]
    shuffled = dropped.with_columns(pl.Series("order", order, dtype=pl.UInt64)).sort("order")
    chosen = shuffled.group_by("dropped_by", maintain_order=True).head(count)
    texts = [pl.col(side).str.slice(0, _SAMPLE_CHARACTERS) for side in ("query", "positive")]
    return chosen.with_columns(texts).drop(LANGUAGE_COLUMNS).to_dicts()
