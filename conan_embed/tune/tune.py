"""`tune`: from documents or pairs to a model that searches them better, with the proof.

    pairs/                  passages, pairs and held-out questions (documents/build.py)
    recipe.yaml             the settings that were derived, an ordinary recipe
    training/               the run: metrics, report.html, the best model before merging
    model/                  the result
    passages.parquet        what to search, with sources
    index/                  its embeddings under model/
    tune.json               verdict, cost elsewhere, times (`TuneResult`)

The same command resumes a killed run.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.documents.build import PairSettings, PairsResult, build_pairs
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.results import TaskResult
from conan_embed.files import atomic_write, read_json, write_json
from conan_embed.training.run import train
from conan_embed.tune.merge import interpolate, set_weights, weights_of
from conan_embed.tune.other import write_other_domains
from conan_embed.tune.plan import SHARES, Facts, Files, Plan, make_plan
from conan_embed.tune.prepare import CleanPairs, clean_pairs
from conan_embed.tune.searching import write_index
from conan_embed.tune.speed import measure_speed
from conan_embed.tune.verdict import Verdict, judge

MAX_LOSS = 0.005
"""Of the mean score elsewhere: a share of tuned weights that loses more is not chosen if another loses less."""
MIN_QUESTIONS = 10
_LONGEST_PASSAGE = 256  # tokens; longer passages answer no better and cost more
_SPECIAL_TOKENS = 16  # room for prompt and special tokens
_SAMPLE = 512


@dataclass(frozen=True)
class TuneSettings:
    """Attributes:
    model: folder or hub name of the base model.
    minutes: for everything after the pairs; None for as long as the data is worth.
    other: evaluation folder of other domains; None for the built-in one.
    hold_out: share of the questions that are never trained on.
    overrides: `dotted.key=value` for the recipe.
    """

    model: str
    minutes: float | None = None
    other: Path | None = None
    hold_out: float = 0.1
    seed: int = 0
    overrides: tuple[str, ...] = ()
    workers: int = 1


@dataclass(frozen=True)
class Elsewhere:
    """Mean score of other domains before and after, fractions of one."""

    base: float
    tuned: float

    def sentence(self) -> str:
        difference = 100 * (self.tuned - self.base)
        return f"other domains: {100 * self.base:.1f} -> {100 * self.tuned:.1f} ({difference:+.1f})"


@dataclass(frozen=True)
class TuneResult:
    """What a run found; `tune.json` holds the same.

    Attributes:
        folder: see the top of this module.
        share: of the tuned weights in model/; the rest is the base's.
        tried: by share, the scores on development questions and elsewhere.
        seconds, estimated_seconds: of everything after the pairs.
    """

    folder: Path
    verdict: Verdict
    elsewhere: Elsewhere
    share: float
    tried: dict[str, dict[str, float]]
    seconds: float
    estimated_seconds: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder), "sentence": self.verdict.sentence()}

    def lines(self) -> list[str]:
        """Return the outcome for a person."""
        percent = f"{100 * self.share:.0f} %"
        merged = "" if self.share == 1 else f"; model/ holds {percent} tuned weights, the rest the base's"
        return [
            self.verdict.sentence(),
            self.elsewhere.sentence() + merged,
            self.verdict.advice(),
            f"time: {self.seconds / 60:.1f} minutes, estimated {self.estimated_seconds / 60:.1f}",
        ]


def tune(sources: Sequence[str | Path], output: str | Path, settings: TuneSettings) -> TuneResult:
    """Tune a model on documents or pairs.

    Args:
        sources: as for `build_pairs`.
        output: the folder to write.

    Raises:
        UserError: nothing to train on, too few questions to judge by, too little time, or a mistake in the settings.

    Example:
        >>> tune(["docs/"], "runs/docs", TuneSettings("intfloat/multilingual-e5-small"))  # doctest: +SKIP
    """
    files = Files(Path(output))
    model = EmbeddingModel.load(settings.model).to(collectives.start())
    pairs = _make_pairs(sources, files, model, settings)
    _check_same_run(files, settings)
    clean = _clean(files, settings.workers)
    console.print(clean.sentence())
    started = time.time()
    other = settings.other or _built_in(files)
    plan, agreement = _plan(files, model, pairs, clean, other, settings)
    console.print("\n".join(plan.lines()))
    base = _score(files.folder / "base.json", model, files.pairs / "test", _part(other, "test"))
    train(plan.recipe)
    tuned = EmbeddingModel.load(files.training / "model").to(model.device)
    share, tried = _choose_share(model, tuned, files.pairs / "development", _part(other, "development"))
    tuned.save(files.model, card=files.training / "model" / "README.md")
    result = _score(files.folder / "tuned.json", tuned, files.pairs / "test", _part(other, "test"))
    _write_index(files, tuned)
    outcome = TuneResult(
        folder=files.folder,
        verdict=judge(_items(base), _items(result), agreement=agreement, seed=settings.seed),
        elsewhere=Elsewhere(_elsewhere(base), _elsewhere(result)),
        share=share,
        tried=tried,
        seconds=round(time.time() - started, 1),
        estimated_seconds=round(60 * plan.minutes, 1),
    )
    write_json(files.result, outcome.to_json())
    return outcome


# ------------------------------------------------------------------------------------------------ data


def _make_pairs(
    sources: Sequence[str | Path], files: Files, model: EmbeddingModel, settings: TuneSettings
) -> PairsResult:
    longest = min(_LONGEST_PASSAGE, model.max_length - _SPECIAL_TOKENS)
    pairs = build_pairs(
        sources,
        files.pairs,
        PairSettings(
            model=settings.model,
            max_tokens=longest,
            hold_out=settings.hold_out,
            seed=settings.seed,
            workers=settings.workers,
        ),
    )
    console.print("\n".join(pairs.lines()))
    if pairs.questions["test"] < MIN_QUESTIONS or not pairs.questions["development"]:
        raise UserError(
            f"{', '.join(map(str, sources))}: {pairs.questions['test']} held-out questions, expected {MIN_QUESTIONS} "
            "or more to tell better from worse: give more documents, or a larger --hold-out."
        )
    return pairs


def _check_same_run(files: Files, settings: TuneSettings) -> None:
    """Refuse to go on in a folder whose scores and checkpoints are of other pairs or settings."""
    marker = files.folder / "settings.json"
    other = None if settings.other is None else str(settings.other)
    identity = {
        "model": settings.model,
        "other": other,
        "seed": settings.seed,
        "overrides": list(settings.overrides),
        "pairs": read_json(files.pairs / "pairs.json")["fingerprint"],
    }
    before = read_json(marker) if marker.exists() else identity
    changed = [key for key, value in identity.items() if before.get(key) != value]
    if changed:
        raise UserError(
            f"{files.folder}: holds a run with other {' and '.join(changed)}; choose another folder."
        )
    write_json(marker, identity)


def _clean(files: Files, workers: int) -> CleanPairs:
    corpus = pl.read_parquet(files.pairs / "test" / "retrieval" / _name(files) / "corpus.parquet")
    with atomic_write(files.corpus) as aside:
        corpus.filter(split="train").select("doc_id", "text").write_parquet(aside)
    return clean_pairs(files.pairs / "pairs.parquet", files.folder / "clean", files.clean, workers=workers)


def _name(files: Files) -> str:
    return str(read_json(files.pairs / "summary.json")["name"])


def _built_in(files: Files) -> Path:
    if not (files.other / "test").is_dir():
        with atomic_write(files.other) as aside:
            write_other_domains(aside)
    return files.other


def _part(other: Path, role: str) -> Path:
    """Return the half to choose by or to report; a user's folder without halves serves for both."""
    return other / role if (other / role).is_dir() else other


