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

Guard against false negatives: with `ignore_above` a candidate whose cosine lies by more than that margin above the
query's best positive of the step is left out of its denominator, at all widths, as if the relation table ignored it.
Which ones these are is decided at full width and carries no gradient.

Shapes: Q queries, C candidates, D width, B rows of a block, X pairs of a query and a positive or hard negative.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from conan_embed.device import to_device
from conan_embed.objectives.relations import NEGATIVE, Relations, cuts

BLOCK_BYTES = 256 * 2**20
"""Memory for the score blocks; the rows per block follow from it."""


@dataclass(frozen=True)
class InfoNCE:
    """The loss and the scores that it saw; all but the loss are of full width and carry no gradient.

    Attributes:
        loss: scalar, differentiable.
        positive_X: cosine of each positive pair, in the order of `relations.positives()`.
        hard_negative_X: cosine of each pair of a query and its own hard negative.
        hard_share_X: share of each hard negative in the softmax over it and the query's best positive alone; 0 where
            the loss ignores it.
        positive_share_Q, hard_share_Q: shares of the loss's softmax that fall on the positive (mean over the positives
            of a query) and on the query's own hard negatives together; the rest falls on in-batch negatives. nan
            without a positive.
        ignored_Q: candidates that `ignore_above` left out.
    """

    loss: torch.Tensor
    positive_X: torch.Tensor
    hard_negative_X: torch.Tensor
    hard_share_X: torch.Tensor
    positive_share_Q: torch.Tensor
    hard_share_Q: torch.Tensor
    ignored_Q: torch.Tensor


def infonce(
    query_QD: torch.Tensor,
    candidate_CD: torch.Tensor,
    relations: Relations,
    *,
    temperature: float,
    widths: Sequence[int] = (),
    total_queries: int | None = None,
    hard_negative_pairs: tuple[torch.Tensor, torch.Tensor] | None = None,
    ignore_above: float | None = None,
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
            negatives, whose full-width cosines and shares to return.
        ignore_above: margin (a cosine) of the guard against false negatives; None: no guard. It costs one more product
            of full width.
        block_rows: rows scored at once; chosen from BLOCK_BYTES when None.

    Returns:
        loss in the dtype of the embeddings, and cosines.

    Example:
        A query that lies on its positive, and one that lies on its negative:

        >>> query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> positive = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
        >>> negative = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
        >>> relations = Relations.one_positive(2, negatives_per_query=1)
        >>> result = infonce(query, torch.cat([positive, negative]), relations, temperature=0.5)
        >>> round(result.loss.item(), 4)  # the mean of log(1 + e^-2) and log(1 + e^2)
        1.1269
        >>> result.positive_X.tolist()
        [1.0, 0.0]
    """
    width = query_QD.shape[1]
    ascending = sorted({*widths}) or [width]
    assert ascending[-1] <= width, "a Matryoshka prefix cannot be wider than the embedding"
    if block_rows is None:
        bytes_per_row = (len(ascending) + 3) * candidate_CD.shape[0] * candidate_CD.element_size()
        block_rows = max(16, BLOCK_BYTES // max(1, bytes_per_row))
    settings = _Settings(
        relations,
        temperature,
        ascending,
        total_queries or len(query_QD),
        hard_negative_pairs or (relations.row_X[:0], relations.column_X[:0]),
        ignore_above,
        block_rows,
    )
    return InfoNCE(*_StreamedInfoNCE.apply(query_QD, candidate_CD, settings))


@dataclass(frozen=True)
class _Settings:
    """Arguments of `infonce`; `widths` ascending."""

    relations: Relations
    temperature: float
    widths: list[int]
    total_queries: int
    hard_negative_pairs: tuple[torch.Tensor, torch.Tensor]
    ignore_above: float | None
    block_rows: int


class _StreamedInfoNCE(torch.autograd.Function):
    """The gradients are ready when the loss is; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, query_QD: torch.Tensor, candidate_CD: torch.Tensor, settings: _Settings
    ) -> tuple[torch.Tensor, ...]:
        needs_gradient = query_QD.requires_grad or candidate_CD.requires_grad
        stream = _Stream(query_QD.detach(), candidate_CD.detach(), settings, needs_gradient)
        for block in stream.blocks():
            stream.add(block)
        if needs_gradient:
            ctx.save_for_backward(*stream.gradients())
        figures = stream.figures()
        ctx.mark_non_differentiable(*figures)
        return stream.loss, *figures

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_gradient, candidate_gradient = ctx.saved_tensors
        return query_gradient * gradients[0], candidate_gradient * gradients[0], None


