"""Three changes to the retrieval loss that others report gains from, as arms of run.py and nowhere else.

- focal (arXiv 2506.20923): a query's weight is (1 - p)^gamma, p the softmax of its positive, without gradient.
- hardness (arXiv 2509.20354): a negative's term is multiplied by exp(alpha s), s its cosine, without gradient.
- mixing (arXiv 2506.20923): beside each hard negative of a query a made-up one, lambda n_j + (1 - lambda) n_k of two of
  the query's own at unit length, lambda ~ Beta(2, 2).

A change is installed in this process, and through the environment in the processes that it starts.
"""

import importlib
import os
from typing import Any

import torch
from torch.nn.functional import normalize

from conan_embed.objectives import balance
from conan_embed.objectives.infonce import InfoNCE
from conan_embed.objectives.relations import NEGATIVE, UNSHARED, Relations

VARIABLE = "CONAN_LOSS_CHANGE"
infonce = importlib.import_module("conan_embed.objectives.infonce")  # its package has a function of that name
_plain_infonce, _plain_stream = infonce.infonce, infonce._Stream


def install(change: str) -> None:
    """Change the loss of this process and of those that it starts; "" undoes it.

    Args:
        change: "focal=0.5" (gamma), "hardness=5" (alpha) or "mixing".
    """
    os.environ[VARIABLE] = change
    install_from_environment()


def install_from_environment() -> None:
    kind, _, value = os.environ.get(VARIABLE, "").partition("=")
    balance.infonce = _mixed_infonce if kind == "mixing" else _plain_infonce
    infonce._Stream = _plain_stream
    if kind in ("focal", "hardness"):
        infonce._Stream = type("Weighted", (_WeightedStream,), {kind: float(value)})


class _WeightedStream(_plain_stream):
    focal, hardness = 0.0, 0.0

    def _add_width(
        self, block: Any, logit_BC: torch.Tensor, not_negative_BC: torch.Tensor, *, note: bool
    ) -> torch.Tensor | None:
        """As in the plain loss, with weights that carry no gradient."""
        row, column = self._positives(block)
        positive = logit_BC[row, column]
        weighted_BC = logit_BC * (1 + self.hardness * self.temperature)  # s / tau + alpha s
        negative_BC = weighted_BC.masked_fill(not_negative_BC, float("-inf"))
        negative_lse_B = negative_BC.logsumexp(dim=1)
        total_X = torch.logaddexp(positive, negative_lse_B[row])
        weight_X = self.weight_X[block.positives] * (1 - torch.exp(positive - total_X)) ** self.focal
        self.loss += (weight_X * (total_X - positive)).sum()
        if note:
            self._note(block, logit_BC, negative_BC, negative_lse_B, total_X)
        if not self.needs_gradient:
            return None
        share_B = torch.zeros_like(negative_lse_B)
        share_B.index_add_(0, row, weight_X * torch.exp(negative_lse_B[row] - total_X))
        slope_BC = torch.exp(negative_BC - infonce._finite(negative_lse_B)[:, None]) * share_B[:, None]
        slope_BC[row, column] = weight_X * (torch.exp(positive - total_X) - 1)
        return slope_BC


def _mixed_infonce(
    query_QD: torch.Tensor,
    candidate_CD: torch.Tensor,
    relations: Relations,
    *,
    hard_negative_pairs: tuple[torch.Tensor, torch.Tensor],
    **settings: Any,
) -> InfoNCE:
    """Contrast with a made-up negative for each hard one, of it and the next one of the same query."""
    row_X, column_X = hard_negative_pairs
    next_X = _next_of_row(row_X)
    unit_XD = normalize(candidate_CD[column_X], dim=1)
    # The median of three uniform numbers is a draw from Beta(2, 2).
    generator = torch.Generator().manual_seed(int(column_X.sum()))
    share_X1 = torch.rand(3, len(row_X), generator=generator).median(dim=0).values[:, None].to(unit_XD)
    mixed_XD = share_X1 * unit_XD + (1 - share_X1) * unit_XD[next_X]
    return _plain_infonce(
        query_QD,
        torch.cat([candidate_CD, mixed_XD]),
        _with_own_negatives(relations, row_X),
        hard_negative_pairs=hard_negative_pairs,
        **settings,
    )


def _next_of_row(row_X: torch.Tensor) -> torch.Tensor:
    """Return the position of each entry's successor in its row; the last one's is the first."""
    position = torch.arange(len(row_X))
    first = torch.searchsorted(row_X.contiguous(), row_X.contiguous())
    is_last = torch.cat([row_X[1:] != row_X[:-1], torch.ones(min(1, len(row_X)), dtype=torch.bool)])
    return torch.where(is_last, first, position + 1)


def _with_own_negatives(relations: Relations, row_X: torch.Tensor) -> Relations:
    """Return the relations with a further candidate for each entry of `row_X`, a negative of that query alone."""
    num_candidates = len(relations.group_C)
    row = torch.cat([relations.row_X, row_X])
    order = torch.argsort(row, stable=True)
    column = torch.cat([relations.column_X, num_candidates + torch.arange(len(row_X))])
    value = torch.cat([relations.value_X, torch.full((len(row_X),), NEGATIVE, dtype=torch.int8)])
    group_C = torch.cat([relations.group_C, torch.full((len(row_X),), UNSHARED)])
    return Relations(relations.group_Q, group_C, row[order], column[order], value[order])


install_from_environment()
