"""A step is a pure function: `planner.step(s, table)` gives everything that optimizer step s trains on.

Which queries, positives, negatives and STS pairs a step holds follows from the seed and the step's number alone (and,
for the negatives in use, from the table, which every process keeps the same). Every process computes the same plan and
takes its share of the texts. There is no sampler state: to resume is to go on counting.

In which order examples come: mixture.py. What a step does with its queries: queries.py. Pairs that are too many to be
read at the start: streaming.py.

Shapes: U unique texts of the step, P STS pairs.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from conan_embed.errors import UserError
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.mixture import RETRIEVAL, STS, TASK, Interleaved, Mixture
from conan_embed.planning.queries import Places, Queries, RetrievalPlan
from conan_embed.recipes.schema import Step
from conan_embed.texts.store import Texts
from conan_embed.texts.tasks import RetrievalDataset, StsDataset, Tasks

_TASK_BLOCK = 32  # short, so that even a short sequential run has half of its steps of each task
_NAMED = 16  # texts that a message about a step names


@dataclass(frozen=True)
class StsPlan:
    """The STS part of a step: int64 places [P] among the U texts, float32 labels [P], int64 data set [P]."""

    left_P: torch.Tensor
    right_P: torch.Tensor
    label_P: torch.Tensor
    group_P: torch.Tensor

    def local_indices(self, places: Places) -> "StsPlan":
        """Return the plan with text ids replaced by places among the step's unique texts."""
        return replace(self, left_P=places(self.left_P), right_P=places(self.right_P))


@dataclass(frozen=True)
class StepPlan:
    """Everything that one optimizer step trains on.

    Attributes:
        texts: what the text ids mean.
        text_ids: int64 [U], the unique texts, sorted.
        is_sts: bool [U], texts that only STS pairs use (for dedicated placement).
        epoch: passes over the data so far, as a fraction.
        named: how to find the step's texts again, for messages.
    """

    step: int
    epoch: float
    texts: Texts
    text_ids: np.ndarray
    is_sts: np.ndarray
    retrieval: RetrievalPlan | None
    sts: StsPlan | None
    named: str

    @classmethod
    def of(
        cls,
        step: int,
        epoch: float,
        texts: Texts,
        retrieval: RetrievalPlan | None,
        sts: StsPlan | None,
        *,
        named: str | None = None,
    ) -> "StepPlan":
        """Return the plan whose parts are given in text ids, local_indices to the unique ones among them."""
        of_queries = [] if retrieval is None else [retrieval.query_Q, retrieval.candidate_C]
        of_pairs = [] if sts is None else [sts.left_P, sts.right_P]
        text_ids = np.unique(torch.cat([*of_queries, *of_pairs]).numpy())

        def places(wanted: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.searchsorted(text_ids, wanted.numpy()))

        is_sts = np.ones(len(text_ids), bool)
        for ids in of_queries:
            is_sts[places(ids).numpy()] = False
        if named is None:
            shown = " ".join(map(str, text_ids[:_NAMED])) + (" ..." if len(text_ids) > _NAMED else "")
            named = f"text ids of the step: {shown}"
        return cls(
            step,
            epoch,
            texts,
            text_ids,
            is_sts,
            None if retrieval is None else retrieval.local_indices(places),
            None if sts is None else sts.local_indices(places),
            named,
        )


