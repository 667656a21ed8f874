"""Is one arm better than another? Paired differences with bootstrap intervals over seeds and over test items.

Two things could have come out otherwise: the seed (which examples in which order, random initial layers) and the items
of the test sets (queries, pairs). Both are weighted anew in every draw, independently, and every item is paired with
itself and every seed with itself in the other arm. Types of tasks and tasks stay as they are: a benchmark is not a
sample of benchmarks.

The weights are 1 / n and a normal deviation (the multiplier bootstrap): drawing with replacement has only ten outcomes
for three seeds, and lopsided intervals. Deviations are as large as Student's t asks for n things, so that with seeds
alone the interval is exactly his: few seeds give long intervals, as they should.

Shapes: A arms, S seeds, I items of a task, B draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.floating]

LEVEL = 0.95
NUM_DRAWS = 4000
_AT_ONCE = 250  # draws; bounds the memory of a task with many items


@dataclass(frozen=True)
class Estimate:
    """A difference and its interval; the ends are nan where nothing was repeated (one seed, no items)."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def with_mean(items: NDArray[np.float64], score: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return items [..., I] moved so that their mean is `score` [...]: a score may be rounded, or summed otherwise."""
    return items + (np.asarray(score) - items.mean(axis=-1))[..., None]


def averages(tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the weight of each task in each average: of a type (`sts`), and `average`, in which types count the same.

    Args:
        tasks: as `sts/STSB`.
    """
    of_type: dict[str, list[str]] = {}
    for task in tasks:
        of_type.setdefault(task.partition("/")[0], []).append(task)
    weights = {type_: dict.fromkeys(members, 1 / len(members)) for type_, members in of_type.items()}
    everything = {
        task: weight / len(of_type) for shares in weights.values() for task, weight in shares.items()
    }
    return {**weights, "average": everything}


def paired_differences(
    scores: Mapping[str, Floats], against: int, *, seed: int = 0
) -> dict[str, list[Estimate]]:
    """Return how far each arm lies above arm `against`, for every task and every average.

    Args:
        scores: by task, float [A, S, I]: what the score of an arm with a seed is the mean of; I = 1 where a task
            has no items (a clustering), and then only seeds are drawn again.
        against: the arm to compare with.
        seed: of the draws.

    Returns:
        for each task, type and `average` one estimate per arm (zero, without length, for `against` itself).
    """
    generator = np.random.default_rng(seed)
    num_arms, num_seeds, _ = next(iter(scores.values())).shape
    seeds_BS = _weights(generator, NUM_DRAWS, num_seeds)
    differences = {task: values - values[against] for task, values in scores.items()}
    drawn = {}
    for task, difference_ASI in differences.items():
        num_items = difference_ASI.shape[2]
        blocks = []
        for start in range(0, NUM_DRAWS, _AT_ONCE):
            items_BI = _weights(generator, _AT_ONCE, num_items)
            by_seed = np.einsum("asi,bi->abs", difference_ASI, items_BI)
            blocks.append(np.einsum("abs,bs->ab", by_seed, seeds_BS[start : start + _AT_ONCE]))
        drawn[task] = np.concatenate(blocks, axis=1)
    one_task = {task: {task: 1.0} for task in scores}
    estimates = {}
    for name, shares in {**one_task, **averages(list(scores))}.items():
        value_A = sum(share * differences[task].mean(axis=(1, 2)) for task, share in shares.items())
        draws_AB = sum(share * drawn[task] for task, share in shares.items())
        repeated = num_seeds > 1 or any(scores[task].shape[2] > 1 for task in shares)
        ends = np.quantile(draws_AB, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        if not repeated:
            ends = np.full((2, num_arms), np.nan)
        estimates[name] = [Estimate(*map(float, three)) for three in zip(value_A, *ends, strict=True)]
    return estimates


def _weights(generator: np.random.Generator, count: int, size: int) -> Floats:
    """Weights [count, size] of `size` things, which sum to 1: equal ones, disturbed."""
    if size == 1:
        return np.ones((count, 1))
    normal = generator.normal(size=(count, size))
    return (1 + stretch(size) * (normal - normal.mean(axis=1, keepdims=True))) / size


def stretch(size: int) -> float:
    """Return what makes the spread of a mean of `size` things that of Student's t, at the level in use."""
    tail = (1 + LEVEL) / 2
    return float(np.sqrt(size / (size - 1)) * stats.t.ppf(tail, size - 1) / stats.norm.ppf(tail))
