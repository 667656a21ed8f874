"""A step is a pure function: `planner.step(s, table)` gives everything that optimizer step s trains on.

Which queries, positives, negatives and STS pairs a step holds follows from the seed and the step's number alone (and,
for the negatives in use, from the table, which every process keeps the same). Every process computes the same plan and
takes its share of the texts. There is no sampler state: to resume is to go on counting.

Order within a task is an endless sequence of shuffled epochs (texts/permutation.py). Data sets with weights are
interleaved in blocks that hold each of them by its share, so that "how often was set d drawn before step s" needs one
block and no history.

Shapes: U unique texts of the step, Q queries, C candidates, P STS pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from conan_embed.errors import UserError
from conan_embed.negatives.table import NONE, NegativeTable
from conan_embed.objectives.relations import IGNORED, NEGATIVE, POSITIVE, Relations
from conan_embed.recipes.schema import Step
from conan_embed.texts.permutation import hashed, nth_of_epochs, permuted
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalSet, StsSet, Tasks

Places = Callable[[torch.Tensor], torch.Tensor]

_BLOCK = 1024
_TASK_BLOCK = 32  # short, so that even a short sequential run has half of its steps of each task
# What each stream of random numbers is for; a stream's number is part of its key.
_RETRIEVAL, _STS, _POSITIVE, _TASK, _SETS = range(5)


@dataclass(frozen=True)
class RetrievalPlan:
    """The retrieval part of a step; indices point into the step's unique texts.

    Attributes:
        rows: int64 [Q], the queries' numbers in the negatives table.
        query_Q, candidate_C: int64, places among the U texts.
        watched: rows and columns of each query's own hard negatives, for the table.
    """

    rows: np.ndarray
    query_Q: torch.Tensor
    candidate_C: torch.Tensor
    relations: Relations
    watched: tuple[torch.Tensor, torch.Tensor]

    def pointing(self, places: Places) -> "RetrievalPlan":
        """Return the plan with text ids replaced by places among the step's unique texts."""
        return replace(self, query_Q=places(self.query_Q), candidate_C=places(self.candidate_C))


@dataclass(frozen=True)
class StsPlan:
    """The STS part of a step: int64 places [P] among the U texts, float32 labels [P], int64 data set [P]."""

    left_P: torch.Tensor
    right_P: torch.Tensor
    label_P: torch.Tensor
    group_P: torch.Tensor

    def pointing(self, places: Places) -> "StsPlan":
        """Return the plan with text ids replaced by places among the step's unique texts."""
        return replace(self, left_P=places(self.left_P), right_P=places(self.right_P))


@dataclass(frozen=True)
class StepPlan:
    """Everything that one optimizer step trains on.

    Attributes:
        text_ids: int64 [U], the unique texts, sorted.
        is_sts: bool [U], texts that only STS pairs use (for dedicated placement).
        epoch: passes over the data so far, as a fraction.
    """

    step: int
    epoch: float
    text_ids: np.ndarray
    is_sts: np.ndarray
    retrieval: RetrievalPlan | None
    sts: StsPlan | None


class Interleaved:
    """An endless sequence of kinds, a pure function of the position.

    Blocks of sum(quota) positions hold each kind exactly `quota[kind]` times, in shuffled order.
    """

    def __init__(self, quota: np.ndarray, *keys: int) -> None:
        self.quota, self.block = quota, int(quota.sum())
        self.starts = np.cumsum(quota) - quota
        self.keys = keys

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 the kind at each position, and how often it came before."""
        blocks = positions // self.block
        kinds, before = np.empty_like(positions), np.empty_like(positions)
        for block in np.unique(blocks):
            slots = permuted(np.arange(self.block), self.block, *self.keys, int(block))
            kind = np.searchsorted(self.starts, slots, side="right") - 1
            earlier = np.empty(self.block, np.int64)
            earlier[np.argsort(kind, kind="stable")] = np.arange(self.block) - np.repeat(
                self.starts, self.quota
            )
            chosen = blocks == block
            place = positions[chosen] % self.block
            kinds[chosen] = kind[place]
            before[chosen] = block * self.quota[kind[place]] + earlier[place]
        return kinds, before


class Mixture:
    """An endless sequence of examples of several data sets, a pure function of the position.

    Without weights: shuffled epochs over all examples together, each once per epoch. With weights: the data sets
    interleaved by their shares, and each runs through epochs of its own.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | None], *keys: int) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.keys = keys
        given = [(weight, size) for weight, size in zip(weights, sizes, strict=True) if weight is not None]
        self.by_size = not given
        # A set without a weight counts by size, on the scale of the others' mean weight per example.
        per_example = sum(weight for weight, _ in given) / sum(size for _, size in given) if given else 1.0
        filled = [n * per_example if w is None else w for w, n in zip(weights, sizes, strict=True)]
        self.sets = Interleaved(_quotas(np.asarray(filled), _BLOCK), *keys, _SETS)

    def take(self, start: int, count: int) -> np.ndarray:
        """Return int64 [count], the examples (numbered through all data sets) at positions start .. start + count."""
        positions = np.arange(start, start + count)
        if self.by_size:
            return nth_of_epochs(positions, int(self.sizes.sum()), *self.keys)
        sets, visits = self.sets.at(positions)
        examples = np.empty(count, np.int64)
        for number in np.unique(sets):
            chosen = sets == number
            examples[chosen] = self._of_set(int(number), visits[chosen])
        return examples

    def take_of_one_set(self, turn: int, count: int) -> np.ndarray:
        """Return int64 [count], examples of a single data set; over the turns, each set has its share."""
        number, visit = (int(value[0]) for value in self.sets.at(np.array([turn])))
        return self._of_set(number, np.arange(visit * count, (visit + 1) * count))

    def _of_set(self, number: int, visits: np.ndarray) -> np.ndarray:
        return self.starts[number] + nth_of_epochs(visits, int(self.sizes[number]), *self.keys, number)


