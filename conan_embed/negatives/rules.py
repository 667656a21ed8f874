"""When negatives are no longer hard.

The paper's rule (section 4, dynamic hard negative mining): S_0 is the mean score of a query's hard negatives when they
were put in place, S the mean score now. Where

    decay * S < S_0   and   |S| < max_score         (1.15 and 0.8; v2 of the model: 1.2 and 0.7)

the negatives are no longer hard.
"""

import numpy as np


def no_longer_hard(initial: np.ndarray, current: np.ndarray, *, decay: float, max_score: float) -> np.ndarray:
    """Return where decay * S < S_0 and |S| < max_score; nan, a score not seen yet, never is.

    Args:
        initial, current: float32 of one shape, S_0 and S.
    """
    with np.errstate(invalid="ignore"):
        return (decay * current < initial) & (np.abs(current) < max_score)
