"""Which of the hard negatives that training used are probably answers that nobody labelled.

A false negative teaches the model that an answer is none. It is found where a model scores a negative like its query's
positive. Two models can be asked without embedding a corpus again: the one that mined, whose scores stand in the
rankings, and the one being trained, whose latest score of each negative in use stands in the table (`S`,
table.py). `likeliest` asks both for candidates; who calls it embeds the few that come out, and compares.

Shapes: Q queries of a data set, K ranks, n negatives per query, P pairs of a query and a negative, W used of a query.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from conan_embed.console import tracked
from conan_embed.negatives.rankings import NONE, Ranking
from conan_embed.negatives.table import NegativeTable

_ROWS = 4096  # queries that are looked at together: [rows, W, K] booleans


@dataclass(frozen=True)
class UsedPairs:
    """Pairs of a query and a negative that it was trained against.

    Attributes:
        row_P: int64, the query's position in its data set.
        negative_P: int64, text id of the negative.
        in_use_P: bool, whether it is in use now, or was before it was replaced by the next of its ranking.
        rank_P: int64, its rank (from 0) when the negatives were mined; NONE where it was not mined.
        mined_P, mined_positive_P: float32, cosines of the negative and of the best positive under the model that mined;
            nan where it was not mined.
        observed_P: float32, the cosine when training saw the pair last, else when it was put in place; nan where
            neither is known, or the negative is no longer in use.
    """

    row_P: np.ndarray
    negative_P: np.ndarray
    in_use_P: np.ndarray
    rank_P: np.ndarray
    mined_P: np.ndarray
    mined_positive_P: np.ndarray
    observed_P: np.ndarray

    def __len__(self) -> int:
        return len(self.row_P)

    @property
    def nearness_P(self) -> np.ndarray:
        """float32, how far the negative lies above the best positive under the model that mined; else nan."""
        return self.mined_P - self.mined_positive_P

    def take(self, chosen: np.ndarray) -> "UsedPairs":
        """Return the pairs at these positions (or of this mask)."""
        return UsedPairs(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @staticmethod
    def joined(parts: Sequence["UsedPairs"]) -> "UsedPairs":
        """Return the pairs of all parts, of which there is at least one."""
        names = [field.name for field in fields(UsedPairs)]
        return UsedPairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def used_pairs(table: NegativeTable, first: int, ranking: Ranking | None, rows: np.ndarray) -> UsedPairs:
    """Return the pairs that training used of some queries of a data set: the ranks that were put in place so far.

    (Of a ranking that was made anew, only what stands in the table now.) What is in use and was in no step, since its
    query came in none or not again, is left out.

    Args:
        first: the data set's first row in the table.
        ranking: what was mined before training, or None.
        rows: int64, the queries' positions in the data set.
    """
    in_table = first + rows
    rank_RN = table.rank_QN[in_table]
    stop_R = np.maximum(table.next_Q[in_table], rank_RN.max(axis=1, initial=-1) + 1)
    width = int(stop_R.max(initial=0))
    ids_RW = table.ranking_QK[in_table, :width].astype(np.int64)
    # The score of each slot, at the rank that it holds.
    current_RN, initial_RN = table.current_QN[in_table], table.initial_QN[in_table]
    observed_RN = np.where(np.isnan(current_RN), initial_RN, current_RN)
    # A step notes the share of whatever it holds; S only from the second on where there was no S_0.
    is_trained_RN = ~np.isnan(current_RN) | ~np.isnan(table.share_QN[in_table])
    in_use_RW, unused_RW = np.zeros(ids_RW.shape, bool), np.zeros(ids_RW.shape, bool)
    observed_RW = np.full(ids_RW.shape, np.nan, np.float32)
    held = np.nonzero(rank_RN >= 0)
    in_use_RW[held[0], rank_RN[held]] = True
    unused_RW[held[0], rank_RN[held]] = ~is_trained_RN[held]
    observed_RW[held[0], rank_RN[held]] = observed_RN[held]
    is_used_RW = (np.arange(width) < stop_R[:, None]) & (ids_RW != NONE) & ~unused_RW
    query, column = np.nonzero(is_used_RW)
    negative_P = ids_RW[query, column]
    rank_P = np.full(len(query), NONE, np.int64)
    mined_P, positive_P = (np.full(len(query), np.nan, np.float32) for _ in range(2))
    if ranking is not None:
        same_PK = ranking.ids_QK[rows[query]] == negative_P[:, None]
        mined = same_PK.any(axis=1)
        rank_P[mined] = same_PK[mined].argmax(axis=1)
        mined_P[mined] = ranking.scores_QK[rows[query[mined]], rank_P[mined]]
        positive_P[mined] = ranking.positive_Q[rows[query[mined]]]
    return UsedPairs(
        rows[query],
        negative_P,
        in_use_RW[query, column],
        rank_P,
        mined_P,
        positive_P,
        observed_RW[query, column],
    )


def likeliest(
    table: NegativeTable,
    first: int,
    query_Q: np.ndarray,
    ranking: Ranking | None,
    limit: int,
    *,
    progress: str = "",
) -> UsedPairs:
    """Return the pairs of a data set that are most probably answers: by the model that mined, and by training.

    Rows of one query that share a negative are one pair.

    Args:
        first: the data set's first row in the table.
        query_Q: text id of each query of the data set.
        ranking: what was mined before training, or None.
        limit: how many pairs of each kind.
        progress: text of a progress bar; empty for none.
    """
    by_mining, by_training = [], []
    starts = range(0, len(query_Q), _ROWS)
    for start in tracked(starts, progress) if progress else starts:
        rows = np.arange(start, min(start + _ROWS, len(query_Q)))
        pairs = _without_repeats([used_pairs(table, first, ranking, rows)], query_Q)
        by_mining.append(pairs.take(highest(pairs.nearness_P, limit)))
        pairs = pairs.take(pairs.in_use_P)
        by_training.append(pairs.take(highest(pairs.observed_P, limit)))
    mined, seen = _without_repeats(by_mining, query_Q), _without_repeats(by_training, query_Q)
    mined, seen = mined.take(highest(mined.nearness_P, limit)), seen.take(highest(seen.observed_P, limit))
    return _without_repeats([mined, seen], query_Q)


def _without_repeats(parts: Sequence[UsedPairs], query_Q: np.ndarray) -> UsedPairs:
    """Return each negative of a query once, whichever rows hold the query: the one in use with the highest score."""
    pairs = UsedPairs.joined(parts)
    names = query_Q[pairs.row_P], pairs.negative_P
    order = np.lexsort((-np.nan_to_num(pairs.observed_P, nan=-np.inf), ~pairs.in_use_P, *names))
    is_first = np.ones(len(pairs), bool)
    is_first[1:] = np.any([name[order][1:] != name[order][:-1] for name in names], axis=0)
    return pairs.take(np.sort(order[is_first]))


def highest(key_P: np.ndarray, limit: int) -> np.ndarray:
    """Return the positions of the `limit` highest keys, highest first, the first of equals first; nan is no key."""
    return np.argsort(-key_P, kind="stable")[: min(limit, int((~np.isnan(key_P)).sum()))]
