"""What a run needs of negatives before its first step: rankings mined or read, and the table over all data sets."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.encoder.fingerprint import fingerprint
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_json
from conan_embed.negatives.background import Backgrounds
from conan_embed.negatives.embedding import Embed
from conan_embed.negatives.mining import mine, random_ranking
from conan_embed.negatives.rankings import (
    NONE,
    Ranking,
    compact,
    known_scores,
    load_ranking,
    padded,
    save_ranking,
    stacked,
    without_repeats,
)
from conan_embed.negatives.summary import summarize
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.sections import Mining, Step
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset, Tasks

_SAMPLE = 256  # queries of a data set that its first background is measured with


def identities(model: EmbeddingModel, sets: Sequence[RetrievalDataset]) -> list[str]:
    """Return for each data set a hash of the model and of the prompts that its texts are read with.

    Rankings of equal identity have the scores that this model gives. Every process must call this.
    """
    if not collectives.is_main_process():
        return list(collectives.broadcast_object(None))
    weights = fingerprint(model)
    prompts = [sorted(model.dataset_prompts.get(data.name, model.prompts).items()) for data in sets]
    values = [xxhash.xxh3_128_hexdigest(f"{weights} {of_set}".encode()) for of_set in prompts]
    return list(collectives.broadcast_object(values))


def make_rankings(tasks: Tasks, embed: Embed, settings: Mining, models: Sequence[str], folder: Path) -> None:
    """Mine every data set that has no ranking yet into `folder`, with `mining.json` beside it.

    A ranking of an earlier, interrupted start counts only if it was made by the same model and settings. One that was
    made before is cut at the recipe's bound. Nodes that do not see the first process's folder get one of their own.

    Args:
        embed: with the model to be trained; every process must call this.
        settings: the recipe's section.
        models: the model's identity for each data set (`identities`).
    """
    before, record = _read_record(folder), MiningRecord(settings.model_dump(mode="json"))
    for data, model in zip(tasks.retrieval, models, strict=True):
        if data.negative_source != "mined":
            continue
        record.starts_with[data.name] = record.ranked_by[data.name] = model
        ranking: Ranking | None = None
        if data.ranking is not None:
            ranking = _read_ranking(Path(data.ranking), data, tasks.store, settings)
            ranked_by = _read_record(Path(data.ranking)).ranked_by.get(data.name)
            record.ranked_by[data.name] = collectives.broadcast_object(ranked_by)
        elif before.has(data.name, record):
            with contextlib.suppress(UserError):  # of other texts, or damaged: made anew
                ranking = load_ranking(folder, data, tasks.store)
        # All mine or none does: a new node has nothing of an earlier start.
        if not collectives.all_true(ranking is not None) or ranking is None:
            ranking = mine(data, tasks.store, embed, settings)
        collectives.barrier()  # before the first process writes what the others still look for
        summary = summarize(data, tasks.store, ranking, settings)
        record.datasets[data.name] = summary.to_json()
        if collectives.is_main_process():
            _write(folder, data, tasks.store, ranking, record)
            summary.print(data.name, data.ranking)
        collectives.barrier()
        if collectives.is_local_main_process() and _read_record(folder) != record:
            _write(folder, data, tasks.store, ranking, record)
    collectives.barrier()


def _read_ranking(folder: Path, data: RetrievalDataset, store: TextStore, settings: Mining) -> Ranking:
    """Read a ranking that was made before, and leave out what lies above the recipe's bound."""
    ranking = load_ranking(folder, data, store)
    if ranking.offset > settings.offset and collectives.is_main_process():
        console.print(
            f"{data.name}: leaves out the first {ranking.offset} ranks, as asked for when {folder} was made; "
            f"mining.offset is {settings.offset}."
        )
    if settings.max_positive_ratio is None:
        return ranking
    if settings.subtract_background and np.isnan(ranking.background):
        raise UserError(
            f"{folder}: the ranking of {data.name!r} holds no background, which mining.subtract_background needs; "
            "mine it again."
        )
    background = ranking.background if settings.subtract_background else 0.0
    bound_Q = background + settings.max_positive_ratio * (ranking.positive_Q - background)
    too_near_QK = (ranking.scores_QK >= bound_Q[:, None]) & (ranking.ids_QK != NONE)
    return replace(
        ranking,
        ids_QK=compact(ranking.ids_QK, ~too_near_QK),
        scores_QK=compact(ranking.scores_QK, ~too_near_QK, -np.inf),
        bounded_out=int(too_near_QK.sum()),
    )


