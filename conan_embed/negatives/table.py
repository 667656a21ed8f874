"""The table of hard negatives: which of its ranking each query uses now, and how they have scored.

Placement i of a query (section 4 of the paper) takes ranks (i - 1) n + offset .. i n + offset of the mined ranking.
Placement 1 is where a run begins, so the first replacement is i = 2. The negatives in use are not stored: they are the
window of the ranking that the table points at.

S_0 of a placement is the first mean score that training saw after it, S the last one. Both come off the logits of the
loss (full width, cosine), so that watching costs nothing. When they mean that the negatives are to be replaced is said
in rules.py, and by what in sources.py.

Shapes: Q queries, K ranks, n negatives per query.
"""

import numpy as np

from conan_embed.negatives.rankings import NONE, widened


class NegativeTable:
    """Rankings and state of all queries of a run.

    Args:
        ranking_QK: int32, text ids from the first usable rank on (the mining offset is already taken off), filled up
            with NONE.
        num_negatives: n, hard negatives of each query in use at once.
    """

    def __init__(self, ranking_QK: np.ndarray, num_negatives: int) -> None:
        # The first window is always whole, if with NONE.
        self.ranking_QK = widened(ranking_QK, max(num_negatives, ranking_QK.shape[1]))
        self.num_negatives = num_negatives
        self.available_Q = _num_ranks(ranking_QK)
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

    @property
    def exhausted_Q(self) -> np.ndarray:
        """bool, queries whose ranking holds no whole window after the one in use."""
        return (self.window_Q + 2) * self.num_negatives > self.available_Q

    @property
    def mean_rank(self) -> float:
        """Mean rank, from 0, of the negatives in use."""
        return mean(self.window_Q * self.num_negatives + (self.num_negatives - 1) / 2)

    def next_window(self, rows: np.ndarray, *, restart: bool = False) -> np.ndarray:
        """Put the queries `rows` on the next window of their rankings; return those that have one.

        Args:
            restart: at its end a ranking begins again at the first window; else the query keeps what it has.
        """
        at_end = 0 if restart else self.window_Q[rows]
        window = np.where(self.exhausted_Q[rows], at_end, self.window_Q[rows] + 1)
        moves = window != self.window_Q[rows]  # a ranking of a single window has nothing to restart with
        rows = rows[moves]
        self.window_Q[rows] = window[moves]
        self._begin_watching(rows)
        return rows

    def replace_rankings(self, rows: np.ndarray, ranking: np.ndarray) -> None:
        """Give the queries `rows` new rankings (int [len(rows), K]), in use from their first window on."""
        self.ranking_QK[rows] = widened(ranking, self.ranking_QK.shape[1])
        self.available_Q[rows] = _num_ranks(self.ranking_QK[rows])
        self.window_Q[rows] = 0
        self._begin_watching(rows)

    def _begin_watching(self, rows: np.ndarray) -> None:
        self.replacements_Q[rows] += 1
        self.initial_Q[rows] = np.nan
        self.current_Q[rows] = np.nan

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that a checkpoint needs to resume bit for bit."""
        names = ("ranking_QK", "window_Q", "replacements_Q", "initial_Q", "current_Q")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        assert state["ranking_QK"].shape == self.ranking_QK.shape, "a table of another data set"
        for name, values in state.items():
            setattr(self, name, values.copy())
        self.available_Q = _num_ranks(self.ranking_QK)


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _num_ranks(ranking_QK: np.ndarray) -> np.ndarray:
    return (ranking_QK != NONE).sum(axis=1).astype(np.int32)
