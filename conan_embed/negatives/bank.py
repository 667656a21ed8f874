"""A bank of passage embeddings that training itself keeps fresh, so that "hard" means hard *now*.

A ranking mined once grows stale while the model learns. The bank holds one embedding per passage (a Matryoshka prefix
in bfloat16). Every step writes the rows of the passages that it embedded anyway, and a budget of further passages per
step, oldest rows first, bounds the age of all others. Ranking a query anew is then one small matrix product.

Memory: 2 bytes x width per passage (512 MB per million at width 256), and 4 bytes for its age.

Shapes: M passages, W width kept.
"""

import numpy as np
import torch


class PassageBank:
    """Embeddings of the passages of all data sets.

    Args:
        passages: int64 [M], unique text ids, sorted.
        width: Matryoshka prefix to keep.
    """

    def __init__(self, passages: np.ndarray, width: int) -> None:
        self.passages = passages
        self.width = width
        self.rows_MW = torch.zeros(len(passages), width, dtype=torch.bfloat16)
        self.written_M = np.zeros(len(passages), np.int32)  # the step at which each row was written

    def write(self, text_ids: np.ndarray, embedding_ND: torch.Tensor, step: int) -> None:
        """Write the rows of those texts that are passages of the bank; others are passed over.

        Args:
            text_ids: int64 [N].
            embedding_ND: float [N, D], any norm; the prefix is normalised here.
        """
        row_N = np.searchsorted(self.passages, text_ids).clip(max=len(self.passages) - 1)
        known = self.passages[row_N] == text_ids
        prefix = embedding_ND.detach()[
            torch.from_numpy(np.flatnonzero(known)).to(embedding_ND.device), : self.width
        ]
        rows = torch.nn.functional.normalize(prefix.float(), dim=1).to(torch.bfloat16).cpu()
        self.rows_MW[torch.from_numpy(row_N[known])] = rows
        self.written_M[row_N[known]] = step

    def oldest(self, count: int) -> np.ndarray:
        """Return the text ids of the `count` rows written longest ago (lower id first among equals)."""
        count = min(count, len(self.passages))
        if count == 0:
            return self.passages[:0]
        # Rows are ordered by (age, row), so that the choice is the same on every process.
        keys = self.written_M.astype(np.int64) * len(self.passages) + np.arange(len(self.passages))
        return self.passages[np.sort(np.argpartition(keys, count - 1)[:count])]

    def rows_of(self, text_ids: np.ndarray) -> torch.Tensor:
        """Return bfloat16 [N, W], the rows of those passages; where these are all, the bank itself and no copy."""
        if np.array_equal(text_ids, self.passages):
            return self.rows_MW
        return self.rows_MW[torch.from_numpy(np.searchsorted(self.passages, text_ids))]

    def age(self, step: int) -> tuple[float, int]:
        """Return the mean and the largest age of a row, in steps."""
        ages = step - self.written_M
        return float(ages.mean()), int(ages.max())

    def state(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint needs (the rows as raw 16-bit words: numpy has no bfloat16)."""
        return {"bank_rows": self.rows_MW.view(torch.int16).numpy(), "bank_written": self.written_M}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        assert state["bank_rows"].shape == tuple(self.rows_MW.shape), "a bank of another data set"
        self.rows_MW = torch.from_numpy(state["bank_rows"].copy()).view(torch.bfloat16)
        self.written_M = state["bank_written"].copy()


def passages_of(passages: list[np.ndarray]) -> np.ndarray:
    """Return the union of the passages of several data sets, sorted."""
    return np.unique(np.concatenate(passages))