@dataclass
class MiningRecord:
    """What mining.json says of the rankings beside it, by data set.

    Attributes:
        settings: the section `mining` of the recipe.
        ranked_by: identity of the model that ranked; None where it is not known.
        starts_with: identity of the model that the run starts with.
        datasets: figures and examples (`MiningSummary`).
    """

    settings: dict[str, Any] = field(default_factory=dict)
    ranked_by: dict[str, str | None] = field(default_factory=dict)
    starts_with: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, Any] = field(default_factory=dict)

    def has(self, name: str, other: "MiningRecord") -> bool:
        """Tell whether it has the ranking of a data set that the model and settings of `other` would make."""
        is_done = name in self.datasets and self.settings == other.settings
        return is_done and self.ranked_by.get(name) == other.starts_with[name]

    def scores_count(self, name: str) -> bool:
        """Tell whether the scores of a ranking are those of the model that the run starts with."""
        return name in self.starts_with and self.ranked_by.get(name) == self.starts_with[name]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "settings": {"mining": self.settings}}


def _read_record(folder: Path) -> MiningRecord:
    path = folder / "mining.json"
    read = read_json(path) if path.exists() else {}
    named = {
        name: read.get(name, {}) for name in ("ranked_by", "starts_with", "datasets")
    }  # older files lack some
    return MiningRecord(read.get("settings", {}).get("mining", {}), **named)


def _write(
    folder: Path, data: RetrievalDataset, store: TextStore, ranking: Ranking, record: MiningRecord
) -> None:
    save_ranking(folder, data, store, ranking)
    write_json(folder / "mining.json", record.to_json())


def make_table(
    tasks: Tasks,
    embed: Embed,
    step: Step,
    settings: Mining,
    models: Sequence[str],
    folder: Path,
    *,
    seed: int,
    subtract_background: bool = False,
) -> NegativeTable | None:
    """Return the table of hard negatives over all data sets, each from its own source; None where a step holds none.

    Args:
        embed, settings, models, folder: see `make_rankings`, which is called first.
        step: the recipe's section.
        seed: random negatives follow from it.
        subtract_background: scores are counted from the background of their data set.
    """
    if not (step.queries and step.num_negatives and tasks.retrieval):
        return None
    make_rankings(tasks, embed, settings, models, folder)
    backgrounds = first_backgrounds(tasks.retrieval, embed) if subtract_background else None
    return first_table(tasks, step, settings, folder, seed=seed, backgrounds=backgrounds)


def first_table(
    tasks: Tasks,
    step: Step,
    settings: Mining,
    folder: Path,
    *,
    seed: int,
    backgrounds: Backgrounds | None = None,
) -> NegativeTable:
    """Return the table as it stands before the first step; `make_rankings` has filled `folder`.

    Args:
        backgrounds: of the data sets, which scores are counted from; None: from 0.
    """
    record = collectives.broadcast_object(_read_record(folder))
    parts = [_usable(data, tasks.store, settings, folder, seed) for data in tasks.retrieval]
    initial = []
    for number, (data, ranking) in enumerate(zip(tasks.retrieval, parts, strict=True)):
        scores = known_scores(ranking, 0.0 if backgrounds is None else float(backgrounds.value_S[number]))
        # Scores of another model say nothing about S_0.
        known = scores if record.scores_count(data.name) else np.full_like(scores, np.nan)
        initial.append(_first(known, step.num_negatives))
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