@dataclass(frozen=True)
class _Block:
    """Some of the queries, and which of the sorted pairs and exceptions are theirs."""

    rows: slice
    positives: slice
    hard_negatives: slice
    exceptions: slice


class _Stream:
    """The state of one pass over the blocks.

    Attributes:
        segments: the stretch of dimensions that each width adds to the one before.
        query_scale, candidate_scale: 1 / |prefix| of every row, one [Q] or [C] per width.
        weight_X, mean_X: of each positive pair in the loss, and among the positives of its query.
        candidate_pull: sum over the queries of G logits, one [C] per width.
    """

    def __init__(
        self,
        query_QD: torch.Tensor,
        candidate_CD: torch.Tensor,
        settings: _Settings,
        needs_gradient: bool,
    ) -> None:
        self.query_QD, self.candidate_CD = query_QD, candidate_CD
        self.temperature, self.needs_gradient = settings.temperature, needs_gradient
        self.ignore_above = settings.ignore_above
        self.segments = list(zip([0, *settings.widths[:-1]], settings.widths, strict=True))
        self.query_scale = _inverse_norms(query_QD, self.segments)
        self.candidate_scale = _inverse_norms(candidate_CD, self.segments)
        self._look_up(settings)
        self.loss = query_QD.new_zeros(())
        self.positive_X = query_QD.new_empty(len(self.positive_row))
        self.hard_negative_X = query_QD.new_empty(len(self.hard_negative_row))
        self.hard_share_X = torch.empty_like(self.hard_negative_X)
        self.positive_share_Q = torch.where(self.has_positive_Q, 0.0, torch.nan).to(query_QD)
        self.hard_share_Q = self.positive_share_Q.clone()
        self.ignored_Q = torch.zeros_like(self.positive_share_Q)
        if needs_gradient:
            self.query_gradient, self.candidate_gradient = (
                torch.zeros_like(query_QD),
                torch.zeros_like(candidate_CD),
            )
            self.candidate_pull = [torch.zeros_like(scale) for scale in self.candidate_scale]

    def _look_up(self, settings: _Settings) -> None:
        """Find what belongs to which block where the relations are, on the CPU: a GPU is never asked."""
        relations, pairs = settings.relations, settings.hard_negative_pairs
        num_queries, device, dtype = len(self.query_QD), self.query_QD.device, self.query_QD.dtype
        positive_row, positive_column = relations.positives()
        self.borders = [*range(0, num_queries, settings.block_rows), num_queries]
        self.positive_cut, self.hard_negative_cut, self.exception_cut = (
            cuts(row, self.borders) for row in (positive_row, pairs[0], relations.row_X)
        )
        positives_of_Q = torch.bincount(positive_row, minlength=num_queries)
        count_X = positives_of_Q[positive_row].to(dtype)
        weight_X = 1.0 / (count_X * settings.total_queries * len(settings.widths))
        self.positive_row, self.positive_column = (
            to_device(index, device) for index in (positive_row, positive_column)
        )
        self.weight_X, self.mean_X = to_device(weight_X, device), to_device(1.0 / count_X, device)
        self.has_positive_Q = to_device(positives_of_Q > 0, device)
        self.hard_negative_row, self.hard_negative_column = (to_device(index, device) for index in pairs)
        self.relations = relations.to(device)

    def blocks(self) -> Iterator[_Block]:
        for number, (start, stop) in enumerate(zip(self.borders[:-1], self.borders[1:], strict=True)):
            yield _Block(
                slice(start, stop),
                *(
                    slice(cut[number], cut[number + 1])
                    for cut in (self.positive_cut, self.hard_negative_cut, self.exception_cut)
                ),
            )

    def add(self, block: _Block) -> None:
        """Add the loss of some queries, and its gradients."""
        start, stop = block.rows.start, block.rows.stop
        not_negative_BC = self.relations.rows(start, stop, block.exceptions) != NEGATIVE
        if self.ignore_above is not None:
            too_near_BC = self._above_positive(block, self.ignore_above)
            self.ignored_Q[block.rows] = (too_near_BC & ~not_negative_BC).sum(dim=1)
            not_negative_BC |= too_near_BC
        dot_BC = self.query_QD.new_zeros(stop - start, len(self.candidate_CD))
        slopes = []  # dL/d(dot products), one [B, C] per width
        pulls = []  # sum over the candidates of G logits, one [B] per width
        for index, (left, right) in enumerate(self.segments):
            dot_BC.addmm_(self.query_QD[block.rows, left:right], self.candidate_CD[:, left:right].T)
            scale_B = self.query_scale[index][block.rows] / self.temperature
            logit_BC = dot_BC * scale_B[:, None] * self.candidate_scale[index]
            is_full = index == len(self.segments) - 1
            slope_BC = self._add_width(block, logit_BC, not_negative_BC, note=is_full)
            if slope_BC is None:
                continue
            pull_BC = logit_BC.mul_(slope_BC)
            pulls.append(pull_BC.sum(dim=1))
            self.candidate_pull[index] += pull_BC.sum(dim=0)
            slopes.append(slope_BC.mul_(scale_B[:, None]).mul_(self.candidate_scale[index]))
        if self.needs_gradient:
            self._add_gradients(block, slopes, pulls)

    def _above_positive(self, block: _Block, margin: float) -> torch.Tensor:
        """Return bool [B, C], where a cosine of full width lies more than `margin` above the row's best positive."""
        cosine_BC = (
            self.query_QD[block.rows, : self.segments[-1][1]] @ self.candidate_CD[:, : self.segments[-1][1]].T
        )
        cosine_BC *= self.query_scale[-1][block.rows, None]
        cosine_BC *= self.candidate_scale[-1]
        return cosine_BC > self._best_positive(block, cosine_BC)[:, None] + margin

    def _best_positive(self, block: _Block, score_BC: torch.Tensor) -> torch.Tensor:
        """Return [B], the highest score of a row's positives; nan where it has none."""
        row, column = self._positives(block)
        best_B = score_BC.new_full((len(score_BC),), float("nan"))
        return best_B.scatter_reduce_(0, row, score_BC[row, column], "amax", include_self=False)

    def _positives(self, block: _Block) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows, counted from the block's first, and the columns of its positives."""
        return self.positive_row[block.positives] - block.rows.start, self.positive_column[block.positives]

    def _note(
        self,
        block: _Block,
        logit_BC: torch.Tensor,
        negative_BC: torch.Tensor,
        negative_lse_B: torch.Tensor,
        total_X: torch.Tensor,
    ) -> None:
        """Note cosines and shares of the softmax, at full width.

        Args:
            negative_BC: the logits, -inf where a candidate is no negative; and their logsumexp.
            total_X: logarithm of each positive's denominator.
        """
        row, column = self._positives(block)
        hard_row = self.hard_negative_row[block.hard_negatives] - block.rows.start
        hard_column = self.hard_negative_column[block.hard_negatives]
        positive_X, hard_X = logit_BC[row, column], logit_BC[hard_row, hard_column]
        self.positive_X[block.positives] = positive_X * self.temperature
        self.hard_negative_X[block.hard_negatives] = hard_X * self.temperature
        hard_X = negative_BC[hard_row, hard_column]  # -inf where it is ignored
        self.hard_share_X[block.hard_negatives] = torch.sigmoid(
            hard_X - self._best_positive(block, logit_BC)[hard_row]
        )
        mean_X = self.mean_X[block.positives]
        positive_B = self.positive_share_Q[block.rows].index_add_(
            0, row, mean_X * torch.exp(positive_X - total_X)
        )
        hard_X = torch.exp(hard_X - _finite(negative_lse_B)[hard_row]) * (1 - positive_B)[hard_row]
        self.hard_share_Q[block.rows].index_add_(0, hard_row, hard_X)

    def _add_width(
        self, block: _Block, logit_BC: torch.Tensor, not_negative_BC: torch.Tensor, *, note: bool
    ) -> torch.Tensor | None:
        """Add the loss at one width; return G = dL/dlogits, [B, C], where a gradient is needed."""
        row, column = self._positives(block)
        weight = self.weight_X[block.positives]
        positive_logit = logit_BC[row, column]
        negative_BC = logit_BC.masked_fill(not_negative_BC, float("-inf"))
        negative_lse_B = negative_BC.logsumexp(dim=1)
        total_X = torch.logaddexp(positive_logit, negative_lse_B[row])
        self.loss += (weight * (total_X - positive_logit)).sum()
        if note:
            self._note(block, logit_BC, negative_BC, negative_lse_B, total_X)
        if not self.needs_gradient:
            return None
        # Share of the negatives in each positive's softmax, summed over the positives of the row.
        share_B = torch.zeros_like(negative_lse_B)
        share_B.index_add_(0, row, weight * torch.exp(negative_lse_B[row] - total_X))
        # A row without negatives has lse -inf; exp(-inf - 0) = 0 is then right.
        slope_BC = negative_BC.sub_(_finite(negative_lse_B)[:, None]).exp_()
        slope_BC *= share_B[:, None]
        slope_BC[row, column] = weight * (torch.exp(positive_logit - total_X) - 1.0)
        return slope_BC

    def _add_gradients(self, block: _Block, slopes: list[torch.Tensor], pulls: list[torch.Tensor]) -> None:
        """Add the gradients of the embeddings; a segment's dot products count in all widths that contain it."""
        slope_BC, pull_B = torch.zeros_like(slopes[0]), torch.zeros_like(pulls[0])
        for index in reversed(range(len(self.segments))):
            left, right = self.segments[index]
            slope_BC += slopes[index]
            pull_B += pulls[index] * self.query_scale[index][block.rows].square()
            query_BS = self.query_QD[block.rows, left:right]
            self.query_gradient[block.rows, left:right] = (
                slope_BC @ self.candidate_CD[:, left:right] - query_BS * pull_B[:, None]
            )
            self.candidate_gradient[:, left:right].addmm_(slope_BC.T, query_BS)

    def figures(self) -> tuple[torch.Tensor, ...]:
        """Return what `InfoNCE` holds beside the loss, in its order."""
        return (
            *(self.positive_X, self.hard_negative_X, self.hard_share_X),
            *(self.positive_share_Q, self.hard_share_Q, self.ignored_Q),
        )

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return dL/dquery and dL/dcandidate, once all blocks are added."""
        pull_C = torch.zeros_like(self.candidate_scale[0])
        for index in reversed(range(len(self.segments))):
            left, right = self.segments[index]
            pull_C += self.candidate_pull[index] * self.candidate_scale[index].square()
            self.candidate_gradient[:, left:right] -= self.candidate_CD[:, left:right] * pull_C[:, None]
        return self.query_gradient, self.candidate_gradient


def _finite(lse_B: torch.Tensor) -> torch.Tensor:
    return lse_B.clamp(min=torch.finfo(lse_B.dtype).min)


def _inverse_norms(rows_ND: torch.Tensor, segments: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Return 1 / |prefix| of every row, one [N] per width."""
    squared = rows_ND.new_zeros(len(rows_ND))
    scales = []
    for left, right in segments:
        squared = squared + rows_ND[:, left:right].square().sum(dim=1)
        scales.append(squared.clamp(min=torch.finfo(rows_ND.dtype).tiny).rsqrt())
    return scales
