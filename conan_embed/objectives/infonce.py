"""InfoNCE over a relation table, for all Matryoshka widths in one pass, the score matrix never whole.

The retrieval loss of the paper (section 3, and equation of the Cross-GPU Batch Balance loss):

    L = -(1/Q) sum_i mean_p log( e^{s(i,p)/tau} / ( e^{s(i,p)/tau} + sum_j e^{s(i,j)/tau} ) )

with p over the positives of query i, j over its negatives (relations.py) and s the cosine. For Matryoshka widths the
loss is the mean over the widths, each with its own cosines.

How it stays cheap:
- A prefix's dot products are partial sums of the full ones, so all widths cost one product of the full width.
- Rows are streamed in blocks. A block's loss *and* gradient are worked out while its scores exist, and only the
  gradients of the embeddings are kept: Q x D and C x D instead of Q x C for every width.

With a query's gradient of the logits G = dL/dlogits and cosine s = <q, c> / (|q| |c|):

    dL/dq = (G / (tau |q| |c|)) c - q (sum_c G logits) / |q|^2        and likewise for c.

Shapes: Q queries, C candidates, D width, B rows of a block, X pairs to watch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from conan_embed.device import to_device
from conan_embed.objectives.relations import NEGATIVE, Relations, cuts

BLOCK_BYTES = 256 * 2**20
"""Memory for the score blocks; the rows per block follow from it."""


@dataclass(frozen=True)
class InfoNCE:
    """The loss and the scores that it saw.

    Attributes:
        loss: scalar, differentiable.
        positive_X: cosine at full width of each positive pair, in the order of `relations.positives()`; no gradient.
        hard_negative_X: the same of each pair of a query and its own hard negative.
    """

    loss: torch.Tensor
    positive_X: torch.Tensor
    hard_negative_X: torch.Tensor


def infonce(
    query_QD: torch.Tensor,
    candidate_CD: torch.Tensor,
    relations: Relations,
    *,
    temperature: float,
    widths: Sequence[int] = (),
    total_queries: int | None = None,
    hard_negative_pairs: tuple[torch.Tensor, torch.Tensor] | None = None,
    block_rows: int | None = None,
) -> InfoNCE:
    """Contrast every query with its positives and negatives.

    Args:
        query_QD: float [Q, D], not normalised.
        candidate_CD: float [C, D], not normalised.
        relations: on the CPU; they are sent to the embeddings' device.
        temperature: tau.
        widths: Matryoshka prefixes; the full width D alone when empty.
        total_queries: divide by this many queries instead of Q, where the rows are shared out over processes.
        hard_negative_pairs: rows and columns (int64 [X] each, sorted by row, on the CPU) of each query's own hard
            negatives, whose full-width cosines to return.
        block_rows: rows scored at once; chosen from BLOCK_BYTES when None.

    Returns:
        loss in the dtype of the embeddings, and cosines.
    """
    width = query_QD.shape[1]
    ascending = sorted({*widths}) or [width]
    assert ascending[-1] <= width, "a Matryoshka prefix cannot be wider than the embedding"
    if block_rows is None:
        bytes_per_row = (len(ascending) + 3) * candidate_CD.shape[0] * candidate_CD.element_size()
        block_rows = max(16, BLOCK_BYTES // max(1, bytes_per_row))
    if hard_negative_pairs is None:
        hard_negative_pairs = (relations.row_X[:0], relations.column_X[:0])
    loss, positive_X, hard_negative_X = _StreamedInfoNCE.apply(
        query_QD,
        candidate_CD,
        relations,
        temperature,
        ascending,
        total_queries or len(query_QD),
        hard_negative_pairs,
        block_rows,
    )
    return InfoNCE(loss, positive_X, hard_negative_X)


class _StreamedInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_QD: torch.Tensor,
        candidate_CD: torch.Tensor,
        relations: Relations,
        temperature: float,
        widths: list[int],
        total_queries: int,
        hard_negative_pairs: tuple[torch.Tensor, torch.Tensor],
        block_rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        needs_gradient = query_QD.requires_grad or candidate_CD.requires_grad
        query_QD, candidate_CD = query_QD.detach(), candidate_CD.detach()
        num_queries = len(query_QD)
        segments = list(zip([0, *widths[:-1]], widths, strict=True))
        query_scale = _inverse_norms(query_QD, segments)  # one [Q] per width
        candidate_scale = _inverse_norms(candidate_CD, segments)
        # What belongs to which block is looked up where the relations are, on the CPU: a GPU is never asked.
        positive_row, positive_column = relations.positives()
        borders = [*range(0, num_queries, block_rows), num_queries]
        positive_cut, hard_negative_cut, exception_cut = (
            cuts(row, borders) for row in (positive_row, hard_negative_pairs[0], relations.row_X)
        )
        positives_of_Q = torch.bincount(positive_row, minlength=num_queries)
        weight_X = 1.0 / (positives_of_Q[positive_row].to(query_QD.dtype) * total_queries * len(widths))
        device = query_QD.device
        positive_row, positive_column, weight_X = (
            to_device(tensor, device) for tensor in (positive_row, positive_column, weight_X)
        )
        hard_negative_pairs = (
            to_device(hard_negative_pairs[0], device),
            to_device(hard_negative_pairs[1], device),
        )
        relations = relations.to(device)

        loss = query_QD.new_zeros(())
        positive_X = query_QD.new_empty(len(positive_row))
        hard_negative_X = query_QD.new_empty(len(hard_negative_pairs[0]))
        query_gradient = torch.zeros_like(query_QD) if needs_gradient else None
        candidate_gradient = torch.zeros_like(candidate_CD) if needs_gradient else None
        candidate_pull = [
            torch.zeros_like(scale) for scale in candidate_scale
        ]  # sum over queries of G logits, [C]

        for number, start in enumerate(range(0, num_queries, block_rows)):
            stop = min(start + block_rows, num_queries)
            exceptions = slice(exception_cut[number], exception_cut[number + 1])
            not_negative_BC = relations.rows(start, stop, exceptions) != NEGATIVE
            mine = slice(positive_cut[number], positive_cut[number + 1])
            row, column, weight = positive_row[mine] - start, positive_column[mine], weight_X[mine]
            dot_BC = query_QD.new_zeros(stop - start, len(candidate_CD))
            query_pull = []  # sum over candidates of G logits, one [B] per width
            slopes = []  # dL/d(dot products), one [B, C] per width
            for index, (left, right) in enumerate(segments):
                dot_BC.addmm_(query_QD[start:stop, left:right], candidate_CD[:, left:right].T)
                scale_B = query_scale[index][start:stop] / temperature
                logit_BC = dot_BC * scale_B[:, None] * candidate_scale[index]
                if index == len(segments) - 1:
                    watch = slice(hard_negative_cut[number], hard_negative_cut[number + 1])
                    hard_negative_X[watch] = (
                        logit_BC[hard_negative_pairs[0][watch] - start, hard_negative_pairs[1][watch]]
                        * temperature
                    )
                    positive_X[mine] = logit_BC[row, column] * temperature
                positive_logit = logit_BC[row, column]
                negative_BC = logit_BC.masked_fill(not_negative_BC, float("-inf"))
                negative_lse_B = negative_BC.logsumexp(dim=1)
                total_X = torch.logaddexp(positive_logit, negative_lse_B[row])
                loss += (weight * (total_X - positive_logit)).sum()
                if not needs_gradient:
                    continue
                # Share of the negatives in each positive's softmax, summed over the positives of the row.
                share_B = torch.zeros_like(negative_lse_B)
                share_B.index_add_(0, row, weight * torch.exp(negative_lse_B[row] - total_X))
                # A row without negatives has lse -inf; exp(-inf - 0) = 0 is then right.
                slope_BC = negative_BC.sub_(
                    negative_lse_B.clamp(min=torch.finfo(loss.dtype).min)[:, None]
                ).exp_()
                slope_BC *= share_B[:, None]
                slope_BC[row, column] = weight * (torch.exp(positive_logit - total_X) - 1.0)
                pull_BC = logit_BC.mul_(slope_BC)
                query_pull.append(pull_BC.sum(dim=1))
                candidate_pull[index] += pull_BC.sum(dim=0)
                slopes.append(slope_BC.mul_(scale_B[:, None]).mul_(candidate_scale[index]))
            if query_gradient is None or candidate_gradient is None:
                continue
            # The slope of a segment's dot products is the sum over all widths that contain it.
            slope_BC, pull_B = torch.zeros_like(dot_BC), query_QD.new_zeros(stop - start)
            for index in reversed(range(len(segments))):
                left, right = segments[index]
                slope_BC += slopes[index]
                pull_B += query_pull[index] * query_scale[index][start:stop].square()
                block = query_QD[start:stop, left:right]
                query_gradient[start:stop, left:right] = (
                    slope_BC @ candidate_CD[:, left:right] - block * pull_B[:, None]
                )
                candidate_gradient[:, left:right].addmm_(slope_BC.T, block)

        if query_gradient is not None and candidate_gradient is not None:
            pull_C = torch.zeros_like(candidate_scale[0])
            for index in reversed(range(len(segments))):
                left, right = segments[index]
                pull_C += candidate_pull[index] * candidate_scale[index].square()
                candidate_gradient[:, left:right] -= candidate_CD[:, left:right] * pull_C[:, None]
            ctx.save_for_backward(query_gradient, candidate_gradient)
        ctx.mark_non_differentiable(positive_X, hard_negative_X)
        return loss, positive_X, hard_negative_X

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_gradient, candidate_gradient = ctx.saved_tensors
        return (query_gradient * gradients[0], candidate_gradient * gradients[0], *[None] * 6)


def _inverse_norms(rows_ND: torch.Tensor, segments: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Return 1 / |prefix| of every row, one [N] per width."""
    squared = rows_ND.new_zeros(len(rows_ND))
    scales = []
    for left, right in segments:
        squared = squared + rows_ND[:, left:right].square().sum(dim=1)
        scales.append(squared.clamp(min=torch.finfo(rows_ND.dtype).tiny).rsqrt())
    return scales
