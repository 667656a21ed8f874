"""Rankings of hard negatives: for each query of a data set the passages to take negatives from, best first.

Mining makes them (mining.py), files keep them, and the table of a run takes its negatives from them (table.py). A row
that is shorter than the others is filled up with NONE.

Shapes: Q queries, K ranks, M passages.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, file_name
from conan_embed.negatives.background import above_background
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset

NONE = -1
"""Fills a ranking after its last rank."""

_RANKS_AT_ONCE = 1 << 21  # sorting them takes some 30 bytes each


@dataclass(frozen=True)
class Ranking:
    """What mining found for one data set.

    Attributes:
        ids_QK: int32 text ids in order of score, NONE where no passage is left. Rank 0 is the best.
        scores_QK: float32 cosines, -inf where NONE.
        positive_Q: float32, the best cosine among the query's positives.
        bounded_out: candidates among the first K that the positive-aware bound removed.
        background: mean cosine of a query and any passage (background.py); nan: not known.
        offset: first ranks that were not to be used when it was mined, whatever the recipe says.
    """

    ids_QK: np.ndarray
    scores_QK: np.ndarray
    positive_Q: np.ndarray
    bounded_out: int
    background: float = math.nan
    offset: int = 0

    def take(self, rows: np.ndarray) -> "Ranking":
        """Return the rankings of those queries."""
        return replace(
            self,
            ids_QK=self.ids_QK[rows],
            scores_QK=self.scores_QK[rows],
            positive_Q=self.positive_Q[rows],
        )

    def usable(self, offset: int) -> "Ranking":
        """Return the ranking from the mining offset on, which training takes negatives from."""
        first = max(offset, self.offset)
        return replace(self, ids_QK=self.ids_QK[:, first:], scores_QK=self.scores_QK[:, first:], offset=0)


def known_scores(ranking: Ranking, background: float = 0.0) -> np.ndarray:
    """Return float32 [Q, K], the scores that ranked the passages: S_0 of those that are put in place.

    Args:
        background: of the data set, which the rules of this run count scores from (`Backgrounds`).
    """
    scores = np.where(ranking.ids_QK == NONE, np.nan, ranking.scores_QK)
    return above_background(scores, background).astype(np.float32) if background else scores


# -------------------------------------------------------------------------------------------------------- rows


def padded(lists: Ragged) -> np.ndarray:
    """Return lists as rows of one length, int32 [Q, longest]."""
    lengths = lists.lengths
    rows = np.full((len(lists), int(lengths.max(initial=0))), NONE, np.int32)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = lists.values
    return rows


def widened(ids: np.ndarray, width: int) -> np.ndarray:
    """Cut rows to `width` ranks, or fill them up."""
    ids = ids[:, :width]
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=NONE)


def stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Return the rows of all parts, one part under the other, as wide as the widest."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([widened(part, width) for part in parts]).astype(np.int32)


def without_repeats(ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows without gaps and with each text at its first rank only; scores of no text are nan."""
    keep = (ids != NONE) & ~is_repeat(ids)
    return compact(ids, keep), compact(scores, keep, np.nan)


def is_repeat(ids: np.ndarray) -> np.ndarray:
    """Return bool, same shape: does the text stand at an earlier place of its row already?"""
    repeated = np.zeros(ids.shape, bool)
    for rows in _blocks(ids):
        order = np.argsort(ids[rows], axis=1, kind="stable")
        ordered = np.take_along_axis(ids[rows], order, axis=1)
        np.put_along_axis(repeated[rows], order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeated


def compact(values: np.ndarray, keep: np.ndarray, fill: float = NONE) -> np.ndarray:
    """Move what is to be kept to the front of each row, in order, and fill up the rest."""
    result = np.full_like(values, fill)
    for rows in _blocks(values):
        order = np.argsort(~keep[rows], axis=1, kind="stable")
        is_kept = np.take_along_axis(keep[rows], order, axis=1)
        np.copyto(result[rows], np.take_along_axis(values[rows], order, axis=1), where=is_kept)
    return result


def _blocks(ranks: np.ndarray) -> Iterator[slice]:
    """Return slices of the rows, each of so many that they are sorted in little memory."""
    step = max(1, _RANKS_AT_ONCE // max(1, ranks.shape[1]))
    return (slice(start, min(start + step, len(ranks))) for start in range(0, len(ranks), step))


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
        "background": np.array([ranking.background], np.float32),
        "offset": np.array([ranking.offset], np.int32),
        "queries": store.hashes[data.query_Q],
        "passages": store.hashes[data.passages],
    }
    with atomic_write(folder / f"{file_name(data.name)}.safetensors") as aside:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, aside)


def load_ranking(folder: Path, data: RetrievalDataset, store: TextStore) -> Ranking:
    """Read what `save_ranking` wrote, without what has become a known positive of its query since.

    Raises:
        UserError: there is none for this data set, it is damaged, or it was made for other texts.
    """
    path = folder / f"{file_name(data.name)}.safetensors"
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
    background = float(tensors["background"][0]) if "background" in tensors else math.nan
    offset = int(tensors["offset"][0]) if "offset" in tensors else 0
    ranking = Ranking(ids, tensors["scores"], tensors["positive"], 0, background, offset)
    is_known_QK = _known_positives(data, store, ids)
    if not is_known_QK.any():
        return ranking
    if collectives.is_main_process():
        count = int(is_known_QK.sum())
        console.print(f"{path}: left out {count:,} ranks that are known positives of their query by now.")
    return replace(
        ranking,
        ids_QK=compact(ids, ~is_known_QK),
        scores_QK=compact(ranking.scores_QK, ~is_known_QK, -np.inf),
    )


def _known_positives(data: RetrievalDataset, store: TextStore, ids_QK: np.ndarray) -> np.ndarray:
    """Return bool [Q, K], the ranks that are known positives of their query.

    Looked up by pairs of a query and a passage, since these are few; but not where classes are the positives.
    """
    is_known_QK, known = np.zeros(ids_QK.shape, bool), data.known_positives(store)
    passages = data.known_passages(store)
    for block in _blocks(ids_QK):
        ids_RK, rows = ids_QK[block], np.arange(block.start, block.stop)
        if data.has_labels:
            is_known_RK = known.contains(np.repeat(rows, ids_RK.shape[1]), ids_RK.ravel()).reshape(
                ids_RK.shape
            )
        else:
            row_X, place_X = passages.pairs(rows)
            pairs_RK = np.arange(len(rows))[:, None] * len(store) + ids_RK
            is_known_RK = np.isin(pairs_RK, row_X * len(store) + data.passages[place_X])
        is_known_QK[block] = is_known_RK & (ids_RK != NONE)
    return is_known_QK
