"""What a run needs of negatives before its first step: rankings mined or read, and the table over all data sets."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_json
from conan_embed.negatives.background import Backgrounds
from conan_embed.negatives.embedding import Embed
from conan_embed.negatives.mining import mine, random_ranking
from conan_embed.negatives.rankings import (
    NONE,
    Ranking,
    known_scores,
    load_ranking,
    padded,
    save_ranking,
    stacked,
    without_repeats,
)
from conan_embed.negatives.summary import summarize
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.sections import Mining, Model, Step
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset, Tasks

_SAMPLE = 256  # queries of a data set that its first background is measured with


def make_rankings(tasks: Tasks, embed: Embed, settings: Mining, model: Model, folder: Path) -> None:
    """Mine every data set that has no ranking yet into `folder`, with `mining.json` beside it.

    A ranking of an earlier, interrupted start counts only if it was made by the same model and settings. Nodes that do
    not see the first process's folder get one of their own.

    Args:
        embed: with the model to be trained; every process must call this.
        settings, model: the recipe's sections.
    """
    made_by = {"mining": settings.model_dump(mode="json"), "model": model.model_dump(mode="json")}
    before = _read_record(folder)
    done = before.get("datasets", {}) if before.get("settings") == made_by else {}
    summaries: dict[str, Any] = {}
    for data in tasks.retrieval:
        if data.negative_source != "mined":
            continue
        ranking: Ranking | None = None
        if data.ranking is not None:
            ranking = load_ranking(Path(data.ranking), data, tasks.store)
        elif data.name in done:
            with contextlib.suppress(UserError):  # of other texts, or damaged: made anew
                ranking = load_ranking(folder, data, tasks.store)
        # All mine or none does: a new node has nothing of an earlier start.
        if not collectives.all_true(ranking is not None) or ranking is None:
            ranking = mine(data, tasks.store, embed, settings)
        collectives.barrier()  # before the first process writes what the others still look for
        summary = summarize(data, tasks.store, ranking, settings)
        summaries[data.name] = summary.to_json()
        record = {"settings": made_by, "datasets": summaries}
        if collectives.is_main_process():
            _write(folder, data, tasks.store, ranking, record)
            summary.print(data.name)
        collectives.barrier()
        if collectives.is_local_main_process() and _read_record(folder) != record:
            _write(folder, data, tasks.store, ranking, record)
    collectives.barrier()


def _read_record(folder: Path) -> dict[str, Any]:
    return read_json(folder / "mining.json") if (folder / "mining.json").exists() else {}


def _write(
    folder: Path, data: RetrievalDataset, store: TextStore, ranking: Ranking, record: dict[str, Any]
) -> None:
    save_ranking(folder, data, store, ranking)
    write_json(folder / "mining.json", record)


def make_table(
    tasks: Tasks,
    embed: Embed,
    step: Step,
    settings: Mining,
    model: Model,
    folder: Path,
    *,
    seed: int,
    subtract_background: bool = False,
) -> NegativeTable | None:
    """Return the table of hard negatives over all data sets, each from its own source; None where a step holds none.

    Args:
        embed, settings, model, folder: see `make_rankings`, which is called first.
        step: the recipe's section.
        seed: random negatives follow from it.
        subtract_background: scores are counted from the background of their data set.
    """
    if not (step.queries and step.num_negatives and tasks.retrieval):
        return None
    make_rankings(tasks, embed, settings, model, folder)
    parts = [_usable(data, tasks.store, settings, folder, seed) for data in tasks.retrieval]
    backgrounds = first_backgrounds(tasks.retrieval, embed) if subtract_background else None
    initial = []
    for number, (data, ranking) in enumerate(zip(tasks.retrieval, parts, strict=True)):
        scores = known_scores(ranking, 0.0 if backgrounds is None else float(backgrounds.value_S[number]))
        is_of_model = collectives.broadcast_object(_is_of(model, data))
        initial.append(_first(scores if is_of_model else np.full_like(scores, np.nan), step.num_negatives))
    table = NegativeTable(
        stacked([part.ids_QK for part in parts]), step.num_negatives, np.concatenate(initial)
    )
    table.backgrounds = backgrounds
    table.background = min((x.background for x in parts if not np.isnan(x.background)), default=np.nan)
    return table


def first_backgrounds(sets: Sequence[RetrievalDataset], embed: Embed) -> Backgrounds:
    """Return the backgrounds of data sets under the model before training; every process must call this.

    Of each data set a sample of the queries is embedded, with a positive of each.
    """
    means = [_sample_means(data, embed) for data in sets]
    query_SD, positive_SD = (np.stack(part) for part in zip(*means, strict=True))
    return Backgrounds([len(data) for data in sets], query_SD, positive_SD)


def _sample_means(data: RetrievalDataset, embed: Embed) -> tuple[np.ndarray, np.ndarray]:
    rows = np.linspace(0, len(data) - 1, num=min(len(data), _SAMPLE), dtype=int)
    start, stop = (data.positives.offsets[data.list_Q[rows] + end] for end in (0, 1))
    # Of a class, which has thousands, not always the first.
    positives = data.positives.values[np.random.default_rng(0).integers(start, stop)]
    query_mean_D, positive_mean_D = (
        embed(texts, "").mean(dim=0, dtype=torch.float64) for texts in (data.query_Q[rows], positives)
    )
    means: tuple[np.ndarray, np.ndarray] = collectives.broadcast_object(
        (query_mean_D.cpu().numpy(), positive_mean_D.cpu().numpy())
    )
    return means


def _is_of(model: Model, data: RetrievalDataset) -> bool:
    """Was the data set's ranking made by this model? Scores of another one say nothing about S_0."""
    if data.ranking is None:
        return True
    return _read_record(Path(data.ranking)).get("settings", {}).get("model") == model.model_dump(mode="json")


def _usable(data: RetrievalDataset, store: TextStore, settings: Mining, folder: Path, seed: int) -> Ranking:
    """Return what a data set's negatives are taken from; scores are nan where no model ranked them."""
    background = np.nan
    if data.negative_source == "none":
        ids = np.full((len(data), 0), NONE, np.int32)
    elif data.negative_source == "random":
        ids = random_ranking(data, store, depth=min(settings.depth, max(1, len(data.passages))), seed=seed)
    else:
        ids = padded(data.given)  # the file's own negatives come first: somebody labelled them
    scores = np.full(ids.shape, np.nan, np.float32)
    if data.negative_source == "mined":
        mined = load_ranking(folder, data, store).usable(settings.offset)
        ids = np.concatenate([ids, mined.ids_QK], axis=1)
        scores = np.concatenate([scores, mined.scores_QK], axis=1)
        background = mined.background
    ids, scores = without_repeats(ids, scores)
    return Ranking(ids, scores, np.full(len(data), np.nan, np.float32), 0, background)


def _first(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the scores of the ranks that are in use first, float32 [Q, count]; nan where there are fewer."""
    scores = scores[:, :count]
    return np.pad(scores, ((0, 0), (0, count - scores.shape[1])), constant_values=np.nan)
