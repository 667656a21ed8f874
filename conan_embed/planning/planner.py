"""Plans steps over data that is in memory: which queries, positives, hard negatives and STS pairs a step holds.

All of it follows from the seed and the step's number (and from the table, for the hard negatives in use). The order of
examples: mixture.py. What a step does with its queries: queries.py.
"""

from collections.abc import Sequence

import numpy as np
import xxhash

from conan_embed.errors import UserError
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.mixture import RETRIEVAL, STS, TASK, Interleaved, Mixture
from conan_embed.planning.plan import DatasetSize, DataSummary, PairTexts, QueryTexts, StepPlan
from conan_embed.planning.queries import Queries
from conan_embed.recipes.sections import Step
from conan_embed.texts.tasks import RetrievalDataset, StsDataset, Tasks

_TASK_BLOCK = 32  # short, so that even a short sequential run has half of its steps of each task


class Planner:
    """The `StepSource` of data that is in memory.

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
            self.left = np.concatenate([data.left_P for data in self.sts_sets])
            self.right = np.concatenate([data.right_P for data in self.sts_sets])
            self.score = np.concatenate([data.score_P for data in self.sts_sets]).astype(np.float32)
            self.set_of_pair = np.repeat(np.arange(len(self.sts_sets)), [len(data) for data in self.sts_sets])
            self.pairs = _mixture(self.sts_sets, settings, seed, STS)

    @property
    def num_queries(self) -> int:
        return len(self.queries) if self.settings.queries and self.sets else 0

    @property
    def num_pairs(self) -> int:
        return len(self.left) if self.settings.sts_pairs and self.sts_sets else 0

    def steps_for(self, epochs: float) -> int:
        """Return the number of steps of that many passes over the queries (the STS pairs where there are none)."""
        return max(1, round(epochs * self._steps_per_epoch))

    @property
    def _steps_per_epoch(self) -> float:
        if self.num_queries:
            steps = self.num_queries / self.settings.queries
        else:
            steps = self.num_pairs / self.settings.sts_pairs
        return steps * (2 if self.settings.mixing == "sequential" else 1)

    def step(self, step: int, table: NegativeTable | None) -> StepPlan:
        """Return the plan of optimizer step `step`, counted from 0."""
        turn, has_queries, has_pairs = step, self.num_queries > 0, self.num_pairs > 0
        if self.settings.mixing == "sequential":
            # One task a step, each half of the time in shuffled order; its turn counts the task's own steps.
            kinds, turns = self.tasks.at(np.array([step]))
            turn, has_queries, has_pairs = int(turns[0]), kinds[0] == 0, kinds[0] == 1
        retrieval = self._retrieval(turn, table) if has_queries else None
        sts = self._sts(turn) if has_pairs else None
        return StepPlan.of(step, (step + 1) / self._steps_per_epoch, self.store, retrieval, sts)

    def summary(self) -> DataSummary:
        """Return names and sizes of the data sets."""
        sets = [DatasetSize("retrieval", data.name, len(data)) for data in self.sets]
        sets += [DatasetSize("sts", data.name, len(data)) for data in self.sts_sets]
        return DataSummary(tuple(sets), len(self.store), int(self.store.offsets[-1]))

    def identity(self) -> dict[str, str]:
        """Return a hash of each part of the data; whatever the text ids are, the same texts have the same hash."""
        hashes = self.store.hashes
        parts = {"texts": self.store.identity()}
        for data in self.sets:
            parts |= {
                f"queries of {data.name!r}": _hash(hashes[data.query_Q]),
                f"positives of {data.name!r}": _hash(
                    hashes[data.positives.values], data.positives.offsets, data.list_Q
                ),
                f"negatives of {data.name!r}": _hash(hashes[data.given.values], data.given.offsets),
                f"passages of {data.name!r}": _hash(np.sort(hashes[data.passages])),
            }
        for pairs in self.sts_sets:
            parts |= {
                f"pairs of {pairs.name!r}": _hash(hashes[pairs.left_P], hashes[pairs.right_P]),
                f"scores of {pairs.name!r}": _hash(pairs.score_P.astype(np.float64)),
            }
        return parts

    def _retrieval(self, turn: int, table: NegativeTable | None) -> QueryTexts:
        count = self.settings.queries
        if self.settings.one_dataset:
            rows, epochs = self.order.take_of_one_set(turn, count)
        else:
            rows, epochs = self.order.take(turn * count, count)
        in_use_QN = table.in_use(rows) if table is not None and self.settings.num_negatives else None
        return self.queries.texts_of(rows, epochs, in_use_QN)

    def _sts(self, turn: int) -> PairTexts:
        count = self.settings.sts_pairs
        pairs, _ = self.pairs.take(turn * count, count)
        return PairTexts(self.left[pairs], self.right[pairs], self.score[pairs], self.set_of_pair[pairs])


def _hash(*arrays: np.ndarray) -> str:
    key = xxhash.xxh3_128()
    for array in arrays:
        key.update(np.ascontiguousarray(array).tobytes())
    return key.hexdigest()


def _mixture(sets: Sequence[RetrievalDataset | StsDataset], settings: Step, *keys: int) -> Mixture:
    sizes, weights = [len(data) for data in sets], [data.weight for data in sets]
    return Mixture(sizes, weights, *keys, temperature=settings.sampling_temperature)


def check_enough_negatives(sets: Sequence[RetrievalDataset], table: NegativeTable, settings: Step) -> None:
    """Raise UserError where a query has fewer hard negatives than a step asks for (unless the recipe allows it)."""
    if settings.too_few_negatives == "allow":
        return
    start = 0
    for data in sets:
        available = table.available_Q[start : start + len(data)]
        start += len(data)
        short = available < settings.num_negatives
        if data.negative_source != "none" and short.any():
            raise UserError(
                f"step.num_negatives: found {settings.num_negatives}, but {int(short.sum()):,} of {len(data):,} "
                f"queries of {data.name!r} have fewer negatives (one has {int(available.min())}); expected a smaller "
                "number, negative_source: mined, a smaller mining.offset, or step.too_few_negatives: allow."
            )
