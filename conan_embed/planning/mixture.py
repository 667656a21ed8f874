"""The order of the examples of several data sets, as a pure function of the position.

Each data set is an endless sequence of shuffled epochs (texts/permutation.py). Data sets with weights are interleaved
in blocks that hold each of them by its share, so that "how often was set d drawn before step s" needs one block and no
history.
"""

from collections.abc import Sequence

import numpy as np

from conan_embed.texts.permutation import nth_of_epochs, permuted

# Purposes of random numbers; the purpose is part of the key.
RETRIEVAL, STS, POSITIVES, TASK, SETS = range(5)

_BLOCK = 1024


class Interleaved:
    """An endless sequence of kinds, a pure function of the position.

    Blocks of sum(quota) positions hold each kind exactly `quota[kind]` times, in shuffled order.
    """

    def __init__(self, quota: np.ndarray, *keys: int) -> None:
        self.quota, self.block = quota, int(quota.sum())
        self.starts = np.cumsum(quota) - quota
        self.keys = keys

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 the kind at each position, and how often it came before."""
        blocks = positions // self.block
        kinds, before = np.empty_like(positions), np.empty_like(positions)
        for block in np.unique(blocks):
            slots = permuted(np.arange(self.block), self.block, *self.keys, int(block))
            kind = np.searchsorted(self.starts, slots, side="right") - 1
            earlier = np.empty(self.block, np.int64)
            earlier[np.argsort(kind, kind="stable")] = np.arange(self.block) - np.repeat(
                self.starts, self.quota
            )
            chosen = blocks == block
            position = positions[chosen] % self.block
            kinds[chosen] = kind[position]
            before[chosen] = block * self.quota[kind[position]] + earlier[position]
        return kinds, before


class Mixture:
    """An endless sequence of examples of several data sets, a pure function of the position.

    Without weights: shuffled epochs over all examples together, each once per epoch. With weights, or with a
    temperature: the data sets interleaved by their shares, and each runs through epochs of its own.

    Args:
        sizes: examples of each data set.
        weights: share of each, in any unit; None counts by size.
        keys: integers, such as the seed; other keys, another order.
        temperature: shares go by size ** (1 / temperature); above 1, small data sets come more often than by size.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float | None],
        *keys: int,
        temperature: float | None = None,
    ) -> None:
        assert temperature is None or not any(weights), "shares come from weights or from sizes"
        self.sizes = np.asarray(sizes, np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.keys = keys
        given = [(weight, size) for weight, size in zip(weights, sizes, strict=True) if weight is not None]
        self.by_size = not given and temperature is None
        # A set without a weight counts by size, on the scale of the others' mean weight per example.
        per_example = sum(weight for weight, _ in given) / sum(size for _, size in given) if given else 1.0
        filled = [n * per_example if w is None else w for w, n in zip(weights, sizes, strict=True)]
        shares = np.asarray(filled, np.float64) ** (1 / (temperature or 1.0))
        self.sets = Interleaved(_quotas(shares, _BLOCK), *keys, SETS)

    def take(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples at positions start .. start + count.

        Returns:
            int64 [count], examples, numbered through all data sets; int64 [count], how often each came before.
        """
        if self.by_size:
            positions, total = np.arange(start, start + count), int(self.sizes.sum())
            return nth_of_epochs(positions, total, *self.keys), positions // total
        sets, visits = self.draw(start, count)
        examples = np.empty(count, np.int64)
        for number in np.unique(sets):
            chosen = sets == number
            examples[chosen] = self._of_set(int(number), visits[chosen])
        return examples, visits // self.sizes[sets]

    def take_of_one_set(self, turn: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the same for examples of a single data set; over the turns, each set has its share."""
        sets, visits = self.draw_of_one_set(turn, count)
        return self._of_set(int(sets[0]), visits), visits // self.sizes[sets]

    def draw(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 [count] twice: the data set at each position, and how many of its examples came before."""
        return self.sets.at(np.arange(start, start + count))

    def draw_of_one_set(self, turn: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The same for a turn that holds `count` examples of a single data set."""
        number, visit = (int(value[0]) for value in self.sets.at(np.array([turn])))
        return np.full(count, number), np.arange(visit * count, (visit + 1) * count)

    def _of_set(self, number: int, visits: np.ndarray) -> np.ndarray:
        return self.starts[number] + nth_of_epochs(visits, int(self.sizes[number]), *self.keys, number)


def _quotas(weights: np.ndarray, total: int) -> np.ndarray:
    """Split `total` by the weights, largest remainder first, at least 1 each."""
    exact = weights / weights.sum() * total
    quota = np.maximum(np.floor(exact).astype(np.int64), 1)
    while quota.sum() > total:  # the least shares were raised to 1
        quota[quota.argmax()] -= 1
    quota[np.argsort(quota - exact, kind="stable")[: total - quota.sum()]] += 1
    return quota
