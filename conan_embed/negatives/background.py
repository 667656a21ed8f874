"""The cosine that two unrelated texts have anyway, and scores counted from there.

Cosines of some models all lie high: with E5, texts that have nothing in common stand at 0.7 to 0.8. There the paper's
rule, a bound on the *ratio* of two cosines (S_0 / S > 1.15) and one on the cosine itself (|S| < 0.8), asks for more
than such a model gives, and hardly a negative is ever replaced. Counted from the background b, (cos - b) / (1 - b), an
unrelated text stands at 0 and an identical one at 1 for every model, and the two numbers mean the same for all.

The rules compare scores of different moments, so b must be measured alike at all of them: it is the mean cosine of a
data set's queries with the positives of other queries of that set, before training from a sample, and while the model
changes from the queries of each step (`Backgrounds`). A query's own passages, which are near to it, do not count, nor
do texts of other data sets, which are farther away. Both would shift S against S_0 in steps of a few queries.

Shapes: S data sets, Q queries, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


def background_cosine(query_QD: torch.Tensor, candidate_CD: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine over all Q x C pairs, almost all of them unrelated (a float32 scalar on their device).

    The mean of all products is the product of the two means: O((Q + C) D), no score matrix.

    Args:
        query_QD, candidate_CD: float [Q, D] and [C, D], rows of length 1.
    """
    means = [x.detach().mean(0, dtype=torch.float32) for x in (query_QD, candidate_CD)]
    return means[0] @ means[1].to(means[0].device)


def above_background(cosine: np.ndarray, background: float | np.ndarray) -> np.ndarray:
    """Return (cos - b) / (1 - b)."""
    return (cosine - background) / (1 - background)


@dataclass(frozen=True)
class StepMeans:
    """The queries of a step and their positives, by data set.

    Attributes:
        sets: int64 [S], the data sets that the step has queries of.
        count_S: int64, how many queries.
        query_SD, positive_SD: float, the means of their embeddings, which have length 1.
    """

    sets: np.ndarray
    count_S: np.ndarray
    query_SD: np.ndarray
    positive_SD: np.ndarray


class Backgrounds:
    """The background of each data set, which follows the model as it changes.

    A step has few queries of a data set, so that its estimate is the mean cosine with the positives of earlier steps,
    and b the running mean of these. A step's queries meet their own positives in no product, and the last `WINDOW`
    queries of a data set count most. A query's weight does not depend on the number of queries in a step.

    Args:
        sizes: queries of each data set, in the order of the rows of the table.
        query_SD, positive_SD: means over queries and positives of each data set under the model before training.

    Attributes:
        value_S: float64, b of each data set.
    """

    WINDOW = 64

    def __init__(self, sizes: Sequence[int], query_SD: np.ndarray, positive_SD: np.ndarray) -> None:
        self._stop_S = np.cumsum(sizes)
        self._positive_SD = positive_SD.astype(np.float64)
        self.value_S: np.ndarray = (query_SD.astype(np.float64) * self._positive_SD).sum(axis=1)

    def set_of(self, rows: np.ndarray) -> np.ndarray:
        """Return int64, the data set of each row of the table."""
        return np.searchsorted(self._stop_S, rows, side="right")

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return float64, the background of the data set of each row of the table."""
        values: np.ndarray = self.value_S[self.set_of(rows)]
        return values

    def update(self, means: StepMeans) -> None:
        """Take in the queries of a step; every process must give those of all processes."""
        sets, rate_S = means.sets, np.minimum(1.0, means.count_S / self.WINDOW)
        step_S = (means.query_SD.astype(np.float64) * self._positive_SD[sets]).sum(axis=1)
        self.value_S[sets] += rate_S * (step_S - self.value_S[sets])
        self._positive_SD[sets] += rate_S[:, None] * (means.positive_SD - self._positive_SD[sets])

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that a checkpoint needs to resume bit for bit."""
        return {"background_value_S": self.value_S, "background_positive_SD": self._positive_SD}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.value_S = state["background_value_S"].copy()
        self._positive_SD = state["background_positive_SD"].copy()
