"""`tune`: from documents or pairs to a model that searches them better, with the proof.

    pairs/                  passages, pairs and held-out questions (documents/build.py)
    recipe.yaml             the settings that were derived, an ordinary recipe
    training/               the run: metrics, report.html, the best model before merging
    model/                  the result
    passages.parquet        what to search, with sources
    index/                  its embeddings under model/
    scores/                 the reported questions one by one, under the base, the result and word search
    report.html             the page: verdict, questions won and lost, cost elsewhere
    tune.json               the same as numbers (`TuneResult`)

The same command resumes a killed run.
"""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.documents.build import (
    PairSettings,
    PairsResult,
    build_pairs,
    describe_changes,
    identity_of,
    list_files,
)
from conan_embed.documents.generated import QuestionSettings
from conan_embed.encoder.fingerprint import fingerprint
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.evaluation.local import evaluate
from conan_embed.files import LOCK, atomic_write, lock_folder, read_json, read_object, write_json
from conan_embed.reporting.page import report
from conan_embed.training.run import train
from conan_embed.tuning.clock import Clock
from conan_embed.tuning.merge import interpolate, set_weights, weights_of
from conan_embed.tuning.other import hash_of_sets, write_other_domains
from conan_embed.tuning.page import write_page
from conan_embed.tuning.plan import (
    CHOOSING,
    LOOKING,
    SCORING,
    SHARES,
    Facts,
    Files,
    Plan,
    check_overrides,
    make_plan,
    step_size,
)
from conan_embed.tuning.prepare import CleanPairs, clean_pairs
from conan_embed.tuning.replaced import find_replacements
from conan_embed.tuning.result import TuneResult, compare_elsewhere, read_result
from conan_embed.tuning.scores import score_bm25, score_model
from conan_embed.tuning.searching import write_index
from conan_embed.tuning.speed import measure_speed
from conan_embed.tuning.verdict import judge

MAX_LOSS = 0.005
"""Of the mean score elsewhere: a share of tuned weights that loses more is not chosen if another loses less."""
MIN_QUESTIONS = 10
_LONGEST_PASSAGE = 256  # tokens; longer passages answer no better and cost more
_SPECIAL_TOKENS = 16  # room for prompt and special tokens
_SAMPLE = 512
_WRITTEN_BY = "conan-embed tune"


@dataclass(frozen=True)
class TuneSettings:
    """Attributes:
    model: folder or hub name of the base model.
    minutes: for everything after the pairs; None for as long as the data is worth.
    other: evaluation folder of other domains; None for the built-in one.
    hold_out: share of the questions that are never trained on.
    overrides: `dotted.key=value` for the recipe.
    questions: by a language model, too; None for none.
    """

    model: str
    minutes: float | None = None
    other: Path | None = None
    hold_out: float = 0.1
    seed: int = 0
    overrides: tuple[str, ...] = ()
    questions: QuestionSettings | None = None
    workers: int = 1


def tune(
    sources: Sequence[str | Path], output: str | Path, settings: TuneSettings, *, resume: bool = True
) -> TuneResult:
    """Tune a model on documents or pairs.

    Args:
        sources: as for `build_pairs`.
        output: the folder to write.
        resume: continue what is there; else remove it, but for the language model's answers, and start anew.

    Raises:
        UserError: `output` holds something else or is in use, nothing to train on, too few questions to judge by, too
            little time, or a mistake in the settings.

    Example:
        >>> tune(["docs/"], "runs/docs", TuneSettings("intfloat/multilingual-e5-small"))  # doctest: +SKIP
    """
    files = Files(Path(output))
    # Every mistake that shows without work is found before anything in the folder is touched.
    _read_settings(files)
    documents = list_files(sources)[0]
    sets = None if settings.other is None else hash_of_sets(settings.other)
    model = EmbeddingModel.load(settings.model).to(collectives.start())
    check_overrides(settings.model, model.device.type, settings.overrides)
    pair_settings = _pair_settings(model, settings)
    identity = {
        "written_by": _WRITTEN_BY,
        **identity_of(documents, pair_settings),
        "weights": fingerprint(model),
        "minutes": settings.minutes,
        "evaluation_sets": sets,
        "overrides": list(settings.overrides),
    }
    with lock_folder(files.folder):
        _prepare(files, identity, resume=resume)
        if files.result.exists():
            console.print(f"{files.folder}: is finished; --no-resume starts anew.")
            return read_result(files.folder)
        pairs = _make_pairs(sources, files, pair_settings, resume=resume)
        return _tune(files, model, pairs, settings)


def _tune(files: Files, model: EmbeddingModel, pairs: PairsResult, settings: TuneSettings) -> TuneResult:
    """Clean the pairs, train, and compare."""
    clean = _clean(files, settings.workers)
    console.print(clean.sentence())
    other = settings.other or _built_in(files)
    test = _questions(files, "test")
    plan, agreement = _plan(files, model, pairs, clean, other, settings)
    console.print("\n".join(plan.lines()))
    clock = Clock(plan)
    # Embeds each text once: the corpus for scores and index, and what the questions of other domains search.
    encoder = CachedEncoder(model, files.folder)
    with clock.part(SCORING):
        base = score_model(files.scores, "base", encoder, test, _half(other, "test"))
        bm25 = score_bm25(files.scores, test)
    with clock.part(LOOKING):
        train(plan.recipe, on_step=clock.after_step)
    tuned = EmbeddingModel.load(files.training / "model").to(model.device)
    with clock.part(CHOOSING):
        share, tried, encoder = _choose_share(model, encoder, tuned, files, _half(other, "development"))
        tuned.save(files.model, card=files.training / "model" / "README.md")
    with clock.part(SCORING):
        result = score_model(files.scores, "tuned", encoder, test, _half(other, "test"))
        _write_index(files, tuned, encoder)
    outcome = TuneResult(
        folder=files.folder,
        verdict=judge(base.items, result.items, agreement=agreement, seed=settings.seed),
        elsewhere=compare_elsewhere(base.elsewhere, result.elsewhere, seed=settings.seed),
        bm25=float(np.mean(bm25["ndcg_at_10"].to_numpy())),
        share=share,
        tried=tried,
        seconds=clock.seconds,
        estimated={name: round(seconds, 1) for name, seconds in plan.seconds.items()},
    )
    report([files.training])
    replacements = find_replacements(plan.recipe, tuned)
    write_page(outcome, replacements, [*pairs.lines(), clean.sentence()], plan.reasons)
    write_json(files.result, outcome.to_json())  # last: the run is finished
    return outcome


