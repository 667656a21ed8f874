"""CoSENT, the loss for graded pairs (semantic textual similarity), in O(p log p).

Section 3 of the paper:

    L = log( 1 + sum over (i,j),(k,l) with label(i,j) > label(k,l) of exp((cos(k,l) - cos(i,j)) / tau) )

The double sum over p pairs is, pair by pair in the order of the labels, `exp(-s_i)` times the running sum of `exp(s_k)`
over all pairs of lower label, so that one sort and one cumulative sum in log space give it all.

Labels of different data sets have different scales (0 or 1 here, 0 to 5 there), and their order means nothing: pairs
are compared within their group only.

Shapes: P pairs, D width.
"""

from collections.abc import Sequence

import torch

from conan_embed.device import to_device


def cosent(
    score_P: torch.Tensor, label_P: torch.Tensor, group_P: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Return the scalar CoSENT loss.

    Args:
        score_P: float [P], cosines.
        label_P: float [P], higher means closer; on the CPU, as `group_P`: their order is worked out there.
        group_P: int64 [P], pairs are compared where groups agree.
        temperature: tau.

    Example:
        The closer pair has the lower cosine; were it the other way round, the loss would be near 0.

        >>> cosine, label = torch.tensor([0.2, 0.6]), torch.tensor([5.0, 1.0])
        >>> one_group = torch.zeros(2, dtype=torch.int64)
        >>> round(cosent(cosine, label, one_group, temperature=0.1).item(), 4)  # log(1 + e^4)
        4.0181
    """
    terms = [score_P.new_zeros(1)]  # the 1 of log(1 + ...)
    for group in group_P.unique():
        members = torch.nonzero(group_P == group).squeeze(1)
        label, order = label_P[members].sort(stable=True)
        lower = torch.searchsorted(label, label)  # how many pairs have a lower label
        has_lower = torch.nonzero(lower > 0).squeeze(1)
        ascending, last_lower, above = (
            to_device(index, score_P.device) for index in (members[order], lower[has_lower] - 1, has_lower)
        )
        logit = score_P[ascending] / temperature
        terms.append(logit.logcumsumexp(dim=0)[last_lower] - logit[above])
    return torch.cat(terms).logsumexp(dim=0)


def pair_cosines(left_PD: torch.Tensor, right_PD: torch.Tensor, widths: Sequence[int]) -> list[torch.Tensor]:
    """Return the cosine of each pair, one [P] per Matryoshka width, from one product of the full width."""
    cosines, start = [], 0
    dot, left_squared, right_squared = (left_PD.new_zeros(len(left_PD)) for _ in range(3))
    for stop in sorted(widths):
        left, right = left_PD[:, start:stop], right_PD[:, start:stop]
        dot = dot + (left * right).sum(dim=1)
        left_squared = left_squared + left.square().sum(dim=1)
        right_squared = right_squared + right.square().sum(dim=1)
        smallest = torch.finfo(dot.dtype).tiny
        cosines.append(
            dot * left_squared.clamp(min=smallest).rsqrt() * right_squared.clamp(min=smallest).rsqrt()
        )
        start = stop
    return cosines


def cosent_of_pairs(
    left_PD: torch.Tensor,
    right_PD: torch.Tensor,
    label_P: torch.Tensor,
    group_P: torch.Tensor,
    *,
    temperature: float,
    widths: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean CoSENT loss over the widths, and the full-width cosines (float [P], no gradient).

    Args:
        left_PD, right_PD: float [P, D], the pairs' embeddings, not normalised.
        label_P, group_P, temperature: see `cosent`.
        widths: Matryoshka prefixes, none wider than D.

    Example:
        >>> left_PD, right_PD = torch.eye(3, 4), torch.eye(3, 4)
        >>> loss, cosine_P = cosent_of_pairs(
        ...     left_PD, right_PD, torch.tensor([0.0, 1.0, 1.0]), torch.zeros(3, dtype=torch.int64),
        ...     temperature=0.05, widths=[4],
        ... )
        >>> cosine_P
        tensor([1., 1., 1.])
    """
    cosines = pair_cosines(left_PD, right_PD, widths)
    losses = [cosent(cosine, label_P, group_P, temperature=temperature) for cosine in cosines]
    return torch.stack(losses).mean(), cosines[-1].detach()
