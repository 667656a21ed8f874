"""Processes with a sharded encoder pass through it equally often: as often as the one with the most chunks."""

import numpy as np
import pytest
from torch.distributed.fsdp import FSDPModule

from conan_embed.encoder.passes import num_passes
from conan_embed.texts.store import Texts
from tests.tiny_models import make_tiny_model

LENGTHS = np.array([9, 5, 5, 4, 3, 1])
TEXTS = Texts(
    np.zeros(LENGTHS.sum(), np.int32), np.concatenate([[0], np.cumsum(LENGTHS)]), np.arange(len(LENGTHS))
)


def sharded(model):
    """The model as if its layers were sharded, which takes a process group."""
    kind = type(model)
    model.__class__ = type("Sharded", (kind, FSDPModule), {"__new__": kind.__new__})
    return model


@pytest.mark.parametrize(
    ("shares", "budget", "expected"),
    [
        (([0], [1, 2, 3, 4, 5]), 9, 3),  # 9 | 5+4 -> 5, 5+4 ... longest first: 5 | 5+4 | 3+1
        (([0, 1], [2]), 9, 2),
        (([0, 1, 2, 3, 4, 5], []), 100, 1),
        (([], []), 10, 1),
    ],
)
def test_as_many_as_the_process_with_the_most_chunks(shares, budget, expected):
    shares = [np.array(share, np.int64) for share in shares]
    model = sharded(make_tiny_model("bert"))
    assert num_passes(model, TEXTS, shares, budget) == expected


def test_one_where_nothing_is_gathered():
    assert num_passes(make_tiny_model("bert"), TEXTS, [np.arange(6)], 4) == 1
