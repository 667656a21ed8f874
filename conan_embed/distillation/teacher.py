"""What a teacher says of a step.

- a bi-encoder embeds the corpus once into a bank (bank.py): it knows every pair of a step, in-batch candidates and
  negatives that are put in place later included;
- a cross-encoder scores each query's positives and first ranks once, before training (cross_encoder.py);
- columns of the data hold scores of their own pairs (pair_scores.py).

Shapes: Q queries of one process's part of a step, C candidates, D width of the teacher, W width of its targets.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import normalize

from conan_embed.device import to_device
from conan_embed.distillation.bank import TeacherBank
from conan_embed.distillation.pair_scores import PairScores
from conan_embed.distributed import collectives
from conan_embed.objectives.relations import NEGATIVE
from conan_embed.planning.plan import StepPlan


@dataclass(frozen=True)
class TeacherStep:
    """A teacher's view of one process's queries of a step, on its device.

    Attributes:
        score_QC: nan where the teacher has no score.
        query_QW, candidate_CW: its embeddings as targets of the student's, on fewer axes where the teacher is wider;
            None of a teacher that has none.
        ignored: rows and columns (int64 [X], on the CPU) of the negatives that the guard leaves out.
    """

    score_QC: torch.Tensor
    query_QW: torch.Tensor | None
    candidate_CW: torch.Tensor | None
    ignored: tuple[torch.Tensor, torch.Tensor]


class Teacher(Protocol):
    """Knows scores of pairs of texts."""

    def score(self, plan: StepPlan, device: torch.device, dtype: torch.dtype = torch.float32) -> TeacherStep:
        """Return what it says of this process's queries of a step with retrieval, in `dtype`."""
        ...

    def identity(self) -> str:
        """Return a hash of the teacher and its scores: a run resumes with the same."""
        ...


class BiEncoderTeacher:
    """A teacher that knows the embedding of every text.

    Args:
        queries, passages: its banks.
        axes_DW: float32, the axes on which its embeddings are targets; None: all. Scores are those of the whole width.
        margin: of the guard (`ignored_by_guard`); None: no guard.
        scale: scores are multiplied by this.
    """

    def __init__(
        self,
        queries: TeacherBank,
        passages: TeacherBank,
        *,
        margin: float | None,
        scale: float = 1.0,
        axes_DW: np.ndarray | None = None,
    ) -> None:
        self.queries, self.passages, self.axes_DW = queries, passages, axes_DW
        self.margin, self.scale = margin, scale

    def score(self, plan: StepPlan, device: torch.device, dtype: torch.dtype = torch.float32) -> TeacherStep:
        """Return cosines of all pairs, and the embeddings on the axes of the targets."""
        assert plan.retrieval is not None
        start, stop = collectives.rank_slice(len(plan.retrieval.rows))
        query = plan.text_ids[plan.retrieval.query_Q.numpy()[start:stop]]
        candidate = plan.text_ids[plan.retrieval.candidate_C.numpy()]
        query_QD = to_device(self.queries.rows_of(query), device).to(dtype)
        candidate_CD = to_device(self.passages.rows_of(candidate), device).to(dtype)
        score_QC = self.scale * (query_QD @ candidate_CD.T)
        ignored = ignored_by_guard(plan, score_QC, self.margin)
        return TeacherStep(score_QC, self._target(query_QD), self._target(candidate_CD), ignored)

    def _target(self, rows_ND: torch.Tensor) -> torch.Tensor:
        """Return [N, W], rows of length 1."""
        if self.axes_DW is None:
            return rows_ND
        return normalize(rows_ND @ to_device(self.axes_DW, rows_ND.device).to(rows_ND.dtype), dim=1)

    def identity(self) -> str:
        """Return the keys of the banks, and the width of the targets where they are projected."""
        width = "" if self.axes_DW is None else f" {self.axes_DW.shape[1]}"
        return f"{self.queries.key} {self.passages.key}{width}"


class PairTeacher:
    """A teacher that knows the scores of some pairs: each query's own positives and negatives.

    Args:
        scores: by content of query and passage.
        margin, scale: as in `BiEncoderTeacher`.
    """

    def __init__(self, scores: PairScores, *, margin: float | None, scale: float = 1.0) -> None:
        self.scores, self.margin, self.scale = scores, margin, scale

    def score(self, plan: StepPlan, device: torch.device, dtype: torch.dtype = torch.float32) -> TeacherStep:
        """Return the scores of each query's own candidates."""
        assert plan.retrieval is not None
        start, stop = collectives.rank_slice(len(plan.retrieval.rows))
        relations = plan.retrieval.relations.part(start, stop)
        row, column = relations.row_X.numpy(), relations.column_X.numpy()
        query = plan.text_ids[plan.retrieval.query_Q.numpy()[start:stop][row]]
        candidate = plan.text_ids[plan.retrieval.candidate_C.numpy()[column]]
        content = plan.texts.content
        score_QC = np.full((stop - start, len(plan.retrieval.candidate_C)), np.nan, np.float32)
        score_QC[row, column] = self.scale * self.scores.of(content[query], content[candidate])
        scores = torch.from_numpy(score_QC).to(dtype)
        ignored = ignored_by_guard(plan, scores, self.margin)  # on the CPU: no wait for a GPU
        return TeacherStep(to_device(scores, device), None, None, ignored)

    def identity(self) -> str:
        """Return a hash of the scores."""
        return self.scores.identity()


def ignored_by_guard(
    plan: StepPlan, score_QC: torch.Tensor, margin: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and columns of the negatives whose score lies more than `margin` above the query's best positive.

    Args:
        margin: may be below zero: then candidates a little below the positive are left out, too. None: no guard.
    """
    assert plan.retrieval is not None
    if margin is None:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    start, stop = collectives.rank_slice(len(plan.retrieval.rows))
    relations = plan.retrieval.relations.part(start, stop)
    row, column = (to_device(index, score_QC.device) for index in relations.positives())
    positive_X = score_QC[row, column]
    row, positive_X = row[~positive_X.isnan()], positive_X[~positive_X.isnan()]
    best_Q = score_QC.new_full((stop - start,), float("inf"))  # without a known positive nothing is ignored
    best_Q.scatter_reduce_(0, row, positive_X, "amax", include_self=False)
    above_QC = (score_QC > best_Q[:, None] + margin).cpu()
    above_QC &= relations.to_dense() == NEGATIVE
    rows, columns = torch.nonzero(above_QC).T.contiguous()
    return rows, columns