def _quotas(weights: np.ndarray, total: int) -> np.ndarray:
    """Split `total` by the weights, largest remainder first, at least 1 each."""
    exact = weights / weights.sum() * total
    quota = np.maximum(np.floor(exact).astype(np.int64), 1)
    while quota.sum() > total:  # the least shares were raised to 1
        quota[quota.argmax()] -= 1
    quota[np.argsort(quota - exact, kind="stable")[: total - quota.sum()]] += 1
    return quota


class Planner:
    """Plans the steps of a run.

    Args:
        tasks: the data sets.
        settings: the recipe's `step` section.
        seed: everything random follows from it.
    """

    def __init__(self, tasks: Tasks, settings: Step, seed: int) -> None:
        self.store: TextStore = tasks.store
        self.settings = settings
        self.seed = seed
        self.sets: list[RetrievalSet] = tasks.retrieval
        self.sts_sets: list[StsSet] = tasks.sts
        self.tasks = Interleaved(np.array([_TASK_BLOCK // 2, _TASK_BLOCK // 2]), seed, _TASK)
        if self.sets and settings.queries:
            self.query_ids = np.concatenate([found.query_Q for found in self.sets])
            self.set_of_query = np.repeat(np.arange(len(self.sets)), [len(found) for found in self.sets])
            lists_before = np.cumsum([0, *(len(found.positives) for found in self.sets[:-1])])
            self.list_of_query = np.concatenate(
                [found.list_Q + before for found, before in zip(self.sets, lists_before, strict=True)]
            )
            self.positives = Ragged.joined([found.positives for found in self.sets])
            self.queries = Mixture(
                [len(found) for found in self.sets], [found.weight for found in self.sets], seed, _RETRIEVAL
            )
        if self.sts_sets and settings.sts_pairs:
            self.left = np.concatenate([found.left_P for found in self.sts_sets])
            self.right = np.concatenate([found.right_P for found in self.sts_sets])
            self.score = np.concatenate([found.score_P for found in self.sts_sets]).astype(np.float32)
            self.set_of_pair = np.repeat(
                np.arange(len(self.sts_sets)), [len(found) for found in self.sts_sets]
            )
            self.pairs = Mixture(
                [len(found) for found in self.sts_sets], [found.weight for found in self.sts_sets], seed, _STS
            )

    @property
    def num_queries(self) -> int:
        return len(self.query_ids) if self.settings.queries and self.sets else 0

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
        ids = _Unique()
        retrieval = self._retrieval(turn, step, table, ids) if has_queries else None
        sts = self._sts(turn, ids) if has_pairs else None
        text_ids, places = ids.finish()
        is_sts = np.ones(len(text_ids), bool)
        if retrieval is not None:
            is_sts[places(retrieval.query_Q).numpy()] = False
            is_sts[places(retrieval.candidate_C).numpy()] = False
        return StepPlan(
            step,
            (step + 1) / self._steps_per_epoch,
            text_ids,
            is_sts,
            None if retrieval is None else retrieval.pointing(places),
            None if sts is None else sts.pointing(places),
        )

    # --------------------------------------------------------------------------------------------- retrieval

    def _take_queries(self, turn: int) -> np.ndarray:
        count = self.settings.queries
        if self.settings.one_dataset:
            return self.queries.take_of_one_set(turn, count)
        return self.queries.take(turn * count, count)

    def _retrieval(self, turn: int, step: int, table: NegativeTable | None, ids: "_Unique") -> RetrievalPlan:
        rows = self._take_queries(turn)
        query = self.query_ids[rows]
        positive_row, positive = self._chosen_positives(rows, step)
        negative_row, negative = np.empty(0, np.int64), np.empty(0, np.int64)
        if table is not None and self.settings.negatives:
            in_use = table.in_use(rows)
            negative_row, column = np.nonzero(in_use != NONE)
            negative = in_use[negative_row, column]
        # Candidates are distinct per group, so that a text which two data sets offer is a negative in both.
        group = (
            self.set_of_query[rows] if self.settings.in_batch == "dataset" else np.zeros(len(rows), np.int64)
        )
        offered = group[np.concatenate([positive_row, negative_row])] * len(self.store)
        keys, column = np.unique(offered + np.concatenate([positive, negative]), return_inverse=True)
        candidate, group_C = keys % len(self.store), keys // len(self.store)
        positive_column, negative_column = column[: len(positive)], column[len(positive) :]
        exceptions = self._exceptions(
            rows, candidate, positive_row, positive_column, negative_row, negative_column
        )
        group_Q = np.full(len(rows), -1) if self.settings.in_batch == "none" else group
        relations = Relations(*map(torch.from_numpy, (group_Q, group_C, *exceptions)))
        ids.add(query)
        ids.add(candidate)
        watched = torch.from_numpy(negative_row), torch.from_numpy(negative_column)
        return RetrievalPlan(rows, torch.from_numpy(query), torch.from_numpy(candidate), relations, watched)

    def _chosen_positives(self, rows: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose `positives` different ones of each query's list (fewer where it is shorter), from a hashed start."""
        lists = self.list_of_query[rows]
        lengths = self.positives.lengths[lists]
        start = hashed(rows.astype(np.uint64), self.seed, _POSITIVE, step) % lengths.astype(np.uint64)
        turn = np.arange(self.settings.positives + 1)  # one more, in case the query itself is among them
        inside = turn < lengths[:, None]
        place = (
            self.positives.offsets[lists][:, None]
            + (start.astype(np.int64)[:, None] + turn) % lengths[:, None]
        )
        texts = self.positives.values[place]
        inside &= self.store.content[texts] != self.store.content[self.query_ids[rows]][:, None]
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
        known_row, known_column = self._known(rows, candidate)
        row = np.concatenate([positive_row, known_row, negative_row])
        column = np.concatenate([positive_column, known_column, negative_column])
        value = np.repeat(
            np.array([POSITIVE, IGNORED, NEGATIVE], np.int8),
            [len(positive_row), len(known_row), len(negative_row)],
        )
        # np.unique keeps the first of equal (row, column), that is the one of highest precedence.
        key, first = np.unique(row * len(candidate) + column, return_index=True)
        return key // len(candidate), key % len(candidate), value[first]

    def _known(self, rows: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (row, column) wherever a candidate is a known positive of the query, or the query's own text."""
        content = self.store.content[candidate]
        order = np.argsort(content, kind="stable")
        lists, list_place = np.unique(self.list_of_query[rows], return_inverse=True)
        place, values = self.positives.rows(lists)
        known_list, known_column = _equal_pairs(place, self.store.content[values], content[order])
        query_row, own_column = _equal_pairs(
            np.arange(len(rows)), self.store.content[self.query_ids[rows]], content[order]
        )
        # From lists to the rows that have that list.
        by_list = np.argsort(list_place, kind="stable")
        counts = np.bincount(list_place, minlength=len(lists))
        starts = np.cumsum(counts) - counts
        repeat = counts[known_list]
        ends = np.cumsum(repeat)
        within = np.arange(repeat.sum()) - np.repeat(ends - repeat, repeat)
        known_row = by_list[np.repeat(starts[known_list], repeat) + within]
        column = np.concatenate([np.repeat(known_column, repeat), own_column])
        return np.concatenate([known_row, query_row]), order[column]

    # --------------------------------------------------------------------------------------------------- sts

    def _sts(self, turn: int, ids: "_Unique") -> StsPlan:
        count = self.settings.sts_pairs
        pairs = self.pairs.take(turn * count, count)
        ids.add(self.left[pairs])
        ids.add(self.right[pairs])
        return StsPlan(
            torch.from_numpy(self.left[pairs]),
            torch.from_numpy(self.right[pairs]),
            torch.from_numpy(self.score[pairs]),
            torch.from_numpy(self.set_of_pair[pairs]),
        )


class _Unique:
    """Collects text ids of a step; afterwards finds the place of each among the unique ones."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, text_ids: np.ndarray) -> None:
        self._parts.append(text_ids)

    def finish(self) -> tuple[np.ndarray, Places]:
        text_ids = np.unique(np.concatenate(self._parts))
        return text_ids, lambda wanted: torch.from_numpy(np.searchsorted(text_ids, wanted.numpy()))


def _equal_pairs(label: np.ndarray, value: np.ndarray, ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (label, place in `ordered`) for every place that equals a value."""
    first, last = (np.searchsorted(ordered, value, side=side) for side in ("left", "right"))
    counts = last - first
    ends = np.cumsum(counts)
    place = np.arange(counts.sum()) + np.repeat(first - (ends - counts), counts)
    return np.repeat(label, counts), place


def check_enough_negatives(tasks: Tasks, table: NegativeTable, settings: Step) -> None:
    """Raise UserError where a query has fewer hard negatives than a step asks for (unless the recipe allows it)."""
    if settings.too_few_negatives == "allow":
        return
    start = 0
    for found in tasks.retrieval:
        available = table.available_Q[start : start + len(found)]
        start += len(found)
        short = available < settings.negatives
        if found.negatives != "none" and short.any():
            raise UserError(
                f"step.negatives: {settings.negatives} were asked for, but {int(short.sum()):,} of {len(found):,} "
                f"queries of {found.name!r} have fewer (one has {int(available.min())}); expected a smaller number, "
                "negatives: mined, a smaller mining.offset, or step.too_few_negatives: allow."
            )
