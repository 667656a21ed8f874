"""Which texts answer a query: never to be one of its negatives, whoever offers them.

A query's known positives are all texts of its list (rows with equal queries share a list, texts of a class share the
class) and of the lists of every equal query, in whatever data set; its own text counts as one. Texts are compared by
content, so a passage is recognised under another prompt.

Shapes: Q queries, L lists of positives, R queries asked about, C candidates, X pairs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from conan_embed.texts.ragged import Ragged, expand_ranges


@dataclass(frozen=True)
class KnownPositives:
    """The known positives of Q queries.

    Attributes:
        query_Q: int64, text id of each query.
        list_Q: int64, which list of positives is the query's own.
        positives: L lists of text ids.
        content: int64, by text id: equal numbers are equal texts.
    """

    query_Q: np.ndarray
    list_Q: np.ndarray
    positives: Ragged
    content: np.ndarray

    def contains(self, row_X: np.ndarray, text_X: np.ndarray) -> np.ndarray:
        """Return bool [X]: is that text a known positive of that query, or the query itself?"""
        content_X = self.content[text_X]
        pair, list_of_pair = self.lists_of(row_X)
        in_list = np.isin(list_of_pair * self._span + content_X[pair], self._list_contents)
        known = content_X == self.content[self.query_Q[row_X]]
        known[pair[in_list]] = True
        return known

    def pairs(self, rows: np.ndarray, candidate_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of a query and a candidate that is a known positive of it, or the query itself.

        Args:
            rows: int64 [R], queries.
            candidate_C: text ids.

        Returns:
            int64 [X] positions in `rows`, and int64 [X] in `candidate_C`; in no order, and a pair may occur twice.
        """
        content_C = self.content[candidate_C]
        order = np.argsort(content_C, kind="stable")
        # A list is looked up once, however many of the queries share it: a class has thousands of texts.
        row_of_list, list_of_row = self.lists_of(rows)
        lists, list_of_row = np.unique(list_of_row, return_inverse=True)
        position, values = self.positives.rows(lists)
        listed, listed_column = _equal_pairs(position, self.content[values], content_C[order])
        rows_by_list = Ragged.of_lengths(
            row_of_list[np.argsort(list_of_row, kind="stable")],
            np.bincount(list_of_row, minlength=len(lists)),
        )
        which, known_row = rows_by_list.rows(listed)
        own_row, own_column = _equal_pairs(
            np.arange(len(rows)), self.content[self.query_Q[rows]], content_C[order]
        )
        column = np.concatenate([listed_column[which], own_column])
        return np.concatenate([known_row, own_row]), order[column]

    def among(self, passages: np.ndarray) -> "KnownPassages":
        """Return the same as positions among these passages (text ids), looked up once for all queries."""
        content = self.content[passages]
        order = np.argsort(content, kind="stable")
        ordered = content[order]
        list_of_value = np.repeat(np.arange(len(self.positives)), self.positives.lengths)
        contents = ((list_of_value, self.positives.values), (np.arange(len(self.query_Q)), self.query_Q))
        found = [_equal_pairs(label, self.content[texts], ordered) for label, texts in contents]
        lists, own = (
            Ragged.of_lengths(order[column], np.bincount(label, minlength=size))
            for (label, column), size in zip(found, (len(self.positives), len(self.query_Q)), strict=True)
        )
        return KnownPassages(self, lists, own)

    def lists_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions in `rows` and lists of positives: those of each query, and of all queries equal to it."""
        group_Q, lists_of_group = self._groups
        return lists_of_group.rows(group_Q[rows])

    @cached_property
    def _groups(self) -> tuple[np.ndarray, Ragged]:
        """Which queries are equal, int64 [Q], and the lists of each group of them."""
        group_Q = np.unique(self.content[self.query_Q], return_inverse=True)[1]
        group, number = np.divmod(
            np.unique(group_Q * len(self.positives) + self.list_Q), max(len(self.positives), 1)
        )
        return group_Q, Ragged.of_lengths(
            number, np.bincount(group, minlength=int(group_Q.max(initial=-1)) + 1)
        )

    @property
    def _span(self) -> int:
        return int(self.content.max(initial=0)) + 1

    @cached_property
    def _list_contents(self) -> np.ndarray:
        """List and content of every known positive as one number each, sorted."""
        list_of_value = np.repeat(np.arange(len(self.positives)), self.positives.lengths)
        return np.unique(list_of_value * self._span + self.content[self.positives.values])


@dataclass(frozen=True)
class KnownPassages:
    """The known positives of Q queries as positions among the passages of their data set.

    Attributes:
        known: the same as texts.
        lists: L lists of positions, those of the known positives' lists.
        own: Q lists of positions, of passages that are the query itself.
    """

    known: KnownPositives
    lists: Ragged
    own: Ragged

    def of(self, rows: np.ndarray) -> tuple[Ragged, Ragged]:
        """Return the lists of each of these queries, and what the lists hold, for `exclude_lists` of `top_k`.

        Args:
            rows: int64 [R], queries.

        Returns:
            R lists of numbers of lists, and these lists, of positions; no pair of a query and a passage is made.
        """
        row_X, list_X = self.known.lists_of(rows)
        used, number_X = np.unique(list_X, return_inverse=True)
        held = Ragged.joined([self.lists.take(used), self.own.take(rows)])
        counts_R = np.bincount(row_X, minlength=len(rows))
        own_R = len(used) + np.arange(len(rows))
        return Ragged.of_lengths(np.insert(number_X, np.cumsum(counts_R), own_R), counts_R + 1), held

    def pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 [X] positions in `rows` and int64 [X] passages that are known; a pair may occur twice."""
        lists_of_row, held = self.of(rows)
        row_X, list_X = lists_of_row.rows(np.arange(len(rows)))
        which, passage = held.rows(list_X)
        return row_X[which], passage


def _equal_pairs(label: np.ndarray, value: np.ndarray, ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (label, position in `ordered`) for every position that equals a value."""
    first, last = (np.searchsorted(ordered, value, side=side) for side in ("left", "right"))
    counts = last - first
    return np.repeat(label, counts), expand_ranges(first, counts)
