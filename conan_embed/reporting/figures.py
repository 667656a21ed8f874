"""The figures of the report: each function takes runs and returns one inline `<svg>`, or "" where nothing was recorded.

With one run a colour is a quantity (positive, negative); with several it is a run, in the order given. All figures of a
page run from step 0 to the last step of any run, so that they can be read one below the other.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from conan_embed.reporting import lines
from conan_embed.reporting.canvas import (
    MUTED,
    SMALL,
    TICK_STEPS,
    TILE,
    as_inline_svg,
    canvas,
    colour,
    per_cent,
    scientific,
    style,
)
from conan_embed.reporting.lines import Curve
from conan_embed.reporting.runs import RunFiles, known


def loss(runs: Sequence[RunFiles], key: str) -> str:
    """Draw one loss (`loss`, `loss/retrieval`, ...) over steps: raw thin, running mean thick."""
    return _lines(_metric(runs, key), runs, key)


def mixed_loss(runs: Sequence[RunFiles], tasks: Sequence[str]) -> str:
    """Draw a part of figure 4 of the paper: the loss of a task, or the sum of those of several, over steps,
    raw thin and running mean thick for every run, since how much it oscillates is the point.

    A step of one task alone says nothing of the others: their latest losses count.
    """
    curves = [
        Curve(*known(_summed(run.metrics, tasks), "sum"), number, smooth=True, raw=True)
        for number, run in enumerate(runs)
    ]
    return _lines([curve for curve in curves if len(curve.steps_N)], runs, f"mixed {tasks}")


def _summed(metrics: pl.DataFrame, tasks: Sequence[str]) -> pl.DataFrame:
    """The sum of the latest losses of the tasks at every step that has one of them."""
    keys = [f"loss/{task}" for task in tasks]
    if not set(keys) <= set(metrics.columns):
        return pl.DataFrame()
    return metrics.filter(pl.any_horizontal(pl.col(keys).is_not_null())).select(
        "step", sum=pl.sum_horizontal(pl.col(keys).forward_fill(), ignore_nulls=False)
    )


def scores(runs: Sequence[RunFiles], size: tuple[int, int]) -> str:
    """Draw figure 2 of the paper: mean score of positives and of hard negatives (dashed where runs are
    compared) over steps, with a vertical mark where a check replaced negatives, the stronger the more
    queries."""
    single = len(runs) == 1
    curves = []
    for number, run in enumerate(runs):
        breaks = tuple(step for step, _ in replacements(run))
        for which, key in enumerate(("score/positive", "score/negative")):
            curves += [
                replace(
                    curve, series=which if single else number, dashed=not single and which == 1, breaks=breaks
                )
                for curve in _metric([run], key, raw=single)
            ]

    def mark(axes: Axes) -> None:
        for number, run in enumerate(runs):
            for step, share in replacements(run):
                look: dict[str, Any] = {"alpha": 0.25 + 0.75 * share, "zorder": 1}
                if single:
                    axes.axvline(step, color=MUTED, linewidth=1, dashes=(3, 2), **look)
                else:  # short ticks at the foot, in the colour of their run
                    axes.axvline(step, ymax=0.06, color=colour(number), linewidth=1.5, **look)

    return _lines(curves, runs, "scores", size, decorate=mark)


def replacements(run: RunFiles) -> list[tuple[float, float]]:
    """Return (step, share of the observed queries) of every check that replaced negatives."""
    steps_N, replaced_N = known(run.checks, "replaced")
    observed = dict(zip(*known(run.checks, "observed"), strict=True))
    return [
        (float(step), float(count / max(observed.get(step, count), count)))
        for step, count in zip(steps_N, replaced_N, strict=True)
        if count > 0
    ]


def evaluation(runs: Sequence[RunFiles], key: str) -> str:
    """Draw the score of one task (per cent, at the full width) at every evaluation."""
    curves = []
    for number, run in enumerate(runs):
        points = [(e.step, e.scores[key].value) for e in run.evaluations if key in e.scores]
        if len(points) > 1:
            steps_N, values_N = np.array(points, dtype=np.float64).T
            curves.append(Curve(steps_N, values_N, number, points=True))
    return _lines(curves, runs, f"evaluation/{key}", TILE, num_ticks=3)


def learning_rate(runs: Sequence[RunFiles]) -> str:
    """Draw the learning rate over steps."""
    curves = [replace(curve, smooth=False) for curve in _metric(runs, "learning_rate")]
    return _lines(curves, runs, "learning_rate", from_zero=True, y_format=scientific)


def gradient_norm(runs: Sequence[RunFiles]) -> str:
    """Draw the gradient norm over steps."""
    return _lines(_metric(runs, "gradient_norm"), runs, "gradient_norm", from_zero=True)


def throughput(runs: Sequence[RunFiles]) -> str:
    """Draw real (non-padding) tokens per second over steps."""
    return _lines(_metric(runs, "tokens_per_second"), runs, "tokens_per_second", from_zero=True)


def check(
    runs: Sequence[RunFiles], keys: Sequence[str], *, from_zero: bool = False, as_per_cent: bool = False
) -> str:
    """Draw one or two columns of negatives.jsonl over steps; where runs are compared the second is dashed."""
    single = len(runs) == 1
    curves = []
    for number, run in enumerate(runs):
        for which, key in enumerate(keys):
            steps_N, values_N = known(run.checks, key)
            if len(steps_N):
                series = which if single else number
                curves.append(Curve(steps_N, values_N, series, points=True, dashed=not single and which == 1))
    y_format = per_cent if as_per_cent else None
    return _lines(curves, runs, "/".join(keys), from_zero=from_zero, y_format=y_format)


def replaced(runs: Sequence[RunFiles]) -> str:
    """Draw how many queries got new negatives at each check, as bars (side by side where runs are
    compared)."""
    bars = [(number, *known(run.checks, "replaced")) for number, run in enumerate(runs)]
    bars = [bar for bar in bars if len(bar[1])]
    if not bars:
        return ""
    gaps = [float(np.diff([0.0, *steps_N]).min()) for _, steps_N, _ in bars]
    room = 0.6 * min(gaps) / len(bars)
    with style("replaced"):
        figure, axes = canvas(SMALL, _last_step(runs))
        for slot, (number, steps_N, values_N) in enumerate(bars):
            at_N = steps_N + room * (slot + 0.5 - len(bars) / 2)
            for patch in axes.bar(at_N, values_N, room, color=colour(number)):
                patch.set_gid("data")
        axes.set_xlim(right=max(axes.get_xlim()[1], float(bars[0][1][-1]) + room * len(bars)))
        axes.set_ylim(0, 1.08 * max(1.0, *(float(values_N.max()) for _, _, values_N in bars)))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS, integer=True))
        return as_inline_svg(figure)


def _metric(runs: Sequence[RunFiles], key: str, raw: bool | None = None) -> list[Curve]:
    """One smooth curve a run of that key of metrics.jsonl; raw lines by default only where there is one
    run."""
    raw = len(runs) == 1 if raw is None else raw
    curves = [
        Curve(*known(run.metrics, key), number, smooth=True, raw=raw) for number, run in enumerate(runs)
    ]
    return [curve for curve in curves if len(curve.steps_N)]


def _last_step(runs: Sequence[RunFiles]) -> int:
    return max([1, *(run.last_step for run in runs)])


def _lines(
    curves: Sequence[Curve], runs: Sequence[RunFiles], name: str, *size: tuple[int, int], **look: Any
) -> str:
    return lines.draw(curves, _last_step(runs), name, *size, **look)
