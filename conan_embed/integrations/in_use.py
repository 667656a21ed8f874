"""The negatives in use, as the trainer's dataloaders read them: also in other processes, forked or spawned.

Shapes: Q queries, B rows of a batch, n negatives per query, K ranks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.table import NegativeTable
from conan_embed.texts.known_positives import KnownPositives
from conan_embed.texts.store import TextStore

OUT_OF_PLACE = -1
"""In a label instead of the number of replacements: the row holds another negative than the table says."""


class NegativesInUse:
    """The table's negatives and rankings in shared memory, and what was in use before the last check.

    A resumed run reads those batches anew which the interrupted one had read ahead, with the negatives of before the
    check. `num_read` counts the batches read in this process, to know how many these are; workers' reads are not
    known, and taken for none.

    Attributes:
        now_QN: int32 [Q, n + 1] in shared memory, text ids and the number of replacements.
        ranking_QK: int32 [Q, K] in shared memory; the table's own array.
        num_read: batches read this epoch.
    """

    def __init__(self, table: NegativeTable) -> None:
        self.now_QN = _rows_of(table).share_memory_()
        self.ranking_QK = torch.from_numpy(table.ranking_QK).share_memory_()
        table.ranking_QK = self.ranking_QK.numpy()
        self.before_QN = self.now_QN.clone()
        self.num_read = 0
        self._until = (
            0  # batches that the losses will have taken when none is left from before the last check
        )
        self._old_reads = 0  # batches still to be read from before_QN

    def begin(self) -> None:
        """A loader begins: at the first batch of an epoch, or where a checkpoint left it."""
        self.num_read = 0
        self._until = self._old_reads

    def read(self, rows: list[int]) -> torch.Tensor:
        """Return int32 [B, n + 1]."""
        self.num_read += 1
        old = self._old_reads > 0
        self._old_reads -= old
        return (self.before_QN if old else self.now_QN)[rows]

    def replace(self, table: NegativeTable, consumed: int) -> None:
        """Take over the table after a check, when `consumed` batches were taken of those that were read."""
        self.before_QN = self.now_QN.clone()
        self._until = max(self.num_read, consumed)
        self.now_QN.copy_(_rows_of(table))

    def state(self, consumed: int) -> dict[str, np.ndarray]:
        ahead = np.array([max(0, self._until - consumed)], np.int32)
        return {"before_QN": self.before_QN.numpy(), "ahead": ahead}

    def load_state(self, state: dict[str, np.ndarray], table: NegativeTable) -> None:
        """Take over a checkpoint, and the table that was read from it."""
        self.before_QN = torch.from_numpy(state["before_QN"])
        self._old_reads = int(state["ahead"][0])
        self.ranking_QK.copy_(torch.from_numpy(table.ranking_QK))
        table.ranking_QK = self.ranking_QK.numpy()
        self.now_QN.copy_(_rows_of(table))

    def __deepcopy__(self, memo: Any) -> "NegativesInUse":
        return self  # a data set may be copied (with_format, remove_columns); its negatives stay the table's


def _rows_of(table: NegativeTable) -> torch.Tensor:
    ids = table.in_use(np.arange(len(table)))
    return torch.from_numpy(np.concatenate([ids, table.replacements_Q[:, None]], axis=1).astype(np.int32))


class AddNegatives:
    """The data set's transform: pairs get the columns negative_1 .. negative_n, and a label.

    A label names data set (mark), row, replacement, and the text ids of the negatives.
    """

    def __init__(
        self,
        in_use: NegativesInUse,
        store: TextStore,
        columns: tuple[str, str],
        added: list[str],
        mark: int,
    ) -> None:
        self.in_use, self.store, self.columns, self.added, self.mark = in_use, store, columns, added, mark

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        read = {name: batch[name] for name in self.columns if name in batch}
        # The sampler without duplicates looks at the texts alone, whose negatives may change.
        if "label" not in batch:
            return read
        in_use = self.in_use.read(batch["label"]).tolist()
        for slot, name in enumerate(self.added):
            read[name] = [self.store.text(ids[slot]) for ids in in_use]
        read["label"] = [
            [self.mark, row, ids[-1], *ids[:-1]] for row, ids in zip(batch["label"], in_use, strict=True)
        ]
        return read


class WithoutFalseNegatives:
    """The trainer's collator, given batches in which no negative is a known positive of any query.

    A loss contrasts each query with the negatives of all rows. Where a row's negative is the positive of another row,
    the next of its own ranking that is none takes its place, and its scores are not noted in the table; where the
    ranking has no such text, the negative stays. That can be
    seen only when a batch is put together: a sampler without duplicates looks at anchors and positives.
    """

    def __init__(
        self,
        collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
        add: AddNegatives,
        known: KnownPositives,
    ) -> None:
        self.collate, self.add, self.known = collate, add, known

    def __getattr__(self, name: str) -> Any:
        if name in ("collate", "add", "known"):  # not there yet: an object that is being unpickled
            raise AttributeError(name)
        return getattr(self.collate, name)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        label = features[0].get("label") if features else None
        if isinstance(label, list) and label[0] == self.add.mark:
            features = self._without_false_negatives(features)
        return self.collate(features)

    def _without_false_negatives(self, features: list[dict[str, Any]]) -> list[dict[str, Any]]:
        labels = np.array([each["label"] for each in features])
        rows, ids_BN = labels[:, 1], labels[:, 3:]
        _, position = self.known.pairs(rows, ids_BN.ravel())
        features = [dict(each) for each in features]
        for number, slot in zip(*np.divmod(np.unique(position), ids_BN.shape[1]), strict=True):
            text = self._next(rows, number, ids_BN[number])
            if text != NONE:
                ids_BN[number, slot] = text
                features[number][self.add.added[slot]] = self.add.store.text(text)
                features[number]["label"] = [self.add.mark, rows[number], OUT_OF_PLACE, *ids_BN[number]]
        return features

    def _next(self, rows: np.ndarray, number: int, in_use_N: np.ndarray) -> int:
        """Return the next text of a row's ranking that is no known positive of the batch, or NONE."""
        ranking_K = self.add.in_use.ranking_QK[rows[number]].numpy()
        used_K = np.isin(ranking_K, in_use_N)
        free_K = ~used_K & (ranking_K != NONE)
        free_K[self.known.pairs(rows, ranking_K.clip(min=0))[1]] = False
        after_K = np.arange(len(ranking_K)) > np.flatnonzero(used_K).max(initial=-1)
        ranks = np.flatnonzero(free_K & after_K)
        ranks = ranks if len(ranks) else np.flatnonzero(free_K)
        return int(ranking_K[ranks[0]]) if len(ranks) else NONE


class Hook:
    """Calls a method in this process; pickled into another, where nothing trains, it does nothing."""

    def __init__(self, call: Callable[..., None]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> None:
        self.call(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (_ignore,)


def _ignore(*_: Any) -> None:
    pass