# ------------------------------------------------------------------------------------------------ plan


def _plan(
    files: Files,
    model: EmbeddingModel,
    pairs: PairsResult,
    clean: CleanPairs,
    other: Path,
    settings: TuneSettings,
) -> tuple[Plan, float]:
    sample = pl.read_parquet(clean.path).sample(min(_SAMPLE, clean.queries), seed=settings.seed)
    queries, passages = sample["query"].to_list(), sample["positive"].list.first().to_list()
    background, agreement = _look_at(model, queries, passages)
    development = files.pairs / "development" / "retrieval" / pairs.name / "corpus.parquet"
    facts = Facts(
        base=settings.model,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        background=background,
        device=model.device.type,
        max_length=min(model.max_length, _LONGEST_PASSAGE + _SPECIAL_TOKENS),
        queries=clean.queries,
        corpus=_rows(files.corpus),
        passages=pairs.passages,
        test=pairs.questions["test"],
        development=pairs.questions["development"],
        development_passages=_rows(development),
        other_passages=sum(_rows(file) for file in _part(other, "test").glob("retrieval/*/corpus.parquet")),
        speed=measure_speed(model, queries[:32], passages[:32]),
    )
    plan = make_plan(facts, files, minutes=settings.minutes, seed=settings.seed, overrides=settings.overrides)
    return plan, agreement


