"""Who embeds which text: every text once, and no process much longer than another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.distributed.placement import shares


@given(
    st.lists(st.tuples(st.integers(1, 512), st.booleans()), max_size=60),
    st.integers(1, 12),
    st.sampled_from(["balanced", "dedicated"]),
)
def test_every_text_has_one_process(texts, world_size, placement):
    lengths = np.array([length for length, _ in texts], np.int64)
    is_sts = np.array([sts for _, sts in texts], bool)
    parts = shares(lengths, is_sts, world_size, placement)
    assert len(parts) == world_size
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(texts)))
    if placement == "balanced" or is_sts.all() or not is_sts.any():
        # To and fro over the sorted lengths: two processes differ by less than the longest text.
        tokens = [lengths[part].sum() for part in parts]
        assert max(tokens) - min(tokens) <= lengths.max(initial=0)
    elif world_size > 1:
        with_sts = [is_sts[part].any() for part in parts]
        assert not any(is_sts[part].any() and not is_sts[part].all() for part in parts)
        num_sts = max(1, round(world_size / 5))
        assert not any(with_sts[:-num_sts])


@pytest.mark.parametrize(("world_size", "num_sts"), [(2, 1), (5, 1), (10, 2)])
def test_dedicated_is_the_ratio_of_figure_3(world_size, num_sts):
    """gpu0 to gpu3 retrieval, gpu4 STS."""
    is_sts = np.arange(100) < 40
    parts = shares(np.full(100, 10), is_sts, world_size, "dedicated")
    assert sum(bool(is_sts[part].any()) for part in parts) == num_sts
    assert {len(part) for part in parts[-num_sts:]} == {40 // num_sts}
