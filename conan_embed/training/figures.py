"""What a step saw, from every process, in one exchange and one copy to the host.

Shapes: Q queries of the step, X pairs of a query and its own hard negative, n hard negatives of each query, U texts,
D width.
"""

from dataclasses import dataclass

import numpy as np
import torch

from conan_embed.device import to_device
from conan_embed.distributed import collectives
from conan_embed.negatives.background import background_cosine
from conan_embed.objectives.balance import JointLoss
from conan_embed.planning.plan import StepPlan


@dataclass(frozen=True)
class Figures:
    """Losses and scores of a whole step; the same on every process.

    Attributes:
        total, retrieval, sts, teacher, spread: losses.
        guarded: candidates that the teacher's guard left out.
        gradient_norm: before clipping.
        background: mean cosine of a query and any candidate.
        positive_Q: float64, mean cosine of each query's positives; nan where it has none.
        negative_X, share_X: float64, cosine and share of each hard negative (`InfoNCE.hard_share_X`).
        positive_share_Q, hard_share_Q: float64, shares of the softmax; nan where a query has no positive.
        ignored_Q: float64, candidates that the guard left out.
    """

    total: float
    retrieval: float
    sts: float
    teacher: float
    spread: float
    guarded: float
    gradient_norm: float
    background: float
    positive_Q: np.ndarray
    negative_X: np.ndarray
    share_X: np.ndarray
    positive_share_Q: np.ndarray
    hard_share_Q: np.ndarray
    ignored_Q: np.ndarray

    @property
    def in_batch_share_Q(self) -> np.ndarray:
        return 1 - self.positive_share_Q - self.hard_share_Q


def collect(
    loss: JointLoss, norm: torch.Tensor, embedding_UD: torch.Tensor, plan: StepPlan, guarded: int = 0
) -> torch.Tensor:
    """Return all figures of the step as one vector on the device; every process must call this.

    Args:
        guarded: candidates that the teacher's guard left out, of this process's queries.
    """
    zero = loss.total.detach().new_zeros(())
    losses = [
        loss.total.detach(),
        *(zero if x is None else x for x in (loss.retrieval, loss.sts, loss.teacher, loss.spread)),
    ]
    parts, background = [torch.stack([*losses, torch.full_like(zero, guarded)])], zero
    if plan.retrieval is not None:
        parts += _scores(loss, plan)
        unit_UD = torch.nn.functional.normalize(embedding_UD.detach(), dim=1)
        background = background_cosine(
            unit_UD.index_select(0, to_device(plan.retrieval.query_Q, zero.device)),
            unit_UD.index_select(0, to_device(plan.retrieval.candidate_C, zero.device)),
        )
    summed = collectives.all_reduce_sum(torch.cat(parts))
    return torch.cat([torch.stack([norm.detach().to(summed), background.to(summed)]), summed])


def read(vector: np.ndarray, plan: StepPlan) -> Figures:
    """Return what `collect` put together."""
    norm, background, total, retrieval, sts, teacher, spread, guarded = (float(x) for x in vector[:8])
    num_queries = 0 if plan.retrieval is None else len(plan.retrieval.rows)
    num_pairs = 0 if plan.retrieval is None else len(plan.retrieval.slot_X)
    queries, pairs = np.split(vector[8:].astype(np.float64), [5 * num_queries])
    sum_Q, count_Q, positive_share_Q, hard_share_Q, ignored_Q = queries.reshape(5, num_queries)
    negative_X, share_X = pairs.reshape(2, num_pairs)
    with np.errstate(invalid="ignore"):
        positive_Q = sum_Q / count_Q
    return Figures(
        *(total, retrieval, sts, teacher, spread, guarded, norm, background, positive_Q, negative_X, share_X),
        *(positive_share_Q, hard_share_Q, ignored_Q),
    )


def _scores(loss: JointLoss, plan: StepPlan) -> list[torch.Tensor]:
    """Return [5 Q] and [2 X] figures, zero where they are another process's."""
    nce, retrieval = loss.nce, plan.retrieval
    assert nce is not None and retrieval is not None
    zero = loss.total.detach()
    start, stop = collectives.rank_slice(len(retrieval.rows))
    queries = zero.new_zeros(5, len(retrieval.rows))
    row = retrieval.relations.positives()[0]
    row = to_device(row[(row >= start) & (row < stop)], zero.device)
    queries[0].index_add_(0, row, nce.positive_X)
    queries[1].index_add_(0, row, torch.ones_like(nce.positive_X))
    queries[2:, start:stop] = torch.stack([nce.positive_share_Q, nce.hard_share_Q, nce.ignored_Q])
    first, last = np.searchsorted(retrieval.hard_negative_pairs[0].numpy(), [start, stop])
    pairs = zero.new_zeros(2, len(retrieval.slot_X))
    pairs[:, first:last] = torch.stack([nce.hard_negative_X, nce.hard_share_X])
    return [queries.flatten(), pairs.flatten()]


def by_slot(values_X: np.ndarray, plan: StepPlan, num_negatives: int) -> np.ndarray:
    """Return values of hard negatives as float64 [Q, n], nan where a query has fewer."""
    retrieval = plan.retrieval
    assert retrieval is not None
    values_QN = np.full((len(retrieval.rows), num_negatives), np.nan)
    values_QN[retrieval.hard_negative_pairs[0].numpy(), retrieval.slot_X] = values_X
    return values_QN


def mean(values: np.ndarray) -> float | None:
    """Return the mean of what is not nan; None where nothing is left."""
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if len(seen) else None


def mean_per_query(values_X: np.ndarray, plan: StepPlan) -> float | None:
    """Return the mean over the queries of the mean of each one's hard negatives."""
    if plan.retrieval is None or len(values_X) == 0:
        return None
    row = plan.retrieval.hard_negative_pairs[0].numpy()
    count_Q = np.bincount(row)
    held = count_Q > 0
    return float((np.bincount(row, values_X)[held] / count_Q[held]).mean())
