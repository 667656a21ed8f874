"""The retrieval part of a step: its queries, their candidates, and how they relate.

Shapes: U unique texts of the step, Q queries, C candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from conan_embed.negatives.rankings import NONE
from conan_embed.objectives.relations import (
    IGNORED,
    NEGATIVE,
    OWN_ONLY,
    POSITIVE,
    UNSHARED,
    Relations,
)
from conan_embed.planning.mixture import POSITIVES
from conan_embed.recipes.schema import Step
from conan_embed.texts.known_positives import KnownPositives
from conan_embed.texts.permutation import hashed
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import Texts
from conan_embed.texts.tasks import RetrievalDataset

Places = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class RetrievalPlan:
    """The retrieval part of a step; indices point into the step's unique texts.

    Attributes:
        rows: int64 [Q], the queries' numbers in the negatives table.
        query_Q, candidate_C: int64, places among the U texts.
        hard_negative_pairs: rows and columns of each query's own hard negatives, for the table.
        slot_X: int64, which of its query's hard negatives each of these is, for the table.
    """

    rows: np.ndarray
    query_Q: torch.Tensor
    candidate_C: torch.Tensor
    relations: Relations
    hard_negative_pairs: tuple[torch.Tensor, torch.Tensor]
    slot_X: np.ndarray

    def local_indices(self, places: Places) -> "RetrievalPlan":
        """Return the plan with text ids replaced by places among the step's unique texts."""
        return replace(self, query_Q=places(self.query_Q), candidate_C=places(self.candidate_C))


class Queries:
    """The queries of all data sets, end to end, with their positives.

    Args:
        texts: what the text ids mean.
        sets: the data sets.
        settings: the recipe's `step` section.
        seed: which of several positives a step holds follows from it.
    """

    def __init__(self, texts: Texts, sets: Sequence[RetrievalDataset], settings: Step, seed: int) -> None:
        self.texts, self.settings, self.seed = texts, settings, seed
        self.query_ids = np.concatenate([found.query_Q for found in sets])
        self.set_of_query = np.repeat(np.arange(len(sets)), [len(found) for found in sets])
        lists_before = np.cumsum([0, *(len(found.positives) for found in sets[:-1])])
        self.list_of_query = np.concatenate(
            [found.list_Q + before for found, before in zip(sets, lists_before, strict=True)]
        )
        self.positives = Ragged.joined([found.positives for found in sets])
        self.known = KnownPositives(self.query_ids, self.list_of_query, self.positives, texts.content)

    def __len__(self) -> int:
        return len(self.query_ids)

    def plan(self, rows: np.ndarray, step: int, in_use_QN: np.ndarray | None = None) -> RetrievalPlan:
        """Plan a step on these queries; its indices are text ids (see `RetrievalPlan.local_indices`).

        Args:
            rows: int64 [Q], which of the queries.
            in_use_QN: text ids of each query's hard negatives, `NONE` where there are fewer; None: in-batch only.
        """
        query = self.query_ids[rows]
        positive_row, positive = self._chosen_positives(rows, step)
        if in_use_QN is None:
            in_use_QN = np.empty((len(rows), 0), np.int64)
        negative_row, slot = np.nonzero(in_use_QN != NONE)
        negative = in_use_QN[negative_row, slot]
        # Candidates are distinct per group, so that a text which two data sets offer is a negative in both.
        by_dataset = self.settings.in_batch in ("dataset", "dataset_hard")
        group = self.set_of_query[rows] if by_dataset else np.zeros(len(rows), np.int64)
        offered = group[np.concatenate([positive_row, negative_row])] * len(self.texts)
        keys, column = np.unique(offered + np.concatenate([positive, negative]), return_inverse=True)
        candidate, group_C = keys % len(self.texts), keys // len(self.texts)
        positive_column, negative_column = column[: len(positive)], column[len(positive) :]
        exceptions = self._exceptions(
            rows, candidate, positive_row, positive_column, negative_row, negative_column
        )
        group_Q = np.full(len(rows), OWN_ONLY) if self.settings.in_batch == "none" else group
        if self.settings.in_batch in ("step_hard", "dataset_hard"):
            # The paper's sum runs over hard negatives; who is only a positive is no negative of other queries.
            group_C = np.where(np.isin(np.arange(len(candidate)), negative_column), group_C, UNSHARED)
        relations = Relations(*map(torch.from_numpy, (group_Q, group_C, *exceptions)))
        hard_negative_pairs = torch.from_numpy(negative_row), torch.from_numpy(negative_column)
        return RetrievalPlan(
            rows, torch.from_numpy(query), torch.from_numpy(candidate), relations, hard_negative_pairs, slot
        )

    def _chosen_positives(self, rows: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose `positives` different ones of each query's list (fewer where it is shorter), from a hashed start."""
        lists = self.list_of_query[rows]
        lengths = self.positives.lengths[lists]
        start = hashed(rows.astype(np.uint64), self.seed, POSITIVES, step) % lengths.astype(np.uint64)
        turn = np.arange(self.settings.positives + 1)  # one more, in case the query itself is among them
        inside = turn < lengths[:, None]
        place = (
            self.positives.offsets[lists][:, None]
            + (start.astype(np.int64)[:, None] + turn) % lengths[:, None]
        )
        texts = self.positives.values[place]
        inside &= self.texts.content[texts] != self.texts.content[self.query_ids[rows]][:, None]
        inside &= np.cumsum(inside, axis=1) <= self.settings.positives
        row, column = np.nonzero(inside)
        return row, texts[row, column]

    def _exceptions(
        self,
        rows: np.ndarray,
        candidate: np.ndarray,
        positive_row: np.ndarray,
        positive_column: np.ndarray,
        negative_row: np.ndarray,
        negative_column: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return row, column and value; in rising order of precedence: own negative, known or own text, positive."""
        known_row, known_column = self.known.pairs(rows, candidate)
        row = np.concatenate([positive_row, known_row, negative_row])
        column = np.concatenate([positive_column, known_column, negative_column])
        value = np.repeat(
            np.array([POSITIVE, IGNORED, NEGATIVE], np.int8),
            [len(positive_row), len(known_row), len(negative_row)],
        )
        # np.unique keeps the first of equal (row, column), that is the one of highest precedence.
        key, first = np.unique(row * len(candidate) + column, return_index=True)
        return key // len(candidate), key % len(candidate), value[first]
