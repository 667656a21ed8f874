"""The cosine that two unrelated texts have anyway, and scores counted from there.

Cosines of some models all lie high: with E5, texts that have nothing in common stand at 0.7 to 0.8. There the paper's
rule, a bound on the *ratio* of two cosines (S_0 / S > 1.15) and one on the cosine itself (|S| < 0.8), asks for more
than such a model gives, and hardly a negative is ever replaced. Counted from the background b, (cos - b) / (1 - b), an
unrelated text stands at 0 and an identical one at 1 for every model, and the two numbers mean the same for all.
"""

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


def above_background(cosine: np.ndarray, background: float) -> np.ndarray:
    """Return (cos - b) / (1 - b)."""
    return (cosine - background) / (1 - background)
