"""Drawings that are not over steps: scores over the values of a setting, and those of a filter's page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from conan_embed.reporting.canvas import MUTED, SMALL, TICK_STEPS, as_inline_svg, canvas, colour, style


def over_values(
    labels: Sequence[str],
    means_V: NDArray[np.float64],
    intervals_V2: NDArray[np.float64],
    points: Sequence[Sequence[float]],
    name: str,
) -> str:
    """Draw a score in per cent over the values of a setting, which stand at equal distances.

    Args:
        labels: numbers, as a person writes them.
        means_V: of each value.
        intervals_V2: ends of an interval around each mean; nan where there is none.
        points: the single runs of each value.
        name: keeps the ids of this drawing apart from those of others.
    """
    at_V = np.arange(len(labels), dtype=np.float64)
    with style(f"over values {name}"):
        figure, axes = canvas(SMALL)
        if np.isfinite(intervals_V2).all():
            axes.fill_between(at_V, *intervals_V2.T, color=colour(0), alpha=0.15, linewidth=0)
        for line in axes.plot(at_V, means_V, color=colour(0), linewidth=2, marker="o", markersize=5):
            line.set_gid("data")
        for at, values in zip(at_V, points, strict=True):
            axes.plot([at] * len(values), values, "o", color=MUTED, markersize=2.5, alpha=0.6)
        axes.set_xlim(-0.3, len(labels) - 0.7)
        axes.set_xticks(at_V, labels)
        axes.margins(y=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS))
        return as_inline_svg(figure)


def funnel(stages: Sequence[str], shares_CS: NDArray[np.float64], size: tuple[int, int]) -> str:
    """Draw which share of its pairs each category still has after each stage, a line a category.

    Args:
        stages: names of ours, which may stand in a drawing.
        shares_CS: of the pairs read; NaN-free.
    """
    with style(f"funnel {size}"):
        slanted = size[0] < 60 * len(stages)  # names side by side would run into each other
        figure, axes = canvas(size, foot=72 if slanted else 24)
        at_S = np.arange(len(stages))
        for number, shares_S in enumerate(shares_CS):
            look: dict[str, Any] = {"color": colour(number), "marker": "o", "markersize": 4, "gid": "data"}
            axes.plot(at_S, 100 * shares_S, linewidth=1.8, markeredgewidth=0, **look)
        axes.set_xlim(-0.35, len(stages) - 0.65)
        axes.set_xticks(at_S, stages)
        if slanted:
            for label in axes.get_xticklabels():
                label.set(rotation=45, horizontalalignment="right", rotation_mode="anchor")
        axes.set_ylim(0, 104)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        return as_inline_svg(figure)


def histogram(edges_E: NDArray[np.float64], counts_B: NDArray[np.int64], minimum: float, name: str) -> str:
    """Draw how many pairs have a score in each bin; the bins below `minimum` in the second colour, which
    stands for dropped.

    Args:
        edges_E: of the bins, ascending, one more than there are counts.
        name: keeps the ids of this drawing apart from those of others.
    """
    with style(f"histogram {name}"):
        figure, axes = canvas(SMALL)
        # A bin that the minimum cuts in two is drawn as kept.
        series_B = np.where(edges_E[1:] <= minimum + 1e-9, 1, 0)
        for left, right, count, series in zip(edges_E, edges_E[1:], counts_B, series_B, strict=False):
            if count:
                (patch,) = axes.bar(
                    left, count, 0.88 * (right - left), align="edge", color=colour(int(series))
                )
                patch.set_gid("data")
        axes.axvline(minimum, color=MUTED, linewidth=1, dashes=(3, 2))
        low, high = min(edges_E[0], minimum), max(edges_E[-1], minimum)
        axes.set_xlim(low - 0.02, high + 0.02)
        axes.set_ylim(0, 1.08 * counts_B.max())
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=TICK_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS, integer=True))
        return as_inline_svg(figure)
