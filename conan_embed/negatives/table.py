"""The table of hard negatives, and the paper's rule for when they are no longer hard.

Section 4 of the paper (dynamic hard negative mining): for each query keep S_0, the mean score of its hard negatives
when they were put in place, and S, the current mean. At a check, where

    decay * S < S_0   and   |S| < max_score         (1.15 and 0.8; v2 of the model: 1.2 and 0.7)

the negatives are no longer hard and are replaced: placement i takes ranks (i - 1) n + offset .. i n + offset of the
mined ranking. Placement 1 is where a run begins, so the first replacement is i = 2. The negatives in use are not
stored: they are the window of the ranking that the number of replacements points at.

S_0 of a placement is the first mean score that training saw after it, S the last one. Both come off the logits of the
loss (full width, cosine), so that watching costs nothing.

Shapes: Q queries, K ranks, n negatives per query.
"""

from dataclasses import dataclass

import numpy as np

NONE = -1
"""Fills a ranking after its last rank."""


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        observed: queries with an S_0 and a later S.
        flagged: rows whose negatives are no longer hard.
        replaced: rows that got new negatives.
        exhausted: queries whose ranking has no further window.
    """

    observed: int
    flagged: np.ndarray
    replaced: np.ndarray
    exhausted: int
    mean_initial: float
    mean_current: float
    mean_rank: float


class NegativeTable:
    """Rankings and state of all queries of a run.

    Args:
        ranking_QK: int32, text ids from the first usable rank on (the mining offset is already taken off), filled up
            with NONE.
        num_negatives: n, hard negatives of each query in use at once.
    """

    def __init__(self, ranking_QK: np.ndarray, num_negatives: int) -> None:
        missing = max(
            0, num_negatives - ranking_QK.shape[1]
        )  # the first window is always whole, if with NONE
        self.ranking_QK = np.pad(ranking_QK, ((0, 0), (0, missing)), constant_values=NONE)
        self.num_negatives = num_negatives
        self.available_Q = (ranking_QK != NONE).sum(axis=1).astype(np.int32)
        num_queries = len(ranking_QK)
        self.window_Q = np.zeros(num_queries, np.int32)
        self.replacements_Q = np.zeros(num_queries, np.int32)
        self.initial_Q = np.full(num_queries, np.nan, np.float32)  # S_0
        self.current_Q = np.full(num_queries, np.nan, np.float32)  # S

    def __len__(self) -> int:
        return len(self.ranking_QK)

    def in_use(self, rows: np.ndarray) -> np.ndarray:
        """Return int64 [len(rows), n], text ids of the hard negatives in use, NONE where a ranking is too short."""
        rank = self.window_Q[rows, None] * self.num_negatives + np.arange(self.num_negatives)
        return self.ranking_QK[rows[:, None], rank].astype(np.int64)

    def observe(self, rows: np.ndarray, score: np.ndarray) -> None:
        """Note the mean cosine of the negatives in use of the queries `rows` (float [len(rows)], nan where none)."""
        seen = ~np.isnan(score)
        rows, score = rows[seen], score[seen].astype(np.float32)
        first = np.isnan(self.initial_Q[rows])
        self.initial_Q[rows[first]] = score[first]
        self.current_Q[rows[~first]] = score[~first]

    def no_longer_hard(self, decay: float, max_score: float) -> np.ndarray:
        """Return the rows where decay * S < S_0 and |S| < max_score."""
        with np.errstate(invalid="ignore"):  # nan compares false: not seen yet
            easy = (decay * self.current_Q < self.initial_Q) & (np.abs(self.current_Q) < max_score)
        return np.flatnonzero(easy)

    def check(self, decay: float, max_score: float, *, on_exhausted: str = "keep") -> Check:
        """Apply the paper's rule, moving flagged queries to the next window of their ranking.

        Args:
            on_exhausted: a query whose ranking holds no further whole window stays where it is ("keep") or starts
                again at the first window ("restart").
        """
        flagged = self.no_longer_hard(decay, max_score)
        moves = self.next_windows(flagged, on_exhausted)
        result = self.report(flagged, moves[0])
        self.move(*moves)
        return result

    def next_windows(self, rows: np.ndarray, on_exhausted: str) -> tuple[np.ndarray, np.ndarray]:
        """Return those of `rows` that have another window to go to, and that window of each."""
        onwards = 0 if on_exhausted == "restart" else self.window_Q[rows]
        window = np.where(self._has_next(rows), self.window_Q[rows] + 1, onwards)
        moves = window != self.window_Q[rows]  # a ranking of a single window has nothing to wrap to
        return rows[moves], window[moves]

    def move(self, rows: np.ndarray, window: np.ndarray) -> None:
        """Put the queries `rows` on those windows of their rankings."""
        self.window_Q[rows] = window
        self._placed(rows)

    def replace_rankings(self, rows: np.ndarray, ranking: np.ndarray) -> None:
        """Give the queries `rows` new rankings (int [len(rows), K]), in use from their first window on."""
        self.ranking_QK[rows] = NONE
        self.ranking_QK[rows, : ranking.shape[1]] = ranking[:, : self.ranking_QK.shape[1]]
        self.available_Q[rows] = (self.ranking_QK[rows] != NONE).sum(axis=1)
        self.window_Q[rows] = 0
        self._placed(rows)

    def _has_next(self, rows: np.ndarray) -> np.ndarray:
        return (self.window_Q[rows] + 2) * self.num_negatives <= self.available_Q[rows]

    def _placed(self, rows: np.ndarray) -> None:
        self.replacements_Q[rows] += 1
        self.initial_Q[rows] = np.nan
        self.current_Q[rows] = np.nan

    def report(self, flagged: np.ndarray, replaced: np.ndarray) -> Check:
        """Return the figures of a check, as the table stands before it acts."""
        observed = ~np.isnan(self.current_Q)
        rows = np.arange(len(self))
        return Check(
            observed=int(observed.sum()),
            flagged=flagged,
            replaced=replaced,
            exhausted=int((~self._has_next(rows)).sum()),
            mean_initial=_mean(self.initial_Q[observed]),
            mean_current=_mean(self.current_Q[observed]),
            mean_rank=_mean(self.window_Q * self.num_negatives + (self.num_negatives - 1) / 2),
        )

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that a checkpoint needs to go on bit for bit."""
        names = ("ranking_QK", "window_Q", "replacements_Q", "initial_Q", "current_Q")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        assert state["ranking_QK"].shape == self.ranking_QK.shape, "a table of another data set"
        for name, values in state.items():
            setattr(self, name, values.copy())
        self.available_Q = (self.ranking_QK != NONE).sum(axis=1).astype(np.int32)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
