"""When negatives are no longer hard: the rules of `hard_negatives.rule`.

S_0 is the score (cosine) of a negative when it was put in place, S its score now.

- `mean` (Conan-embedding v1, section 4): the means over a query's negatives are compared, and all of them are replaced:

      decay * mean S < mean S_0   and   |mean S| < max_score                    (1.15 and 0.8)

- `each` (v2, arXiv 2509.12892, equation 6): each negative by itself, also one that was too easy from the start:

      S_0 < too_easy    or    (decay * S < S_0   and   S < max_score)           (0.4, 1.2 and 0.7)

- `share`: each negative by itself, by what it still weighs in the loss. Its share is that of the softmax over it and
  the query's positive p, whatever else is in the batch:

      e^{S/tau} / (e^{S/tau} + e^{S_p/tau}) < min_share

  A cosine that stops falling does not say that a negative still teaches: at tau 0.02 a gap of 0.1 to the positive is
  e^-5 already. The share says it, and means the same for every model and temperature. A negative that the loss ignores
  (`loss.ignore_above_positive`) has share 0.

A score that was not seen yet is nan, and no rule finds it learned.

Shapes: R queries, n negatives of each.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from conan_embed.recipes.sections import Replacement


class Rule(Protocol):
    """Decides which negatives are no longer hard."""

    @property
    def whole(self) -> bool:
        """Are a query's negatives replaced all together, or each by itself?"""
        ...

    def learned(self, initial_RN: np.ndarray, current_RN: np.ndarray, share_RN: np.ndarray) -> np.ndarray:
        """Return bool [R, n], the negatives that are no longer hard.

        Args:
            initial_RN, current_RN, share_RN: float32, S_0, S and the share of each negative; nan: not seen.
        """
        ...


@dataclass(frozen=True)
class MeanRule:
    """The rule of Conan-embedding v1; only negatives whose S_0 and S are both known count."""

    decay: float
    max_score: float
    whole: bool = True

    def learned(self, initial_RN: np.ndarray, current_RN: np.ndarray, share_RN: np.ndarray) -> np.ndarray:
        initial_R, current_R = mean_scores(initial_RN, current_RN)
        learned_R = (self.decay * current_R < initial_R) & (np.abs(current_R) < self.max_score)
        return np.broadcast_to(learned_R[:, None], initial_RN.shape)


@dataclass(frozen=True)
class EachRule:
    """The rule of Conan-embedding v2; `too_easy` None: without its first clause."""

    decay: float
    max_score: float
    too_easy: float | None
    whole: bool = False

    def learned(self, initial_RN: np.ndarray, current_RN: np.ndarray, share_RN: np.ndarray) -> np.ndarray:
        learned_RN = (self.decay * current_RN < initial_RN) & (current_RN < self.max_score)
        return learned_RN if self.too_easy is None else learned_RN | (initial_RN < self.too_easy)


@dataclass(frozen=True)
class ShareRule:
    """A negative is learned that weighs too little against its query's positive."""

    min_share: float
    whole: bool = False

    def learned(self, initial_RN: np.ndarray, current_RN: np.ndarray, share_RN: np.ndarray) -> np.ndarray:
        return share_RN < self.min_share


def make_rule(settings: Replacement) -> Rule:
    """Return the rule that the recipe names."""
    if settings.rule == "mean":
        return MeanRule(settings.decay, settings.max_score)
    if settings.rule == "each":
        return EachRule(settings.decay, settings.max_score, settings.too_easy)
    return ShareRule(settings.min_share)


def mean_scores(initial_RN: np.ndarray, current_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 [R], mean S_0 and mean S of each query's negatives of which both are known; nan without any."""
    known_RN = ~np.isnan(initial_RN) & ~np.isnan(current_RN)
    count_R = known_RN.sum(axis=1)
    with np.errstate(invalid="ignore"):
        initial_R, current_R = (
            np.where(known_RN, scores_RN, 0).sum(axis=1, dtype=np.float64) / count_R
            for scores_RN in (initial_RN, current_RN)
        )
    return initial_R, current_R
