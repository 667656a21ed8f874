"""Mining: for every query, the passages that the model takes for answers and that are none.

The passages of a data set are encoded, each query's exact nearest ones are found, its known positives and its own text
are left out, and what remains in order of score is the query's *ranking*. Training uses windows of it (table.py), from
the mining offset on: the very first ranks are often answers that nobody labelled.

A ranking may also be bounded by the positive: only passages that score below `max_positive_ratio` times the (best)
positive's score are kept (0.95 is usual), which removes most unlabelled positives. Where the cosines of a model all lie
high, a share of the cosine says little; `subtract_background` takes the share of what lies above the background
(background.py).

Shapes: Q queries, M passages, K ranks, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from conan_embed.console import console
from conan_embed.errors import UserError
from conan_embed.files import atomic_write
from conan_embed.negatives.background import background_cosine
from conan_embed.negatives.table import NONE
from conan_embed.recipes.schema import Mining
from conan_embed.search.exact import top_k
from conan_embed.texts.ragged import expand_ranges
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset, known_positives

Embed = Callable[[np.ndarray, str], torch.Tensor]
"""Text ids int64 [N] and a word for the progress bar to float32 [N, D], rows of length 1."""

RankPart = Callable[[int, int], "Ranking"]
Spread = Callable[[int, RankPart], "Ranking"]
"""How many queries there are, and a function that ranks those from a first to a last, to the ranking of all."""


def alone(num_queries: int, rank_part: RankPart) -> "Ranking":
    """Rank all queries here: the `Spread` of one process."""
    return rank_part(0, num_queries)


_RANDOM_ROWS = 16_384  # queries whose random passages are drawn at once


@dataclass(frozen=True)
class Ranking:
    """What mining found for one data set.

    Attributes:
        ids_QK: int32 text ids in order of score, NONE where no passage is left. Rank 0 is the best.
        scores_QK: float32 cosines, -inf where NONE.
        positive_Q: float32, the best cosine among the query's positives.
        bounded_out: candidates among the first K that the positive-aware bound removed.
    """

    ids_QK: np.ndarray
    scores_QK: np.ndarray
    positive_Q: np.ndarray
    bounded_out: int


def mine(
    data: RetrievalDataset, store: TextStore, embed: Embed, settings: Mining, spread: Spread = alone
) -> Ranking:
    """Rank the passages of one data set for each of its queries; `spread` may share out the search."""
    queries, query_of_row = np.unique(data.query_Q, return_inverse=True)
    # One row of each distinct query is enough: equal queries share their positives.
    rows = np.zeros(len(queries), np.int64)
    rows[query_of_row] = np.arange(len(data))
    query_ND = embed(queries, f"{data.name}: queries")
    passage_MD = embed(data.passages, f"{data.name}: passages")
    search = f"{data.name}: search"
    found = rank(data, store, rows, query_ND, passage_MD, settings, spread, progress=search)
    return Ranking(
        found.ids_QK[query_of_row],
        found.scores_QK[query_of_row],
        found.positive_Q[query_of_row],
        found.bounded_out,
    )


def rank(
    data: RetrievalDataset,
    store: TextStore,
    rows: np.ndarray,
    query_ND: torch.Tensor,
    passage_MD: torch.Tensor,
    settings: Mining,
    spread: Spread = alone,
    *,
    progress: str = "",
) -> Ranking:
    """Rank the passages of one data set for some of its queries; `spread` may share them out.

    Args:
        rows: int64 [N], the queries' places in the data set.
        query_ND: float [N, D], their embeddings, rows of length 1.
        passage_MD: float [M, D], embeddings of `data.passages`, rows of length 1 (any float dtype).
    """
    background = background_cosine(query_ND, passage_MD).item() if settings.subtract_background else 0.0

    def rank_part(start: int, stop: int) -> Ranking:
        part = slice(start, stop)
        return _rank_here(data, store, rows[part], query_ND[part], passage_MD, settings, background, progress)

    return spread(len(rows), rank_part)


def _rank_here(
    data: RetrievalDataset,
    store: TextStore,
    rows: np.ndarray,
    query_ND: torch.Tensor,
    passage_MD: torch.Tensor,
    settings: Mining,
    background: float,
    progress: str,
) -> Ranking:
    exclude = _excluded(data, rows, store)
    scores, places = top_k(
        query_ND,
        passage_MD,
        min(settings.depth + settings.offset, len(data.passages)),
        precision=settings.precision,
        exclude=(torch.from_numpy(exclude[0]), torch.from_numpy(exclude[1])),
        progress=progress,
    )
    positive = _best_positive(data, store, rows, query_ND, passage_MD)
    found, score = places.cpu().numpy(), scores.cpu().numpy()
    ids = np.where(found >= 0, data.passages[found], NONE).astype(np.int32)
    bounded_out = 0
    if settings.max_positive_ratio is not None:
        bound = background + settings.max_positive_ratio * (positive - background)
        too_near = (score >= bound[:, None]) & (ids != NONE)
        bounded_out = int(too_near.sum())
        ids, score = _squeezed(ids, score, ~too_near)
    return Ranking(ids, score, positive, bounded_out)


def usable(ranking: Ranking, offset: int) -> np.ndarray:
    """Return the ids from the mining offset on, int32 [Q, K - offset], of which the negatives table takes windows."""
    return ranking.ids_QK[:, offset:]


def _excluded(data: RetrievalDataset, rows: np.ndarray, store: TextStore) -> tuple[np.ndarray, np.ndarray]:
    """Known positives and texts equal to the query, as places in `data.passages`, in compressed rows."""
    contents = store.content[data.passages]
    order = np.argsort(contents, kind="stable")
    place, positives = data.positives.rows(data.list_Q[rows])
    row = np.concatenate([place, np.arange(len(rows))])
    content = np.concatenate([store.content[positives], store.content[data.query_Q[rows]]])
    first = np.searchsorted(contents[order], content, side="left")
    last = np.searchsorted(contents[order], content, side="right")
    counts = last - first
    row = np.repeat(row, counts)
    column = order[expand_ranges(first, counts)]
    sort = np.argsort(row, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(rows)))])
    return offsets.astype(np.int64), column[sort].astype(np.int64)


def _best_positive(
    data: RetrievalDataset,
    store: TextStore,
    rows: np.ndarray,
    query_ND: torch.Tensor,
    passage_MD: torch.Tensor,
) -> np.ndarray:
    """Return float32 [N], the best cosine of each query with one of its positives (all of them are passages)."""
    place, positives = data.positives.rows(data.list_Q[rows])
    # A text of a class is in its own list of positives, and nearest to itself.
    other = store.content[positives] != store.content[data.query_Q[rows]][place]
    place, positives = place[other], positives[other]
    if len(positives) > 20 * len(rows):
        # Classes as positives: every text of the class. The first few of each are enough for a bound.
        keep = np.arange(len(positives)) - np.searchsorted(place, place) < 20
        place, positives = place[keep], positives[keep]
    passage = np.searchsorted(data.passages, positives)
    best = torch.full((len(rows),), -1.0, device=query_ND.device)
    for start in range(0, len(place), 65_536):
        part = slice(start, start + 65_536)
        query_rows = torch.from_numpy(place[part]).to(query_ND.device)
        positive_XD = passage_MD[torch.from_numpy(passage[part]).to(passage_MD.device)].to(query_ND)
        best.scatter_reduce_(0, query_rows, (query_ND[query_rows] * positive_XD).sum(dim=1), "amax")
    return best.cpu().numpy()


def _squeezed(ids: np.ndarray, score: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move what is kept to the front of each row, in order."""
    order = np.argsort(~keep, axis=1, kind="stable")
    kept = np.take_along_axis(keep, order, axis=1)
    ids = np.where(kept, np.take_along_axis(ids, order, axis=1), NONE)
    return ids, np.where(kept, np.take_along_axis(score, order, axis=1), -np.inf)


