"""What one optimizer step trains on, as positions among its unique texts, and the protocol of what plans steps.

A step is a pure function of the seed and its number (and, for the hard negatives in use, of the table, which every
process keeps the same). Every process makes the same plan and takes its share of the texts. There is no sampler state:
to resume is to go on counting. Data that fits into memory: planner.py. Data that is read while it is needed:
streaming.py.

Shapes: U unique texts of the step, Q queries, C candidates, P STS pairs.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from conan_embed.negatives.table import NegativeTable
from conan_embed.objectives.relations import Relations
from conan_embed.texts.store import Texts

_TEXTS_IN_MESSAGES = 16


class QueryTexts(NamedTuple):
    """The retrieval part of a step in text ids (see `RetrievalPlan`)."""

    rows: np.ndarray
    query_Q: np.ndarray
    candidate_C: np.ndarray
    relations: Relations
    hard_negative_pairs: tuple[torch.Tensor, torch.Tensor]
    slot_X: np.ndarray


class PairTexts(NamedTuple):
    """The STS part of a step in text ids (see `StsPlan`)."""

    left_P: np.ndarray
    right_P: np.ndarray
    label_P: np.ndarray
    group_P: np.ndarray


@dataclass(frozen=True)
class RetrievalPlan:
    """The retrieval part of a step.

    Attributes:
        rows: int64 [Q], the queries' rows in the table of hard negatives.
        query_Q, candidate_C: int64, positions among the U texts.
        relations: of the queries to the candidates.
        hard_negative_pairs: query and candidate of each query's own hard negatives, sorted by query.
        slot_X: int64, the slots of these negatives in the table.
    """

    rows: np.ndarray
    query_Q: torch.Tensor
    candidate_C: torch.Tensor
    relations: Relations
    hard_negative_pairs: tuple[torch.Tensor, torch.Tensor]
    slot_X: np.ndarray


@dataclass(frozen=True)
class StsPlan:
    """The STS part of a step: int64 positions [P] among the U texts, float32 labels [P], int64 data sets [P]."""

    left_P: torch.Tensor
    right_P: torch.Tensor
    label_P: torch.Tensor
    group_P: torch.Tensor


@dataclass(frozen=True)
class StepPlan:
    """Everything that one optimizer step trains on.

    Attributes:
        step: counted from 0.
        epoch: passes over the data after this step, as a fraction.
        texts: what the text ids mean.
        text_ids: int64 [U], the unique texts, sorted.
        is_sts: bool [U], texts that only STS pairs use (for dedicated placement).
        description: how to find the step's texts in the data, for messages.
    """

    step: int
    epoch: float
    texts: Texts
    text_ids: np.ndarray
    is_sts: np.ndarray
    retrieval: RetrievalPlan | None
    sts: StsPlan | None
    description: str

    @classmethod
    def of(
        cls,
        step: int,
        epoch: float,
        texts: Texts,
        queries: QueryTexts | None,
        pairs: PairTexts | None,
        *,
        description: str | None = None,
    ) -> "StepPlan":
        """Return the plan of a step whose parts are given in text ids."""
        ids = [] if queries is None else [queries.query_Q, queries.candidate_C]
        ids += [] if pairs is None else [pairs.left_P, pairs.right_P]
        text_ids, positions = np.unique(np.concatenate(ids), return_inverse=True)
        *parts, _ = np.split(positions, np.cumsum([len(part) for part in ids]))
        is_sts = np.ones(len(text_ids), bool)
        retrieval = sts = None
        if queries is not None:
            is_sts[np.concatenate(parts[:2])] = False
            query_Q, candidate_C = map(torch.from_numpy, parts[:2])
            _, _, _, relations, hard_negatives, slot_X = queries
            retrieval = RetrievalPlan(queries.rows, query_Q, candidate_C, relations, hard_negatives, slot_X)
        if pairs is not None:
            left_P, right_P = map(torch.from_numpy, parts[-2:])
            label_P, group_P = map(torch.from_numpy, (pairs.label_P, pairs.group_P))
            sts = StsPlan(left_P, right_P, label_P, group_P)
        description = description or f"text ids of the step: {_first(text_ids)}"
        return cls(step, epoch, texts, text_ids, is_sts, retrieval, sts, description)


def _first(text_ids: np.ndarray) -> str:
    more = " ..." if len(text_ids) > _TEXTS_IN_MESSAGES else ""
    return " ".join(map(str, text_ids[:_TEXTS_IN_MESSAGES])) + more


@dataclass(frozen=True)
class DatasetSize:
    """One data set of a run: its task ("retrieval" or "sts"), name and number of rows."""

    task: str
    name: str
    rows: int


@dataclass(frozen=True)
class DataSummary:
    """The data of a run, for run.json; texts and tokens are unknown (None) where pairs are streamed."""

    datasets: tuple[DatasetSize, ...]
    texts: int | None = None
    tokens: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class StepSource(Protocol):
    """Plans the steps of a run."""

    def steps_for(self, epochs: float) -> int:
        """Return the number of steps of that many passes over the data."""
        ...

    def step(self, step: int, table: NegativeTable | None) -> StepPlan:
        """Return the plan of optimizer step `step`, counted from 0; all processes must call it."""
        ...

    def summary(self) -> DataSummary:
        """Return names and sizes of the data sets."""
        ...

    def identity(self) -> dict[str, str]:
        """Return a hash of each part of the data, by what it is: a checkpoint of other data is refused."""
        ...