class Planner:
    """Plans the steps of a run.

    Args:
        tasks: the data sets.
        settings: the recipe's `step` section.
        seed: everything random follows from it.
    """

    def __init__(self, tasks: Tasks, settings: Step, seed: int) -> None:
        self.store = tasks.store
        self.settings = settings
        self.sets: list[RetrievalDataset] = tasks.retrieval
        self.sts_sets: list[StsDataset] = tasks.sts
        self.tasks = Interleaved(np.array([_TASK_BLOCK // 2, _TASK_BLOCK // 2]), seed, TASK)
        if self.sets and settings.queries:
            self.queries = Queries(tasks.store, self.sets, settings, seed)
            self.order = _mixture(self.sets, settings, seed, RETRIEVAL)
        if self.sts_sets and settings.sts_pairs:
            self.left = np.concatenate([found.left_P for found in self.sts_sets])
            self.right = np.concatenate([found.right_P for found in self.sts_sets])
            self.score = np.concatenate([found.score_P for found in self.sts_sets]).astype(np.float32)
            self.set_of_pair = np.repeat(
                np.arange(len(self.sts_sets)), [len(found) for found in self.sts_sets]
            )
            self.pairs = _mixture(self.sts_sets, settings, seed, STS)

    @property
    def num_queries(self) -> int:
        return len(self.queries) if self.settings.queries and self.sets else 0

    @property
    def num_pairs(self) -> int:
        return len(self.left) if self.settings.sts_pairs and self.sts_sets else 0

    def steps_for(self, epochs: float) -> int:
        """Return how many steps pass that often over the queries (over the STS pairs where there are no queries)."""
        return max(1, round(epochs * self._steps_per_epoch))

    @property
    def _steps_per_epoch(self) -> float:
        of_queries = self.num_queries > 0
        steps = (
            self.num_queries / self.settings.queries
            if of_queries
            else self.num_pairs / self.settings.sts_pairs
        )
        return steps * (2 if self.settings.mixing == "sequential" else 1)

    def step(self, step: int, table: NegativeTable | None) -> StepPlan:
        """Return the plan of optimizer step `step`, counted from 0."""
        turn, has_queries, has_pairs = step, self.num_queries > 0, self.num_pairs > 0
        if self.settings.mixing == "sequential":
            # One task a step, each half of the time in shuffled order; its turn counts the task's own steps.
            kinds, turns = self.tasks.at(np.array([step]))
            turn, has_queries, has_pairs = int(turns[0]), kinds[0] == 0, kinds[0] == 1
        retrieval = self._retrieval(turn, step, table) if has_queries else None
        sts = self._sts(turn) if has_pairs else None
        return StepPlan.of(step, (step + 1) / self._steps_per_epoch, self.store, retrieval, sts)

    def facts(self) -> dict[str, Any]:
        """What run.json says of the data."""
        sets = [("retrieval", data.name, len(data)) for data in self.sets]
        sets += [("sts", data.name, len(data)) for data in self.sts_sets]
        return {
            "datasets": [{"task": task, "name": name, "rows": rows} for task, name, rows in sets],
            "texts": len(self.store),
            "tokens": int(self.store.offsets[-1]),
        }

    def identity(self) -> str:
        """Return a hash of what text ids and places in the data mean: a checkpoint of other data is refused."""
        return self.store.identity()

    def _retrieval(self, turn: int, step: int, table: NegativeTable | None) -> RetrievalPlan:
        count = self.settings.queries
        if self.settings.one_dataset:
            rows = self.order.take_of_one_set(turn, count)
        else:
            rows = self.order.take(turn * count, count)
        in_use_QN = table.in_use(rows) if table is not None and self.settings.num_negatives else None
        return self.queries.plan(rows, step, in_use_QN)

    def _sts(self, turn: int) -> StsPlan:
        count = self.settings.sts_pairs
        pairs = self.pairs.take(turn * count, count)
        return StsPlan(
            torch.from_numpy(self.left[pairs]),
            torch.from_numpy(self.right[pairs]),
            torch.from_numpy(self.score[pairs]),
            torch.from_numpy(self.set_of_pair[pairs]),
        )


def _mixture(sets: list[RetrievalDataset] | list[StsDataset], settings: Step, *keys: int) -> Mixture:
    sizes, weights = [len(found) for found in sets], [found.weight for found in sets]
    return Mixture(sizes, weights, *keys, temperature=settings.sampling_temperature)


def check_enough_negatives(tasks: Tasks, table: NegativeTable, settings: Step) -> None:
    """Raise UserError where a query has fewer hard negatives than a step asks for (unless the recipe allows it)."""
    if settings.too_few_negatives == "allow":
        return
    start = 0
    for found in tasks.retrieval:
        available = table.available_Q[start : start + len(found)]
        start += len(found)
        short = available < settings.num_negatives
        if found.negative_source != "none" and short.any():
            raise UserError(
                f"step.num_negatives: {settings.num_negatives} were asked for, but {int(short.sum()):,} of "
                f"{len(found):,} queries of {found.name!r} have fewer (one has {int(available.min())}); "
                "expected a smaller number, negative_source: mined, a smaller mining.offset, "
                "or step.too_few_negatives: allow."
            )
