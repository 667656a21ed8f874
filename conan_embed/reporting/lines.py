"""Curves over the steps of a run: smoothed, thinned to what a screen shows, drawn on one scale of steps."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from conan_embed.reporting.canvas import SMALL, TICK_STEPS, as_inline_svg, canvas, colour, style, thousands

MAX_MARKERS = 40  # on a line; more would run into each other


@dataclass(frozen=True)
class Curve:
    """One quantity of one run over steps.

    `steps_N` and `values_N` are float64 arrays without NaN; `series` is the colour slot. A `smooth` curve
    is drawn as its running mean, over the raw line if `raw`; `breaks` are steps across which the mean must
    not reach, because the quantity jumps there. `points` marks every value, if they are few.
    """

    steps_N: NDArray[np.float64]
    values_N: NDArray[np.float64]
    series: int
    smooth: bool = False
    raw: bool = False
    dashed: bool = False
    points: bool = False
    breaks: tuple[float, ...] = ()


def smoothed(curve: Curve) -> NDArray[np.float64]:
    """Return the centred running mean of a curve, float64 `[N]`.

    The window is a fortieth of the points, but an eighth of those between two breaks at the most, and 5 at
    least. It is cut off at the ends and at the breaks (a break at step s parts s from s + 1).
    """
    num, num_pieces = len(curve.steps_N), len(curve.breaks) + 1
    window = max(5, min(num // 40, num // (8 * num_pieces))) | 1  # odd, so that it has a centre
    piece_N = np.searchsorted(np.sort(np.asarray(curve.breaks)), curve.steps_N, side="left")
    frame = pl.DataFrame({"piece": piece_N, "value": curve.values_N})
    mean = pl.col("value").rolling_mean(window, min_samples=1, center=True).over("piece")
    return frame.select(mean).to_series().to_numpy()


def thinned(
    steps_N: NDArray[np.float64], values_N: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most `limit` points of a line: the lowest and the highest of each stretch, in order."""
    if len(steps_N) <= limit:
        return steps_N, values_N
    bucket_N = np.arange(len(steps_N)) * (limit // 2) // len(steps_N)
    frame = pl.DataFrame({"bucket": bucket_N, "value": values_N}).with_row_index("at")
    ends = frame.group_by("bucket").agg(
        low=pl.col("at").gather(pl.col("value").arg_min()).first(),
        high=pl.col("at").gather(pl.col("value").arg_max()).first(),
    )
    kept = np.unique(np.concatenate([ends["low"].to_numpy(), ends["high"].to_numpy()]))
    return steps_N[kept], values_N[kept]


def draw(
    curves: Sequence[Curve],
    last_step: int,
    name: str,
    size: tuple[int, int] = SMALL,
    *,
    decorate: Callable[[Axes], None] | None = None,
    from_zero: bool = False,
    y_format: Callable[[float, Any], str] | None = None,
    num_ticks: int = 4,
) -> str:
    """Draw curves over the steps of the runs; `name` and size keep the ids of a drawing apart from those of
    others."""
    if not curves:
        return ""
    with style(f"{name} {size}"):
        figure, axes = canvas(size, last_step)
        if decorate:
            decorate(axes)
        in_sight = np.concatenate([_draw_curve(axes, curve, limit=size[0]) for curve in curves])
        _scale(axes, in_sight, from_zero)
        axes.yaxis.set_major_locator(MaxNLocator(num_ticks, steps=TICK_STEPS))
        axes.yaxis.set_major_formatter(FuncFormatter(y_format or thousands))
        return as_inline_svg(figure)


def _draw_curve(axes: Axes, curve: Curve, limit: int) -> NDArray[np.float64]:
    """Draw one curve and return the values that have to be in sight.

    Args:
        limit: points of a line, one a pixel: a screen shows no more, and the page stays small.
    """
    look: dict[str, Any] = {"color": colour(curve.series), "linewidth": 1.8, "gid": "data"}
    look |= {"dashes": (4, 2)} if curve.dashed else {}
    if curve.points and len(curve.steps_N) <= MAX_MARKERS:
        look |= {"marker": "o", "markersize": 4, "markeredgewidth": 0}
    if not curve.smooth:
        axes.plot(*_in_pieces(curve, curve.values_N, limit), **look)
        return curve.values_N
    # One outlier must not flatten the rest: 99 of 100 values have to be in sight.
    usual = np.percentile(curve.values_N, (0.5, 99.5))
    values_N = smoothed(curve)
    if curve.raw:
        raw = thinned(curve.steps_N, curve.values_N, limit)
        axes.plot(*raw, color=look["color"], linewidth=0.8, alpha=0.35)
    axes.plot(*_in_pieces(curve, values_N, limit), **look)
    return np.concatenate([values_N.clip(*usual), usual if curve.raw else usual[:0]])


def _scale(axes: Axes, in_sight: NDArray[np.float64], from_zero: bool) -> None:
    low, high = 0.0 if from_zero else float(in_sight.min()), float(in_sight.max())
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low if from_zero else low - margin, high + margin)


def _in_pieces(
    curve: Curve, values_N: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A thinned line over the steps of a curve, with a gap (nan) at each of its breaks."""
    cuts = np.searchsorted(curve.steps_N, np.sort(np.asarray(curve.breaks)), side="right")
    ends = np.unique(np.concatenate([[0], cuts, [len(values_N)]])).astype(int)
    gap = np.array([np.nan])
    steps, values = [], []
    for start, stop in itertools.pairwise(ends):
        share = max(4, limit * (stop - start) // len(values_N))
        piece = thinned(curve.steps_N[start:stop], values_N[start:stop], share)
        steps += [piece[0], gap]
        values += [piece[1], gap]
    return np.concatenate(steps), np.concatenate(values)
