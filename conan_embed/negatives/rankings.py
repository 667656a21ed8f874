"""The negatives table of a run: rankings read, mined or drawn for each data set, one under the other."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conan_embed.console import progress_bar
from conan_embed.device import to_device
from conan_embed.distributed import collectives
from conan_embed.distributed.placement import shares
from conan_embed.encoder.encode import TOKEN_BUDGET, autocast
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.passes import num_passes
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_json
from conan_embed.negatives import mining
from conan_embed.negatives.mining import Embed, Ranking, RankPart
from conan_embed.negatives.table import NONE, NegativeTable
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset, Tasks


def embed_with(
    model: EmbeddingModel, store: TextStore, precision: str, chunk_tokens: int | None = None
) -> Embed:
    """Return a function that embeds texts of the store, without gradient, rows of length 1.

    The texts are shared out over the processes, and every process gets all rows.
    """
    budget = chunk_tokens or TOKEN_BUDGET

    @torch.no_grad()
    def embed(text_ids: np.ndarray, description: str) -> torch.Tensor:
        was_training = model.training
        model.eval()
        parts = shares(
            store.lengths(text_ids), np.zeros(len(text_ids), bool), collectives.world_size(), "balanced"
        )
        mine = text_ids[parts[collectives.rank()]]
        with autocast(model.device, precision), progress_bar(transient=True) as progress:
            task = progress.add_task(description, total=len(mine), note="", visible=bool(description))
            rows = model.embed_tokens(
                store.tokens,
                store.offsets,
                mine,
                token_budget=budget,
                num_passes=num_passes(model, store, [text_ids[part] for part in parts], budget),
                on_chunk=lambda count: progress.advance(task, count),
            )
        model.train(was_training)
        if description:  # long enough for a progress bar: shares are not ready at the same time
            collectives.barrier()
        rows = torch.nn.functional.normalize(rows.float(), dim=1)
        gathered = collectives.all_gather_rows(rows, [len(part) for part in parts])
        return gathered[to_device(np.argsort(np.concatenate(parts)), gathered.device)]

    return embed


def shared_out(num_queries: int, rank_part: RankPart) -> Ranking:
    """Rank the queries, each process its share; return the ranking of all of them to every process."""
    part = rank_part(*collectives.rank_slice(num_queries))
    collectives.barrier()  # a search of hours is not over everywhere at the same time
    bounded_out = collectives.all_reduce_sum(torch.tensor(part.bounded_out))
    return Ranking(
        collectives.all_gather_array(part.ids_QK, num_queries),
        collectives.all_gather_array(part.scores_QK, num_queries),
        collectives.all_gather_array(part.positive_Q, num_queries),
        int(bounded_out),
    )


def make_rankings(recipe: Recipe, tasks: Tasks, model: EmbeddingModel, folder: Path) -> None:
    """Mine every data set that has no ranking yet into `folder`, with `mining.json` beside it.

    A ranking of an earlier, interrupted start counts only if it was made by the same model and settings. Nodes that do
    not see the first process's folder get one of their own.
    """
    embed = embed_with(model, tasks.store, recipe.training.precision, recipe.training.chunk_tokens)
    settings = {
        "mining": recipe.mining.model_dump(mode="json"),
        "model": recipe.model.model_dump(mode="json"),
    }
    before = _mining_facts(folder)
    done = before.get("datasets", {}) if before.get("settings") == settings else {}
    facts: dict[str, Any] = {}
    for data in tasks.retrieval:
        if data.negative_source != "mined":
            continue
        ranking: Ranking | None = None
        if data.ranking is not None:
            ranking = mining.load_ranking(Path(data.ranking), data, tasks.store)
        elif data.name in done:
            with contextlib.suppress(UserError):  # of other texts, or broken: made anew
                ranking = mining.load_ranking(folder, data, tasks.store)
        # All mine or none does: a new node has nothing of an earlier start.
        if not collectives.all_true(ranking is not None) or ranking is None:
            ranking = mining.mine(data, tasks.store, embed, recipe.mining, shared_out)
        collectives.barrier()  # before the first process writes what the others still look for
        facts[data.name] = mining.describe(data, tasks.store, ranking, recipe.mining)
        record = {"settings": settings, "datasets": facts}
        if collectives.is_main_process():
            _write_ranking(folder, data, tasks.store, ranking, record)
            mining.say(data.name, facts[data.name])
        collectives.barrier()
        if collectives.is_local_main_process() and _mining_facts(folder) != record:
            _write_ranking(folder, data, tasks.store, ranking, record)
    collectives.barrier()


def _mining_facts(folder: Path) -> dict[str, Any]:
    return read_json(folder / "mining.json") if (folder / "mining.json").exists() else {}


def _write_ranking(
    folder: Path, data: RetrievalDataset, store: TextStore, ranking: Ranking, record: dict[str, Any]
) -> None:
    mining.save_ranking(folder, data, store, ranking)
    write_json(folder / "mining.json", record)


def make_table(recipe: Recipe, tasks: Tasks, model: EmbeddingModel, folder: Path) -> NegativeTable | None:
    """Return the table of hard negatives for all data sets of the run, or None where a step holds none."""
    if not (recipe.step.queries and recipe.step.num_negatives and tasks.retrieval):
        return None
    make_rankings(recipe, tasks, model, folder)
    parts = [_usable_ranking(recipe, data, tasks.store, folder) for data in tasks.retrieval]
    width = max(part.shape[1] for part in parts)
    table = np.full((sum(len(part) for part in parts), width), NONE, np.int32)
    start = 0
    for part in parts:
        table[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return NegativeTable(table, recipe.step.num_negatives)


def _usable_ranking(recipe: Recipe, data: RetrievalDataset, store: TextStore, folder: Path) -> np.ndarray:
    if data.negative_source == "none":
        return np.full((len(data), 0), NONE, np.int32)
    if data.negative_source == "random":
        depth = min(recipe.mining.depth, max(1, len(data.passages)))
        return mining.random_ranking(data, store, depth=depth, seed=recipe.training.seed)
    given = _padded(data)
    given = _joined(given, given[:, :0])  # each text once
    if data.negative_source == "given":
        return given
    mined = mining.usable(mining.load_ranking(folder, data, store), recipe.mining.offset)
    # The file's own negatives come first: somebody labelled them.
    return _joined(given, mined)


def _padded(data: RetrievalDataset) -> np.ndarray:
    """The given negatives as rows of one length, int32 [Q, most]."""
    lengths = data.given.lengths
    padded = np.full((len(data), int(lengths.max(initial=0))), NONE, np.int32)
    place = np.arange(padded.shape[1]) < lengths[:, None]
    padded[place] = data.given.values
    return padded


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The ranks of `first`, then those of `second`, without gaps and without a text twice in a row."""
    both = np.concatenate([first, second], axis=1)
    order = np.argsort(both, axis=1, kind="stable")
    ordered = np.take_along_axis(both, order, axis=1)
    again = np.zeros(both.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    both = np.where(again, NONE, both)
    return np.take_along_axis(both, np.argsort(both == NONE, axis=1, kind="stable"), axis=1)