def _rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def _look_at(model: EmbeddingModel, queries: list[str], passages: list[str]) -> tuple[float, float]:
    """Return the mean cosine of unrelated texts, and how often a query lies nearer to its passage than to others."""
    queries_QD, passages_QD = model.encode_query(queries), model.encode_document(passages)
    cosine_QQ = queries_QD @ passages_QD.T
    others_QQ = ~np.eye(len(queries), dtype=bool)
    nearer_QQ = cosine_QQ.diagonal()[:, None] > cosine_QQ
    unrelated = float((passages_QD @ passages_QD.T)[others_QQ].mean())
    return unrelated, float(nearer_QQ[others_QQ].mean())


# ------------------------------------------------------------------------------------------------ scores


def _score(saved: Path, model: EmbeddingModel, *folders: Path) -> list[dict[str, TaskResult]]:
    """Return the results on each folder; those of an earlier, killed run are read."""
    if not saved.exists():
        results = [evaluate(model, folder, items=True) for folder in folders]
        write_json(saved, [{key: task.to_json() for key, task in result.items()} for result in results])
    return [{key: TaskResult.from_json(task) for key, task in result.items()} for result in read_json(saved)]


def _items(results: list[dict[str, TaskResult]]) -> Sequence[float]:
    [task] = results[0].values()
    assert task.items is not None
    return task.items


def _elsewhere(results: list[dict[str, TaskResult]]) -> float:
    return float(np.mean([task.main for task in results[1].values()]))


def _choose_share(
    base: EmbeddingModel, tuned: EmbeddingModel, development: Path, other: Path
) -> tuple[float, dict[str, dict[str, float]]]:
    """Put the best mixture of both models' weights into `tuned`; return its share of them, and all that were tried."""
    ours, theirs = weights_of(tuned), weights_of(base)
    kept = evaluate(base, other).average
    tried: dict[float, tuple[float, float]] = {}
    for share in SHARES:
        set_weights(tuned, interpolate(ours, theirs, share))
        tried[share] = (evaluate(tuned, development).average, evaluate(tuned, other).average)
    share = best_share(tried, kept)
    set_weights(tuned, interpolate(ours, theirs, share))
    named = {f"{key:g}": {"development": mine, "other": rest} for key, (mine, rest) in tried.items()}
    return share, named


def best_share(tried: dict[float, tuple[float, float]], kept: float) -> float:
    """Return the share with the best development score among those that lose little elsewhere.

    Args:
        tried: by share, the scores on development questions and elsewhere.
        kept: the base's score elsewhere.
    """
    good = {share: scores for share, scores in tried.items() if scores[1] >= kept - MAX_LOSS}
    if good:
        return max(good, key=lambda share: (good[share][0], share))
    return max(tried, key=lambda share: tried[share][1])


def _write_index(files: Files, model: EmbeddingModel) -> None:
    with atomic_write(files.passages) as aside:
        shutil.copyfile(files.pairs / "passages.parquet", aside)
    write_index(files, model)
