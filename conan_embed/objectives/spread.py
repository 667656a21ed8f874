"""Spread-out regularisation: different texts of one kind are made orthogonal (Zhang et al. 2017, EmbeddingGemma 2025).

    L_spread = 1 / (N (N - 1)) sum_{i != j} (x_i . x_j)^2     of the queries, plus the same of the positives

Vectors that use the whole space lose less when they are stored in few bits, and are easier to search approximately.
"""

import torch
from torch.nn import functional


def spread_out(
    text_ND: torch.Tensor, widths: tuple[int, ...], rows: tuple[int, int] | None = None
) -> torch.Tensor:
    """Return the mean squared cosine of two different rows, a differentiable scalar; the mean over the widths.

    Costs N D^2, whatever N: the sum over all pairs is a form of X^T X [D, D].

    Args:
        text_ND: embeddings of different texts, of any length.
        widths: Matryoshka prefixes.
        rows: the first and the last (exclusive) that this process works out; the parts add up to the whole.

    Example:
        >>> float(spread_out(torch.eye(3), (3,))), round(float(spread_out(torch.ones(3, 2), (2,))), 6)
        (0.0, 1.0)
    """
    start, stop = rows or (0, len(text_ND))
    num_pairs = max(1, len(text_ND) * (len(text_ND) - 1))
    terms = []
    for width in widths:
        unit_NW = functional.normalize(text_ND[:, :width], dim=1)
        own_MW = unit_NW[start:stop]
        all_pairs = ((own_MW @ (unit_NW.T @ unit_NW)) * own_MW).sum()
        terms.append((all_pairs - own_MW.square().sum(dim=1).square().sum()) / num_pairs)
    return torch.stack(terms).mean()
