"""The queries of a step: their positives, their candidates, and how they relate.

Shapes: Q queries of the step, C candidates, N hard negatives of each query.
"""

from collections.abc import Sequence

import numpy as np
import torch

from conan_embed.negatives.rankings import NONE
from conan_embed.objectives.relations import IGNORED, NEGATIVE, OWN_ONLY, POSITIVE, UNSHARED, Relations
from conan_embed.planning.mixture import POSITIVES
from conan_embed.planning.plan import QueryTexts
from conan_embed.recipes.sections import Step
from conan_embed.texts.known_positives import KnownPositives
from conan_embed.texts.permutation import hashed
from conan_embed.texts.ragged import Ragged, expand_ranges
from conan_embed.texts.store import Texts
from conan_embed.texts.tasks import RetrievalDataset


class Queries:
    """The queries of all data sets, end to end, with their positives.

    Args:
        texts: what the text ids mean.
        sets: the data sets.
        settings: the recipe's `step` section.
        seed: the choice among several positives follows from it.
    """

    def __init__(self, texts: Texts, sets: Sequence[RetrievalDataset], settings: Step, seed: int) -> None:
        self.texts, self.settings, self.seed = texts, settings, seed
        self.query_ids = np.concatenate([data.query_Q for data in sets])
        self.set_of_query = np.repeat(np.arange(len(sets)), [len(data) for data in sets])
        lists_before = np.cumsum([0, *(len(data.positives) for data in sets[:-1])])
        self.list_of_query = np.concatenate(
            [data.list_Q + before for data, before in zip(sets, lists_before, strict=True)]
        )
        self.positives = Ragged.joined([data.positives for data in sets])
        # Rows of equal queries share a list and divide it among them.
        self.rows_of_list = np.bincount(self.list_of_query, minlength=len(self.positives))
        self.rank_in_list = _rank_among_equals(self.list_of_query)
        self.known = KnownPositives(self.query_ids, self.list_of_query, self.positives, texts.content)

    def __len__(self) -> int:
        return len(self.query_ids)

    def texts_of(
        self, rows: np.ndarray, epochs: np.ndarray, in_use_QN: np.ndarray | None = None
    ) -> QueryTexts:
        """Return what a step on these queries holds, in text ids.

        Args:
            rows: int64 [Q], which of the queries.
            epochs: int64 [Q], how often each of them came before.
            in_use_QN: text ids of each query's hard negatives, `NONE` where there are fewer; None: in-batch only.
        """
        positive_row, positive = self._choose_positives(rows, epochs)
        if in_use_QN is None:
            in_use_QN = np.empty((len(rows), 0), np.int64)
        negative_row, slot = np.nonzero(in_use_QN != NONE)
        negative = in_use_QN[negative_row, slot]
        by_set = self.settings.in_batch in ("dataset", "dataset_hard")
        group = self.set_of_query[rows] if by_set else np.zeros(len(rows), np.int64)
        # Candidates are distinct per group, so that a text which two data sets offer is a negative in both.
        group_of_offer = group[np.concatenate([positive_row, negative_row])]
        keys = group_of_offer * len(self.texts) + np.concatenate([positive, negative])
        keys, column = np.unique(keys, return_inverse=True)
        group_C, candidate = np.divmod(keys, len(self.texts))
        positive_column, negative_column = np.split(column, [len(positive)])
        exceptions = self._exceptions(
            rows, candidate, (positive_row, positive_column), (negative_row, negative_column)
        )
        group_Q = np.full(len(rows), OWN_ONLY) if self.settings.in_batch == "none" else group
        if self.settings.in_batch in ("step_hard", "dataset_hard"):
            # The paper's sum runs over hard negatives: what is only a positive is no negative of other queries.
            group_C = np.where(np.isin(np.arange(len(candidate)), negative_column), group_C, UNSHARED)
        relations = Relations(*map(torch.from_numpy, (group_Q, group_C, *exceptions)))
        pairs = torch.from_numpy(negative_row), torch.from_numpy(negative_column)
        return QueryTexts(rows, self.query_ids[rows], candidate, relations, pairs, slot)

    def _choose_positives(self, rows: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Choose `positives` different ones of each query's list (fewer where it is shorter).

        The rows of a list go through it together, epoch after epoch, so that all its positives come equally often: an
        epoch uses each once where there are as many as the rows take. Every pass through a list has a hashed start.
        """
        lists, count = self.list_of_query[rows], self.settings.positives
        length = self.positives.lengths[lists]
        taken = (epochs * self.rows_of_list[lists] + self.rank_in_list[rows]) * count
        passes = (lists.astype(np.uint64) << np.uint64(32)) + (taken // length).astype(np.uint64)
        shift = (hashed(passes, self.seed, POSITIVES) % length.astype(np.uint64)).astype(np.int64)
        length = length[:, None]
        turn = np.arange(count + 1)  # one more, in case the query itself is among them
        index = self.positives.offsets[lists][:, None] + ((taken + shift)[:, None] + turn) % length
        texts = self.positives.values[index]
        usable = turn < length
        usable &= self.texts.content[texts] != self.texts.content[self.query_ids[rows]][:, None]
        usable &= np.cumsum(usable, axis=1) <= self.settings.positives
        row, column = np.nonzero(usable)
        return row, texts[row, column]

    def _exceptions(
        self,
        rows: np.ndarray,
        candidate: np.ndarray,
        positives: tuple[np.ndarray, np.ndarray],
        negatives: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return row, column and value; in rising order of precedence: own negative, known or own text, positive."""
        pairs = [positives, self.known.pairs(rows, candidate), negatives]
        row, column = (np.concatenate([pair[axis] for pair in pairs]) for axis in (0, 1))
        values = np.array([POSITIVE, IGNORED, NEGATIVE], np.int8)
        value = np.repeat(values, [len(pair[0]) for pair in pairs])
        # np.unique keeps the first of equal (row, column), that is the one of highest precedence.
        key, first = np.unique(row * len(candidate) + column, return_index=True)
        return key // len(candidate), key % len(candidate), value[first]


def _rank_among_equals(values: np.ndarray) -> np.ndarray:
    """Return int64, how many equal values come before each."""
    order = np.argsort(values, kind="stable")
    counts = np.bincount(values)
    rank = np.empty(len(values), np.int64)
    rank[order] = expand_ranges(np.zeros_like(counts), counts)
    return rank