def random_ranking(data: RetrievalDataset, store: TextStore, *, depth: int, seed: int) -> np.ndarray:
    """Return int32 [Q, depth] random passages of the data set that are no known positives of their query."""
    generator = np.random.default_rng([seed, len(data), len(data.passages)])
    ids_QK = np.full((len(data), depth), NONE, np.int32)
    for start in range(0, len(data), _RANDOM_ROWS):
        rows = slice(start, start + _RANDOM_ROWS)
        queries = data.query_Q[rows]
        if len(data.passages) <= 4 * depth:  # a small set gives every query all that it has
            drawn = generator.permuted(np.tile(data.passages, (len(queries), 1)), axis=1)
        else:
            drawn = data.passages[generator.integers(len(data.passages), size=(len(queries), 2 * depth))]
        content = store.content[drawn]
        keep = content != store.content[queries][:, None]
        lists = np.repeat(data.list_Q[rows], drawn.shape[1])
        keep &= ~known_positives(data.positives, lists, content.ravel(), store).reshape(keep.shape)
        # A passage drawn twice for one query is kept once.
        order = np.argsort(drawn, axis=1, kind="stable")
        ordered = np.take_along_axis(drawn, order, axis=1)
        again = np.zeros_like(keep)
        np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
        ids, _ = _squeezed(drawn, np.zeros(drawn.shape, np.float32), keep & ~again)
        ids_QK[rows, : ids.shape[1]] = ids[:, :depth]
    return ids_QK