# ------------------------------------------------------------------------------------------------ data


def _pair_settings(model: EmbeddingModel, settings: TuneSettings) -> PairSettings:
    return PairSettings(
        model=settings.model,
        max_tokens=min(_LONGEST_PASSAGE, model.max_length - _SPECIAL_TOKENS),
        hold_out=settings.hold_out,
        seed=settings.seed,
        questions=settings.questions,
        workers=settings.workers,
    )


def _read_settings(files: Files) -> dict[str, Any] | None:
    """Return what the run in a folder was started with; None for a new or empty one.

    Raises:
        UserError: the folder was not written by `tune`.
    """
    known = None
    if files.settings.exists():
        with contextlib.suppress(UserError):  # a file of another program may be anything
            known = read_object(files.settings)
        if known is not None and known.get("written_by") == _WRITTEN_BY:
            return known
    elif not files.folder.is_dir() or {path.name for path in files.folder.iterdir()} <= {LOCK}:
        return None
    raise UserError(f"{files.folder}: is not empty and was not written by `tune`; choose another folder.")


def _prepare(files: Files, identity: dict[str, Any], *, resume: bool) -> None:
    """Note what the run is started with; remove what an earlier one left, where it is not to be continued.

    As long as nothing is scored or trained, everything may change: the pairs see to themselves (`build_pairs`).

    Raises:
        UserError: the folder holds a run of other documents, settings or weights.
    """
    known = _read_settings(files)
    changes = [] if known is None else describe_changes(known, identity)
    if changes and resume and (files.scores.exists() or files.training.exists()):
        raise UserError(
            f"{files.folder}: holds a run with other {' and '.join(changes)}; "
            "choose another folder, or start anew with --no-resume."
        )
    if changes or not resume:
        for path in files.after_pairs():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    write_json(files.settings, identity)


def _make_pairs(
    sources: Sequence[str | Path], files: Files, settings: PairSettings, *, resume: bool
) -> PairsResult:
    pairs = build_pairs(sources, files.pairs, settings, resume=resume)
    console.print("\n".join(pairs.lines()))
    if pairs.questions["test"] < MIN_QUESTIONS or not pairs.questions["development"]:
        raise UserError(
            f"{', '.join(map(str, sources))}: {pairs.questions['test']} held-out questions, expected {MIN_QUESTIONS} "
            "or more to tell better from worse: give more documents, or a larger --hold-out."
        )
    return pairs


def _clean(files: Files, workers: int) -> CleanPairs:
    corpus = pl.read_parquet(_questions(files, "test") / "corpus.parquet")
    with atomic_write(files.corpus) as aside:
        corpus.filter(split="train").select("doc_id", "text").write_parquet(aside)
    return clean_pairs(files.pairs / "pairs.parquet", files.filter, files.clean, workers=workers)


def _questions(files: Files, role: str) -> Path:
    name = read_json(files.pairs / "summary.json")["name"]
    return files.pairs / role / "retrieval" / str(name)


def _built_in(files: Files) -> Path:
    if not (files.other / "test").is_dir():
        with atomic_write(files.other) as aside:
            write_other_domains(aside)
    return files.other


def _half(other: Path, role: str) -> Path:
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
    in_step, num_negatives = step_size(model.device.type, clean.queries)
    background, agreement = _look_at(model, queries, passages)
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
        development_passages=_rows(_questions(files, "development") / "corpus.parquet"),
        other_passages=sum(_rows(file) for file in _half(other, "test").glob("retrieval/*/corpus.parquet")),
        speed=measure_speed(model, queries[:in_step], passages[: in_step * (1 + num_negatives)]),
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


def _choose_share(
    base: EmbeddingModel, encoder: CachedEncoder, tuned: EmbeddingModel, files: Files, other: Path
) -> tuple[float, dict[str, dict[str, float]], CachedEncoder]:
    """Put the best mixture of both models' weights into `tuned`.

    Args:
        encoder: of the base.

    Returns:
        its share of tuned weights, all that were tried, and an encoder of the mixture.
    """
    ours, theirs = weights_of(tuned), weights_of(base)
    kept = evaluate(encoder, other).average
    tried: dict[float, tuple[float, float]] = {}
    encoders = {share: CachedEncoder(tuned, files.folder) for share in SHARES}
    for share in SHARES:
        set_weights(tuned, interpolate(ours, theirs, share))
        development = evaluate(tuned, files.pairs / "development").average
        tried[share] = (development, evaluate(encoders[share], other).average)
    share = best_share(tried, kept)
    set_weights(tuned, interpolate(ours, theirs, share))
    named = {f"{key:g}": {"development": mine, "other": rest} for key, (mine, rest) in tried.items()}
    return share, named, encoders[share]


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


def _write_index(files: Files, model: EmbeddingModel, encoder: CachedEncoder) -> None:
    with atomic_write(files.passages) as aside:
        shutil.copyfile(files.pairs / "passages.parquet", aside)
    write_index(files, model, encoder)
