"""Lists of different lengths as two arrays, as Arrow keeps them: all values end to end, and where each list begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


def expand_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the integers of R ranges, end to end.

    Args:
        starts: int [R], the first integer of each range.
        lengths: int [R], how many integers each range has.

    Returns:
        int64 [sum of lengths]: `concatenate([arange(s, s + n) for s, n in zip(starts, lengths)])`.

    Example:
        >>> expand_ranges(np.array([5, 0, 7]), np.array([2, 0, 3])).tolist()
        [5, 6, 7, 8, 9]
    """
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


@dataclass(frozen=True)
class Ragged:
    """R lists of integers.

    Attributes:
        values: int64, all lists end to end.
        offsets: int64 [R + 1]; list r is values[offsets[r]:offsets[r + 1]].
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [R]."""
        return np.diff(self.offsets)

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def empty(cls, rows: int) -> "Ragged":
        return cls(np.empty(0, np.int64), np.zeros(rows + 1, np.int64))

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The lists of all parts, one after the other."""
        values = np.concatenate([np.empty(0, np.int64), *(part.values for part in parts)])
        lengths = np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)])
        return cls.of_lengths(values, lengths)

    def rows(self, rows: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of the lists `rows`, end to end, after the position in `rows` that each belongs to.

        Args:
            most: values of each list, its first ones; None: all of them.
        """
        lengths = self.lengths[rows] if most is None else np.minimum(self.lengths[rows], most)
        position = np.repeat(np.arange(len(rows)), lengths)
        return position, self.values[expand_ranges(self.offsets[rows], lengths)]

    def take(self, rows: np.ndarray) -> "Ragged":
        """Return the lists `rows`, in this order."""
        return Ragged.of_lengths(self.rows(rows)[1], self.lengths[rows])
