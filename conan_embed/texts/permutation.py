"""Order without state: the position of every example in every epoch is a function of (seed, epoch).

A Feistel network permutes the numbers below a power of four; numbers outside the data set are sent through again until
they fall inside (cycle walking). Nothing is stored, not even an index array: position 3 of epoch 7 of 400 M pairs costs
the same as of 400.
"""

import numpy as np

_ROUNDS = 6


def hashed(values: np.ndarray, *keys: int) -> np.ndarray:
    """Mix uint64 values with integer keys (the finaliser of splitmix64), vectorised."""
    mixed = values.astype(np.uint64)
    for key in keys:
        with np.errstate(over="ignore"):
            mixed = mixed + np.uint64((key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def permuted(positions: np.ndarray, size: int, *keys: int) -> np.ndarray:
    """Return where the permutation with these keys sends each position.

    Args:
        positions: int64, each in 0 .. size - 1.
        size: how many positions there are.
        keys: integers, such as seed and epoch; other keys, another permutation.
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    half = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    result = positions.astype(np.uint64)
    outside = np.ones(len(result), bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (hashed(right, *keys, number) & mask)
        result[outside] = (left << half) | right
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


def nth_of_epochs(positions: np.ndarray, size: int, *keys: int) -> np.ndarray:
    """Return the example at each position of an endless sequence of shuffled epochs, each example once per epoch."""
    epochs = positions // size
    result = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        result[chosen] = permuted(positions[chosen] % size, size, *keys, int(epoch))
    return result
