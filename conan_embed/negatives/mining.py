"""Mining: for every query, the passages that the model takes for answers and that are none.

The passages of a data set are encoded, each query's exact nearest ones are found, its known positives and its own text
are left out, and what remains in order of score is the query's *ranking* (rankings.py). Training uses windows of it
(table.py), from the mining offset on: the very first ranks are often answers that nobody labelled.

A ranking may also be bounded by the positive: only passages that score below `max_positive_ratio` times the (best)
positive's score are kept (0.95 is usual), which removes most unlabelled positives. Where the cosines of a model all lie
high, a share of the cosine says little; `subtract_background` takes the share of what lies above the background
(background.py). Classes need no bound: a text of another class is no answer, however near it is.

Several processes share the queries of a search; each gets the whole ranking.

Shapes: Q queries, N of them to rank, M passages, K ranks, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch

from conan_embed.distributed import collectives
from conan_embed.negatives.background import background_cosine
from conan_embed.negatives.embedding import Embed
from conan_embed.negatives.rankings import NONE, Ranking, compact, is_repeat, padded
from conan_embed.recipes.sections import Mining
from conan_embed.search.exact import top_k
from conan_embed.texts.known_positives import KnownPositives
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset

_RANDOM_ROWS = 16_384  # queries whose random passages are drawn at once
_POSITIVES = 20  # of a query that its bound looks at, where classes are the positives
_PAIRS = 65_536  # pairs of a query and a positive that are scored at once


def mine(data: RetrievalDataset, store: TextStore, embed: Embed, settings: Mining) -> Ranking:
    """Rank the passages of one data set for each of its queries; every process must call this."""
    queries, query_of_row = np.unique(data.query_Q, return_inverse=True)
    # One row of each distinct query is enough: equal queries share their positives.
    rows = np.zeros(len(queries), np.int64)
    rows[query_of_row] = np.arange(len(data))
    query_ND = embed(queries, f"{data.name}: queries")
    passage_MD = embed(data.passages, f"{data.name}: passages")
    ranking = rank(
        data,
        store,
        rows,
        query_ND,
        passage_MD,
        settings,
        min_usable=settings.min_usable,
        progress=f"{data.name}: search",
    )
    return ranking.take(query_of_row)


def rank(
    data: RetrievalDataset,
    store: TextStore,
    rows: np.ndarray,
    query_ND: torch.Tensor,
    passage_MD: torch.Tensor,
    settings: Mining,
    *,
    min_usable: int = 0,
    progress: str = "",
) -> Ranking:
    """Rank the passages of one data set for some of its queries; the processes share these queries.

    Args:
        rows: int64 [N], the queries' positions in the data set.
        query_ND: float [N, D], their embeddings, rows of length 1.
        passage_MD: float [M, D], embeddings of `data.passages`, rows of length 1 (any float dtype).
        min_usable: ranks that each query should have after offset and bound; those with fewer are searched again, for
            the first ranks under their bound, as far as the data set has them.
        progress: text of a progress bar; empty for none.
    """
    if query_ND.device.type == "mps":  # search on the CPU: not every operation on int64 keys is there
        query_ND = query_ND.cpu()
    background = background_cosine(query_ND, passage_MD).item()
    part = slice(*collectives.rank_slice(len(rows)))
    search = _Search(data, store, rows[part], query_ND[part], passage_MD, settings, background)
    ranking = search.run(min_usable, progress)
    collectives.barrier()  # a search of hours is not over everywhere at the same time
    device = query_ND.device
    ids, scores, positive = (
        _gather(part_N, len(rows), device)
        for part_N in (ranking.ids_QK, ranking.scores_QK, ranking.positive_Q[:, None])
    )
    bounded_out = collectives.all_reduce_sum(torch.tensor(ranking.bounded_out, device=device))
    return Ranking(ids, scores, positive[:, 0], int(bounded_out), background)


def _gather(local: np.ndarray, total: int, device: torch.device) -> np.ndarray:
    """Return the rows of all processes; on the device, where another trainer's group may exchange nothing else."""
    starts = [collectives.slice_of(total, process) for process in range(collectives.world_size())]
    rows = torch.from_numpy(local).to(device)
    return collectives.all_gather_rows(rows, [stop - start for start, stop in starts]).cpu().numpy()


