"""Lines of a figure: smoothed without crossing a break, thinned without losing an extreme."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.reporting.lines import Curve, smoothed, thinned


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 500))
def test_smoothing_is_a_running_mean_that_does_not_cross_a_break(data, count):
    steps = np.cumsum(data.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))).astype(float)
    breaks = data.draw(st.lists(st.integers(0, int(steps[-1])), max_size=5))
    values = np.random.default_rng(count).normal(size=count)
    half = (max(5, min(count // 40, count // (8 * len(breaks) + 8))) | 1) // 2
    expected = []
    for i, step in enumerate(steps):
        near = [
            values[j]
            for j in range(max(0, i - half), min(count, i + half + 1))
            if not any(min(step, steps[j]) <= at < max(step, steps[j]) for at in breaks)
        ]
        expected.append(sum(near) / len(near))
    np.testing.assert_allclose(smoothed(Curve(steps, values, 0, breaks=tuple(breaks))), expected, atol=1e-9)


def test_smoothing_leaves_the_jump_after_every_replacement():
    steps = np.arange(1.0, 6001.0)
    saw = 1 - (steps - 1) % 100 / 100
    shown = smoothed(Curve(steps, saw, 0, breaks=tuple(range(100, 6000, 100))))
    assert np.ptp(shown[3000:3100]) > 0.9


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 20_000), limit=st.integers(2, 1000))
def test_thinning_keeps_few_points_in_order_and_every_extreme(count, limit):
    steps = np.arange(count, dtype=float)
    values = np.random.default_rng(count).normal(size=count)
    few_steps, few_values = thinned(steps, values, limit)
    assert len(few_steps) <= limit
    assert (np.diff(few_steps) > 0).all()
    np.testing.assert_array_equal(few_values, values[few_steps.astype(int)])
    assert {values.min(), values.max()} <= set(few_values)
    if count <= limit:
        assert len(few_steps) == count