# ------------------------------------------------------------------------------------------------------- files


def save_ranking(folder: Path, data: RetrievalDataset, store: TextStore, ranking: Ranking) -> None:
    """Write the ranking of one data set as `folder/NAME.safetensors`.

    Texts are named by their hash, so that the file stays good when other data sets of the recipe change.
    """
    place_of_id = np.full(len(store), NONE, np.int32)
    place_of_id[data.passages] = np.arange(len(data.passages))
    places = np.where(ranking.ids_QK == NONE, NONE, place_of_id[ranking.ids_QK])
    tensors = {
        "places": places,
        "scores": ranking.scores_QK.astype(np.float32),
        "positive": ranking.positive_Q,
        "queries": store.hashes[data.query_Q],
        "passages": store.hashes[data.passages],
    }
    with atomic_write(folder / f"{data.name}.safetensors") as aside:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, aside)


def load_ranking(folder: Path, data: RetrievalDataset, store: TextStore) -> Ranking:
    """Read what `save_ranking` wrote.

    Raises:
        UserError: there is none for this data set, it is broken, or it was made for other texts.
    """
    path = folder / f"{data.name}.safetensors"
    if not path.exists():
        raise UserError(
            f"{path}: no such file; expected a ranking of data set {data.name!r} by `conan-embed mine`."
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}.") from None
    order = np.argsort(store.hashes[data.passages])
    theirs = np.argsort(tensors["passages"])
    same_passages = np.array_equal(store.hashes[data.passages][order], tensors["passages"][theirs])
    if not same_passages or not np.array_equal(tensors["queries"], store.hashes[data.query_Q]):
        raise UserError(f"{path}: made for other texts than data set {data.name!r} holds now; mine it again.")
    passage_of_place = np.empty_like(data.passages)
    passage_of_place[theirs] = data.passages[order]
    places = tensors["places"]
    ids = np.where(places == NONE, NONE, passage_of_place[places]).astype(np.int32)
    return Ranking(ids, tensors["scores"], tensors["positive"], 0)


def describe(
    data: RetrievalDataset, store: TextStore, ranking: Ranking, settings: Mining, *, examples: int = 3
) -> dict[str, Any]:
    """Return figures and examples of what was mined, for mining.json and the report."""
    used = ranking.ids_QK[:, settings.offset :] != NONE
    window = ranking.scores_QK[:, settings.offset : settings.offset + 10]
    above = (ranking.scores_QK > ranking.positive_Q[:, None])[:, settings.offset :]
    chosen = np.linspace(0, len(data) - 1, num=min(examples, len(data)), dtype=int)
    return {
        "queries": len(data),
        "passages": len(data.passages),
        "ranks": int(ranking.ids_QK.shape[1]),
        "mean_positive_score": float(ranking.positive_Q.mean()),
        "mean_negative_score": float(window[np.isfinite(window)].mean())
        if np.isfinite(window).any()
        else None,
        "negatives_above_positive": float(above.mean()) if above.size else 0.0,
        "usable_per_query": float(used.sum(axis=1).mean()),
        "bounded_out": ranking.bounded_out,
        "examples": [_example(data, store, ranking, settings.offset, int(row)) for row in chosen],
    }


def _example(
    data: RetrievalDataset, store: TextStore, ranking: Ranking, offset: int, row: int
) -> dict[str, Any]:
    negatives = [
        {
            "text": store.text(int(ranking.ids_QK[row, rank])),
            "score": float(ranking.scores_QK[row, rank]),
            "rank": rank,
        }
        for rank in range(offset, min(offset + 3, ranking.ids_QK.shape[1]))
        if ranking.ids_QK[row, rank] != NONE
    ]
    positives = [store.text(int(text)) for text in data.positives[data.list_Q[row]][:2]]
    return {
        "query": store.text(int(data.query_Q[row])),
        "positives": positives,
        "positive_score": float(ranking.positive_Q[row]),
        "negatives": negatives,
    }


def say(name: str, facts: dict[str, Any]) -> None:
    """Print what mining found for one data set."""
    negative = facts["mean_negative_score"]
    console.print(
        f"{name}: {facts['queries']:,} queries, {facts['passages']:,} passages; mean score of positives "
        f"{facts['mean_positive_score']:.3f}, of the first negatives "
        f"{'none' if negative is None else format(negative, '.3f')}"
    )