@dataclass(frozen=True)
class _Search:
    """The search of one process; arguments as in `rank`."""

    data: RetrievalDataset
    store: TextStore
    rows: np.ndarray
    query_ND: torch.Tensor
    passage_MD: torch.Tensor
    settings: Mining
    background: float

    def run(self, min_usable: int, progress: str) -> Ranking:
        settings, num_passages = self.settings, len(self.data.passages)
        positive = _best_positive(self.data, self.store, self.rows, self.query_ND, self.passage_MD)
        width = min(settings.depth + settings.offset, num_passages)
        ids, score = self._ranks(np.arange(len(self.rows)), width, progress)
        bound = self._bound(positive)
        if bound is None:
            return Ranking(ids, score, positive, 0, self.background)
        too_near = (score >= bound[:, None]) & (ids != NONE)
        ids, score = compact(ids, ~too_near), compact(score, ~too_near, -np.inf)
        wanted = min(settings.offset + min_usable, width) if min_usable else 0
        short = np.flatnonzero((ids != NONE).sum(axis=1) < wanted)
        if len(short) and width < num_passages:
            ids[short], score[short] = self._ranks(short, width, "", bound[short])
        return Ranking(ids, score, positive, int(too_near.sum()), self.background)

    def _bound(self, positive: np.ndarray) -> np.ndarray | None:
        """Return float32 [N], the score that each query's negatives have to be below."""
        settings = self.settings
        if settings.max_positive_ratio is None or self.data.has_labels:
            return None
        background = self.background if settings.subtract_background else 0.0
        bound: np.ndarray = background + settings.max_positive_ratio * (positive - background)
        return bound

    def _ranks(
        self, part: np.ndarray, depth: int, progress: str, below: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and scores of the first `depth` ranks of some queries, of all passages or those below a score."""
        data, settings = self.data, self.settings
        lists_of_query, held = data.known_passages(self.store).of(self.rows[part])
        scores, positions = top_k(
            self.query_ND[torch.from_numpy(part)],
            self.passage_MD,
            depth,
            precision=settings.precision if below is None else "float32",
            exclude=_tensors(held),
            exclude_lists=_tensors(lists_of_query),
            below=None if below is None else torch.from_numpy(below),
            progress=progress,
        )
        position, score = positions.cpu().numpy(), scores.cpu().numpy()
        return np.where(position >= 0, data.passages[position], NONE).astype(np.int32), score


def _tensors(lists: Ragged) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(lists.offsets), torch.from_numpy(lists.values)


def _best_positive(
    data: RetrievalDataset,
    store: TextStore,
    rows: np.ndarray,
    query_ND: torch.Tensor,
    passage_MD: torch.Tensor,
) -> np.ndarray:
    """Return float32 [N], the best cosine of each query with one of its positives (all of them are passages)."""
    lists = data.list_Q[rows]
    # Of classes the first few texts, and one more, since a text is in its own list: there are thousands in each.
    is_long = data.positives.lengths[lists].sum() > (_POSITIVES + 1) * len(rows)
    position, positives = data.positives.rows(lists, most=_POSITIVES + 1 if is_long else None)
    # A text of a class is nearest to itself.
    other = store.content[positives] != store.content[data.query_Q[rows]][position]
    position, positives = position[other], positives[other]
    if is_long or len(positives) > _POSITIVES * len(rows):
        keep = np.arange(len(positives)) - np.searchsorted(position, position) < _POSITIVES
        position, positives = position[keep], positives[keep]
    passage = np.searchsorted(data.passages, positives)
    best = torch.full((len(rows),), -1.0, device=query_ND.device)
    for start in range(0, len(position), _PAIRS):
        part = slice(start, start + _PAIRS)
        query_rows = torch.from_numpy(position[part]).to(query_ND.device)
        positive_XD = passage_MD[torch.from_numpy(passage[part]).to(passage_MD.device)].to(query_ND)
        best.scatter_reduce_(0, query_rows, (query_ND[query_rows] * positive_XD).sum(dim=1), "amax")
    return best.cpu().numpy()


def random_ranking(data: RetrievalDataset, store: TextStore, *, depth: int, seed: int) -> np.ndarray:
    """Return int32 [Q, depth] random passages of the data set that are no known positives of their query."""
    keys = [seed, len(data), len(data.passages)]
    generator = np.random.default_rng(keys)
    known = data.known_positives(store)
    ids_QK = np.full((len(data), depth), NONE, np.int32)
    for start in range(0, len(data), _RANDOM_ROWS):
        rows = np.arange(start, min(start + _RANDOM_ROWS, len(data)))
        _append(ids_QK, rows, _draw(data.passages, len(rows), depth, generator), known)
    if len(data.passages) > 4 * depth:
        _fill_short_rows(ids_QK, data, store, np.random.default_rng([*keys, 1]))
    return ids_QK


def _draw(passages: np.ndarray, num_rows: int, depth: int, generator: np.random.Generator) -> np.ndarray:
    """Return text ids [rows, K]: all passages in random order where they are few, else twice the depth with repeats."""
    if len(passages) <= 4 * depth:
        return generator.permuted(np.tile(passages, (num_rows, 1)), axis=1)
    return passages[generator.integers(len(passages), size=(num_rows, 2 * depth))]


def _append(ids_QK: np.ndarray, rows: np.ndarray, drawn: np.ndarray, known: KnownPositives) -> None:
    """Put drawn texts behind those of some rows, without repeats and known positives."""
    is_known = known.contains(np.repeat(rows, drawn.shape[1]), drawn.ravel()).reshape(drawn.shape)
    ids = np.concatenate([ids_QK[rows], np.where(is_known, NONE, drawn)], axis=1)
    ids_QK[rows] = compact(ids, (ids != NONE) & ~is_repeat(ids))[:, : ids_QK.shape[1]]


def _fill_short_rows(
    ids_QK: np.ndarray, data: RetrievalDataset, store: TextStore, generator: np.random.Generator
) -> None:
    """Draw again where a class is so large that few of the texts drawn were of another: from the others alone."""
    short = np.flatnonzero(ids_QK[:, -1] == NONE)
    if not len(short):
        return
    known, passages = data.known_positives(store), data.known_passages(store)
    row_X, list_X = known.lists_of(short)
    lists = padded(Ragged.of_lengths(list_X, np.bincount(row_X, minlength=len(short))))
    kinds, kind_of_row = np.unique(
        lists, axis=0, return_inverse=True
    )  # queries of one class have the same lists
    rows_by_kind = np.split(
        short[np.argsort(kind_of_row.ravel(), kind="stable")],
        np.cumsum(np.bincount(kind_of_row.ravel()))[:-1],
    )
    for kind, rows_of_kind in zip(kinds, rows_by_kind, strict=True):
        is_other = np.ones(len(data.passages), bool)
        is_other[passages.lists.rows(kind[kind != NONE])[1]] = False
        others = data.passages[is_other]
        for rows in np.split(rows_of_kind, range(_RANDOM_ROWS, len(rows_of_kind), _RANDOM_ROWS)):
            _append(ids_QK, rows, _draw(others, len(rows), ids_QK.shape[1], generator), known)
