"""Scores of pairs of texts, looked up by content."""

from collections.abc import Iterable

import numpy as np
import xxhash


class PairScores:
    """Scores of pairs of a query and a passage.

    Args:
        query, passage: int64 [N], content ids (see texts/store.py).
        score: float [N]; of a pair that occurs twice the first counts.
        num_contents: contents are below this number.

    Example:
        >>> scores = PairScores(np.array([0, 0]), np.array([1, 2]), np.array([0.5, 0.25]), num_contents=3)
        >>> scores.of(np.array([0, 0, 1]), np.array([2, 1, 2])).tolist()
        [0.25, 0.5, nan]
    """

    def __init__(
        self, query: np.ndarray, passage: np.ndarray, score: np.ndarray, *, num_contents: int
    ) -> None:
        self.num_contents = num_contents
        self.keys, first = np.unique(query.astype(np.int64) * num_contents + passage, return_index=True)
        self.score = np.asarray(score, np.float32)[first]

    @classmethod
    def joined(
        cls, parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], *, num_contents: int
    ) -> "PairScores":
        """Return the scores of several parts (query, passage, score), the first of equal pairs."""
        query, passage, score = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(query, passage, score, num_contents=num_contents)

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, query: np.ndarray, passage: np.ndarray) -> np.ndarray:
        """Return float32 [N], the scores of these pairs of contents; nan where there is none."""
        keys = query.astype(np.int64) * self.num_contents + passage
        if not len(self.keys):
            return np.full(len(keys), np.nan, np.float32)
        position = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[position] == keys, self.score[position], np.float32(np.nan))

    def identity(self) -> str:
        """Return a hash of all pairs and scores."""
        return xxhash.xxh3_128_hexdigest(self.keys.tobytes() + self.score.tobytes())
