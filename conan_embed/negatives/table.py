"""The table of hard negatives: which of its ranking each query uses now, and how they have scored.

A query has n slots, each with a negative from its ranking: at the start the first n ranks (the mining offset is taken
off). A slot whose negative is replaced takes the next rank that was not used yet. Where all n are replaced together
that makes the paper's windows: placement i takes ranks (i - 1) n + offset .. i n + offset (section 4); where each is
replaced by itself, the ranks follow each other slot by slot, and no negative stands twice in its row.

S_0 of a negative is its score when it was put in place: the cosine that ranked it, under the model of that moment,
where one is known; else the first that training sees. S is the last one that training saw. Both are cosines at full
width, or what of them lies above the background (background.py); S comes off the logits of the loss, so that watching
costs nothing. When negatives are to be replaced is said in
rules.py, and by what in sources.py.

Shapes: Q queries, R of them, K ranks, n negatives per query (axis N).
"""

import numpy as np

from conan_embed.negatives.background import Backgrounds
from conan_embed.negatives.rankings import NONE, compact, widened

_EMPTY = -1  # rank of a slot that holds no negative


class NegativeTable:
    """Rankings and state of all queries of a run.

    Args:
        ranking_QK: int32, text ids from the first usable rank on (the mining offset is already taken off), filled up
            with NONE.
        num_negatives: n, hard negatives of each query in use at once.
        initial_QN: float32 [Q, n], S_0 of the first n ranks; nan, or None, where it is not known.

    Attributes:
        rank_QN: int32, the rank of each slot's negative; -1 where the slot is empty.
        next_Q: int32, the first rank that was not used yet.
        replacements_Q: int32, how often a query got new negatives.
        initial_QN, current_QN, share_QN: float32, S_0, S and share of the softmax (rules.py); nan: not known yet.
        seen_Q: bool, queries that training saw since the last check, whether they have negatives or none.
        background: mean cosine of unrelated texts when the rankings were mined; nan: not known.
        backgrounds: what scores are counted from, data set by data set; None: from 0.
    """

    _STATE = (
        *("ranking_QK", "rank_QN", "next_Q", "replacements_Q"),
        *("initial_QN", "current_QN", "share_QN", "seen_Q"),
    )

    def __init__(
        self, ranking_QK: np.ndarray, num_negatives: int, initial_QN: np.ndarray | None = None
    ) -> None:
        num_queries, n = len(ranking_QK), num_negatives
        self.ranking_QK = widened(ranking_QK, max(n, ranking_QK.shape[1]))
        self.num_negatives = n
        self.available_Q = _num_ranks(ranking_QK)
        rank_QN = np.broadcast_to(np.arange(n, dtype=np.int32), (num_queries, n))
        self.rank_QN = np.where(rank_QN < self.available_Q[:, None], rank_QN, _EMPTY).astype(np.int32)
        self.next_Q = np.minimum(self.available_Q, n).astype(np.int32)
        self.replacements_Q = np.zeros(num_queries, np.int32)
        unknown = np.full((num_queries, n), np.nan, np.float32)
        self.initial_QN = unknown.copy() if initial_QN is None else initial_QN.astype(np.float32)
        self.current_QN, self.share_QN = unknown.copy(), unknown.copy()
        self.seen_Q = np.zeros(num_queries, bool)
        self.background = float("nan")
        self.backgrounds: Backgrounds | None = None

    def __len__(self) -> int:
        return len(self.ranking_QK)

    def in_use(self, rows: np.ndarray) -> np.ndarray:
        """Return int64 [R, n], text ids of the hard negatives in use, NONE where a ranking is too short."""
        rank_RN = self.rank_QN[rows]
        ids_RN = self.ranking_QK[rows[:, None], rank_RN.clip(min=0)]
        return np.where(rank_RN == _EMPTY, NONE, ids_RN).astype(np.int64)

    def observe(self, rows: np.ndarray, score_RN: np.ndarray, share_RN: np.ndarray | None = None) -> None:
        """Note what training saw of the negatives in use of the queries `rows`.

        Args:
            score_RN: float [R, n], cosines; nan where a slot is empty.
            share_RN: float [R, n], shares of the softmax (rules.py); nan, or None, where not known.
        """
        seen_RN = ~np.isnan(score_RN)
        first_RN = seen_RN & np.isnan(self.initial_QN[rows])
        self.initial_QN[rows] = np.where(first_RN, score_RN, self.initial_QN[rows])
        self.current_QN[rows] = np.where(seen_RN & ~first_RN, score_RN, self.current_QN[rows])
        if share_RN is not None:
            self.share_QN[rows] = np.where(np.isnan(share_RN), self.share_QN[rows], share_RN)
        self.seen_Q[rows] = True

    def take_seen(self) -> np.ndarray:
        """Return the queries that training saw since this was last asked."""
        rows = np.flatnonzero(self.seen_Q)
        self.seen_Q[rows] = False
        return rows

    def exhausted(self, *, whole: bool) -> np.ndarray:
        """Return bool [Q], queries whose ranking holds no further whole window, or no further rank."""
        return self.next_Q + (self.num_negatives if whole else 1) > self.available_Q

    def empty(self, rows: np.ndarray) -> np.ndarray:
        """Return bool [R, n], the slots of the queries `rows` that hold no negative."""
        return self.rank_QN[rows] == _EMPTY

    @property
    def mean_rank(self) -> float:
        """Mean rank, from 0, of the negatives in use."""
        return mean(self.rank_QN[self.rank_QN != _EMPTY])

    def advance(
        self, rows: np.ndarray, slots_RN: np.ndarray, *, whole: bool, restart: bool = False
    ) -> np.ndarray:
        """Put the next ranks of their rankings into slots of the queries `rows`.

        Args:
            slots_RN: bool [R, n], the slots.
            whole: all slots of a query or none; else as many as there are ranks, the first slots first.
            restart: at its end a ranking begins again; else the query keeps what it has.

        Returns:
            bool [R, n], the slots that got another negative.
        """
        n, next_R, available_R = self.num_negatives, self.next_Q[rows], self.available_Q[rows]
        wanted_R = slots_RN.sum(axis=1)
        if restart:
            next_R = np.where(next_R + (wanted_R if whole else 1) > available_R, 0, next_R)
        # Of any 2 n ranks at most n are in use, which happens where a ranking began again.
        rank_RJ = next_R[:, None] + np.arange(2 * n)
        free_RJ = rank_RJ < available_R[:, None]
        free_RJ &= ~(rank_RJ[:, :, None] == self.rank_QN[rows][:, None, :]).any(axis=2)
        slots_RN = _first_slots(slots_RN, free_RJ.sum(axis=1), whole=whole)
        free_RN = compact(rank_RJ, free_RJ, _EMPTY)[:, :n]
        rank_RN = np.take_along_axis(free_RN, _order_of(slots_RN), axis=1)
        self._put(rows, slots_RN, rank_RN)
        last_R = np.where(slots_RN, rank_RN, -1).max(axis=1, initial=-1)
        self.next_Q[rows] = np.where(last_R >= 0, last_R + 1, self.next_Q[rows])
        return slots_RN

    def renew(
        self,
        rows: np.ndarray,
        slots_RN: np.ndarray,
        ids_RK: np.ndarray,
        scores_RK: np.ndarray | None = None,
        *,
        whole: bool,
    ) -> np.ndarray:
        """Give the queries `rows` new rankings, and put their first ranks into these slots.

        Args:
            slots_RN: bool [R, n], the slots.
            ids_RK: int, any number of ranks; cut to the width of the table.
            scores_RK: float, the cosines that ranked them: S_0 of what is put in place.
            whole: all slots of a query or none, and what was in use may come back; else as many as there are ranks
                without what is in use.

        Returns:
            bool [R, n], the slots that got a new negative. Queries without any keep the ranking they had.
        """
        in_use_RN = self.in_use(rows)
        fresh_RK = ids_RK != NONE
        if not whole:
            fresh_RK = fresh_RK & ~(ids_RK[:, :, None] == in_use_RN[:, None, :]).any(axis=2)
        slots_RN = _first_slots(slots_RN, fresh_RK.sum(axis=1), whole=whole)
        changed = slots_RN.any(axis=1)
        rows, changed_RN, fresh_RK, in_use_RN = (
            rows[changed],
            slots_RN[changed],
            fresh_RK[changed],
            in_use_RN[changed],
        )
        # What stays in use stands first in the new ranking, so that a rank names every negative in use.
        stays_RN = ~changed_RN & (in_use_RN != NONE)
        num_stay_R = stays_RN.sum(axis=1)[:, None]
        ids = compact(
            np.concatenate([in_use_RN, ids_RK[changed]], axis=1), np.concatenate([stays_RN, fresh_RK], axis=1)
        )
        self.ranking_QK[rows] = widened(ids, self.ranking_QK.shape[1])
        self.available_Q[rows] = _num_ranks(self.ranking_QK[rows])
        order_RN = _order_of(changed_RN)
        self.rank_QN[rows] = np.where(stays_RN, _order_of(stays_RN), _EMPTY)
        self._put(rows, changed_RN, num_stay_R + order_RN)
        self.next_Q[rows] = num_stay_R[:, 0] + changed_RN.sum(axis=1)
        if scores_RK is not None:
            scores = compact(scores_RK[changed], fresh_RK, np.nan)
            scores_RN = np.take_along_axis(scores, order_RN.clip(max=scores.shape[1] - 1), axis=1)
            self.initial_QN[rows] = np.where(changed_RN, scores_RN, self.initial_QN[rows])
        return slots_RN

    def _put(self, rows: np.ndarray, slots_RN: np.ndarray, rank_RN: np.ndarray) -> None:
        """Put these ranks into slots; what was known of the negatives before them is forgotten."""
        self.rank_QN[rows] = np.where(slots_RN, rank_RN, self.rank_QN[rows])
        self.replacements_Q[rows] += slots_RN.any(axis=1)
        for scores_QN in (self.initial_QN, self.current_QN, self.share_QN):
            scores_QN[rows] = np.where(slots_RN, np.nan, scores_QN[rows])

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that a checkpoint needs to resume bit for bit."""
        state = {name: getattr(self, name) for name in self._STATE}
        return state | (self.backgrounds.state() if self.backgrounds is not None else {})

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        assert state["ranking_QK"].shape == self.ranking_QK.shape, "a table of another data set"
        for name in self._STATE:
            setattr(self, name, state[name].copy())
        if self.backgrounds is not None:
            self.backgrounds.load_state(state)
        self.available_Q = _num_ranks(self.ranking_QK)


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _first_slots(slots_RN: np.ndarray, limit_R: np.ndarray, *, whole: bool) -> np.ndarray:
    """Return the first `limit_R` of each query's slots; all or none of them where `whole`."""
    if whole:
        return slots_RN & (slots_RN.sum(axis=1) <= limit_R)[:, None]
    return slots_RN & (np.cumsum(slots_RN, axis=1) <= limit_R[:, None])


def _order_of(slots_RN: np.ndarray) -> np.ndarray:
    """Return for each of the slots how many of them stand before it in its row."""
    return (np.cumsum(slots_RN, axis=1) - 1).clip(min=0)


def _num_ranks(ranking_QK: np.ndarray) -> np.ndarray:
    return (ranking_QK != NONE).sum(axis=1).astype(np.int32)
