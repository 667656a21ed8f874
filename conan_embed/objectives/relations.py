"""What each candidate is to each query: positive, negative, or nothing.

A step's score matrix has a row per query and a column per candidate. Columns mean nothing by their place; this table
says what they are. So several positives, ragged hard negatives, known positives of a query that sit in the batch for
another one, repeated texts and in-batch negatives restricted to one data set are all the same thing.

     1  positive of this query in this step
     0  ignored: a known positive that is not trained on now, the query's own text, another data set's candidate
    -1  negative

The table is never whole in memory: a default by group (equal groups: negative) plus sparse exceptions, expanded row
block by row block. A plan holds it on the CPU, where the loss looks up which exceptions belong to which rows.

Shapes: Q queries, C candidates, n negatives of each query, X exceptions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from conan_embed.device import to_device

POSITIVE, IGNORED, NEGATIVE = 1, 0, -1

OWN_ONLY = -1
"""Group of a query without in-batch negatives."""

UNSHARED = -2
"""Group of a candidate that is no in-batch negative of anyone."""


@dataclass(frozen=True)
class Relations:
    """Relations of Q queries to C candidates.

    Made by `one_positive`, `in_batch` or `from_dense`, or directly from groups and exceptions.

    Attributes:
        group_Q: int64, a candidate is a negative of a query of its own group; OWN_ONLY (-1): no in-batch negatives.
        group_C: int64, groups of the candidates, from 0 on; UNSHARED (-2): in nobody's group.
        row_X, column_X: int64, exceptions, sorted by row; a (row, column) occurs once.
        value_X: int8, POSITIVE, IGNORED or NEGATIVE.
    """

    group_Q: torch.Tensor
    group_C: torch.Tensor
    row_X: torch.Tensor
    column_X: torch.Tensor
    value_X: torch.Tensor

    @classmethod
    def one_positive(cls, num_queries: int, *, negatives_per_query: int = 0) -> "Relations":
        """Return the relations of queries to one positive each, and to hard negatives of their own.

        Args:
            num_queries: Q.
            negatives_per_query: n.

        Returns:
            relations to C = Q + Q n candidates: the positive of each query in turn, then the n negatives of the first
            query, those of the second, and so on.

        Example:
            >>> Relations.one_positive(2, negatives_per_query=1).to_dense().tolist()
            [[1, 0, -1, 0], [0, 1, 0, -1]]
        """
        query = torch.arange(num_queries)
        own = num_queries + torch.arange(num_queries * negatives_per_query).view(
            num_queries, negatives_per_query
        )
        column = torch.cat([query[:, None], own], dim=1)
        value = torch.full_like(column, NEGATIVE, dtype=torch.int8)
        value[:, 0] = POSITIVE
        row = query[:, None].expand_as(column)
        group_C = torch.zeros(num_queries * (1 + negatives_per_query), dtype=torch.int64)
        return cls(
            torch.full((num_queries,), OWN_ONLY), group_C, row.flatten(), column.flatten(), value.flatten()
        )

    @classmethod
    def in_batch(
        cls,
        num_queries: int,
        *,
        negatives_per_query: int = 0,
        shared: Literal["all", "hard"] = "all",
        group_Q: torch.Tensor | None = None,
    ) -> "Relations":
        """Return the relations of queries to one positive each, where others' candidates are negatives too.

        Args:
            num_queries: Q.
            negatives_per_query: n.
            shared: which candidates of other queries are negatives: all, or their hard negatives alone, without their
                positives (the sum of the paper's Cross-GPU Batch Balance loss).
            group_Q: int64 [Q], not negative; queries share candidates with those of their own group only (of one data
                set, say). All are of one group when None.

        Returns:
            relations to C = Q + Q n candidates, in the order of `one_positive`.

        Example:
            >>> Relations.in_batch(2, negatives_per_query=1).to_dense().tolist()
            [[1, -1, -1, -1], [-1, 1, -1, -1]]
            >>> Relations.in_batch(2, negatives_per_query=1, shared="hard").to_dense().tolist()
            [[1, 0, -1, -1], [0, 1, -1, -1]]
        """
        own = cls.one_positive(num_queries, negatives_per_query=negatives_per_query)
        group_Q = torch.zeros(num_queries, dtype=torch.int64) if group_Q is None else group_Q
        group_C = torch.cat([group_Q, group_Q.repeat_interleave(negatives_per_query)])
        if shared == "hard":
            group_C[:num_queries] = UNSHARED
        return cls(group_Q, group_C, own.row_X, own.column_X, own.value_X)

    @classmethod
    def from_dense(cls, relation_QC: torch.Tensor) -> "Relations":
        """Return the relations that a matrix of 1 (positive), 0 (ignored) and -1 (negative) spells out.

        Example:
            >>> matrix = torch.tensor([[1, -1, 0], [0, 1, 1]])
            >>> bool((Relations.from_dense(matrix).to_dense() == matrix).all())
            True
        """
        row, column = torch.nonzero(relation_QC).T.contiguous()
        group_Q = torch.full((relation_QC.shape[0],), OWN_ONLY)
        group_C = torch.zeros(relation_QC.shape[1], dtype=torch.int64)
        return cls(group_Q, group_C, row, column, relation_QC[row, column].to(torch.int8))

    def to_dense(self) -> torch.Tensor:
        """Return int8 [Q, C], the whole matrix."""
        return self.rows(0, len(self.group_Q))

    @property
    def shape(self) -> tuple[int, int]:
        """Q and C."""
        return len(self.group_Q), len(self.group_C)

    def rows(self, start: int, stop: int, exceptions: slice | None = None) -> torch.Tensor:
        """Return int8 [stop - start, C], the relations of those queries.

        Args:
            exceptions: which of the X belong to these rows, where that is known; else they are looked up.
        """
        relation = (self.group_Q[start:stop, None] == self.group_C[None, :]).to(torch.int8).neg_()
        if exceptions is None:
            exceptions = slice(*cuts(self.row_X, [start, stop]))
        relation[self.row_X[exceptions] - start, self.column_X[exceptions]] = self.value_X[exceptions]
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

    def ignoring(self, row_X: torch.Tensor, column_X: torch.Tensor) -> "Relations":
        """Return the relations with some pairs ignored, whatever they were.

        Args:
            row_X, column_X: int64, the pairs, each once.

        Example:
            >>> relations = Relations.in_batch(2)
            >>> relations.ignoring(torch.tensor([1]), torch.tensor([0])).to_dense().tolist()
            [[1, -1], [0, 1]]
        """
        num_columns = max(1, len(self.group_C))
        pairs = torch.cat([row_X * num_columns + column_X, self.row_X * num_columns + self.column_X])
        value = torch.cat([torch.full((len(row_X),), IGNORED, dtype=torch.int8), self.value_X])
        pairs, order = torch.sort(pairs, stable=True)  # of equal pairs the ignored one comes first
        first = torch.ones(len(pairs), dtype=torch.bool)
        first[1:] = pairs[1:] != pairs[:-1]
        pairs, value = pairs[first], value[order][first]
        return Relations(self.group_Q, self.group_C, pairs // num_columns, pairs % num_columns, value)

    def to(self, device: torch.device) -> "Relations":
        """Return the relations on another device."""
        return Relations(*(to_device(tensor, device) for tensor in vars(self).values()))


def cuts(row_X: torch.Tensor, borders: Sequence[int]) -> list[int]:
    """Return where the sorted rows `row_X` reach each border."""
    positions: list[int] = torch.searchsorted(
        row_X.contiguous(), torch.tensor(borders, device=row_X.device)
    ).tolist()
    return positions
