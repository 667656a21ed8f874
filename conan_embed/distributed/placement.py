"""Which process embeds which text of a step. The loss is the same whatever the answer (section 3 of design and paper).

- `balanced`: texts go to processes by token count, longest first, to and fro, so that none waits for another.
- `dedicated`: figure 3 of the paper: some processes (one in five there) embed the texts of the STS pairs, the others
  the queries and passages.
"""

import numpy as np


def shares(
    lengths_U: np.ndarray, is_sts_U: np.ndarray, world_size: int, placement: str, *, sts_share: float = 0.2
) -> list[np.ndarray]:
    """Return for every process the places of its texts among the U of the step.

    Args:
        lengths_U: int64, tokens of each text.
        is_sts_U: bool, texts that only STS pairs use.
        sts_share: for `dedicated`, the share of the processes that embed STS texts (at least one, and not all).
    """
    if placement == "dedicated" and world_size > 1 and is_sts_U.any() and not is_sts_U.all():
        num_sts = min(max(1, round(world_size * sts_share)), world_size - 1)
        texts, sts = np.flatnonzero(~is_sts_U), np.flatnonzero(is_sts_U)
        others = _balanced(lengths_U[texts], world_size - num_sts)
        return [texts[share] for share in others] + [
            sts[share] for share in _balanced(lengths_U[sts], num_sts)
        ]
    return _balanced(lengths_U, world_size)


def _balanced(lengths: np.ndarray, parts: int) -> list[np.ndarray]:
    order = np.argsort(-lengths, kind="stable")
    turn = np.arange(len(order)) % (2 * parts)
    part = np.where(turn < parts, turn, 2 * parts - 1 - turn)
    return [np.sort(order[part == number]) for number in range(parts)]
