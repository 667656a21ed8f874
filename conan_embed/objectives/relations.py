"""What each candidate is to each query: positive, negative, or nothing.

A step's score matrix has a row per query and a column per candidate. Columns mean nothing by their place; this table
says what they are. So several positives, ragged hard negatives, known positives of a query that sit in the batch for
another one, repeated texts and in-batch negatives restricted to one data set are all the same thing.

     1  positive of this query in this step
     0  ignored: a known positive that is not trained on now, the query's own text, another data set's candidate
    -1  negative

The table is never whole in memory: a default by group (equal groups: negative) plus sparse exceptions, expanded row
block by row block. A plan holds it on the CPU, where the loss looks up which exceptions belong to which rows.

Shapes: Q queries, C candidates, X exceptions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from conan_embed.device import to_device

POSITIVE, IGNORED, NEGATIVE = 1, 0, -1


@dataclass(frozen=True)
class Relations:
    """Relations of Q queries to C candidates.

    Attributes:
        group_Q: int64, a candidate is a negative of a query of its own group; -1: no in-batch negatives.
        group_C: int64, groups of the candidates (never negative numbers).
        row_X, column_X: int64, exceptions, sorted by row; a (row, column) occurs once.
        value_X: int8, POSITIVE, IGNORED or NEGATIVE.
    """

    group_Q: torch.Tensor
    group_C: torch.Tensor
    row_X: torch.Tensor
    column_X: torch.Tensor
    value_X: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.group_Q), len(self.group_C)

    def rows(self, start: int, stop: int, exceptions: slice | None = None) -> torch.Tensor:
        """Return int8 [stop - start, C], the relations of those queries.

        Args:
            exceptions: which of the X belong to these rows, where that is known; else they are looked up.
        """
        relation = (self.group_Q[start:stop, None] == self.group_C[None, :]).to(torch.int8).neg_()
        if exceptions is None:
            first, last = cuts(self.row_X, [start, stop])
        else:
            first, last = exceptions.start, exceptions.stop
        relation[self.row_X[first:last] - start, self.column_X[first:last]] = self.value_X[first:last]
        return relation

    def positives(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return int64 rows and columns of all positives, sorted by row."""
        chosen = self.value_X == POSITIVE
        return self.row_X[chosen], self.column_X[chosen]

    def part(self, start: int, stop: int) -> "Relations":
        """Return the relations of the queries start..stop alone."""
        first, last = cuts(self.row_X, [start, stop])
        return Relations(
            self.group_Q[start:stop],
            self.group_C,
            self.row_X[first:last] - start,
            self.column_X[first:last],
            self.value_X[first:last],
        )

    def to(self, device: torch.device) -> "Relations":
        return Relations(*(to_device(tensor, device) for tensor in vars(self).values()))


def cuts(row_X: torch.Tensor, borders: Sequence[int]) -> list[int]:
    """Return where the sorted rows `row_X` reach each border."""
    found: list[int] = torch.searchsorted(row_X, torch.tensor(borders, device=row_X.device)).tolist()
    return found
