"""The figures of the report: each function takes runs and returns one inline `<svg>` as a string.

matplotlib draws with stand-in colours that are replaced by CSS variables of the page, so that one drawing
serves light and dark. Numbers stay text, set in the page's own fonts; names (which may be in any script)
never enter a drawing: titles and legends are HTML around it. Lines of data carry the class `data`. A figure
of which nothing was recorded is the empty string, and the page leaves it out.

With one run a colour is a quantity (positive, negative); with several it is a run, in the order given. All
figures of a page run from step 0 to the last step of any run, so that they can be read one below the other.
"""

import io
import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from conan_embed.reporting import sentences
from conan_embed.reporting.runs import Run, known

# Stand-in colours, as matplotlib writes them into the SVG; #fe00NN stands for var(--series-N).
MUTED, GRID = "#fe0101", "#fe0102"
_CSS_OF_STAND_IN = {MUTED: "var(--muted)", GRID: "var(--line)"}
NUM_SERIES = 8  # colours that page.css defines; further runs start again from the first

WIDE, NARROW, SMALL, TILE = (1000, 300), (380, 260), (330, 180), (190, 104)  # CSS pixels
_ROUND = [1, 2, 2.5, 5, 10]  # distances of ticks that people count in

MAX_MARKERS = 40  # on a line; more would run into each other

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.formatter.useoffset": False,
    "lines.solid_capstyle": "round",
    "path.simplify_threshold": 0.2,
}


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


def colour(series: int) -> str:
    """Return the stand-in colour of a series (0, 1, ...)."""
    return f"#fe00{series % NUM_SERIES + 1:02x}"


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


# --- the figures ---------------------------------------------------------------------------------


def loss(runs: Sequence[Run], key: str) -> str:
    """Draw one loss (`loss`, `loss/retrieval`, ...) over steps: raw thin, running mean thick."""
    return _lines(_metric(runs, key), runs, key)


def mixed_loss(runs: Sequence[Run], tasks: Sequence[str]) -> str:
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


def scores(runs: Sequence[Run], size: tuple[int, int]) -> str:
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


def replacements(run: Run) -> list[tuple[float, float]]:
    """Return (step, share of the observed queries) of every check that replaced negatives."""
    steps_N, replaced_N = known(run.checks, "replaced")
    observed = dict(zip(*known(run.checks, "observed"), strict=True))
    return [
        (float(step), float(count / max(observed.get(step, count), count)))
        for step, count in zip(steps_N, replaced_N, strict=True)
        if count > 0
    ]


def evaluation(runs: Sequence[Run], key: str) -> str:
    """Draw the score of one task (per cent, at the full width) at every evaluation."""
    curves = []
    for number, run in enumerate(runs):
        points = [(e.step, e.scores[key].value) for e in run.evaluations if key in e.scores]
        if len(points) > 1:
            steps_N, values_N = np.array(points, dtype=np.float64).T
            curves.append(Curve(steps_N, values_N, number, points=True))
    return _lines(curves, runs, f"evaluation/{key}", TILE, num_ticks=3)


def learning_rate(runs: Sequence[Run]) -> str:
    """Draw the learning rate over steps."""
    curves = [replace(curve, smooth=False) for curve in _metric(runs, "learning_rate")]
    return _lines(curves, runs, "learning_rate", from_zero=True, y_format=_scientific)


def gradient_norm(runs: Sequence[Run]) -> str:
    """Draw the gradient norm over steps."""
    return _lines(_metric(runs, "gradient_norm"), runs, "gradient_norm", from_zero=True)


def throughput(runs: Sequence[Run]) -> str:
    """Draw real (non-padding) tokens per second over steps."""
    return _lines(_metric(runs, "tokens_per_second"), runs, "tokens_per_second", from_zero=True)


def check(
    runs: Sequence[Run], keys: Sequence[str], *, from_zero: bool = False, per_cent: bool = False
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
    y_format = _per_cent if per_cent else None
    return _lines(curves, runs, "/".join(keys), from_zero=from_zero, y_format=y_format)


def replaced(runs: Sequence[Run]) -> str:
    """Draw how many queries got new negatives at each check, as bars (side by side where runs are
    compared)."""
    bars = [(number, *known(run.checks, "replaced")) for number, run in enumerate(runs)]
    bars = [bar for bar in bars if len(bar[1])]
    if not bars:
        return ""
    gaps = [float(np.diff([0.0, *steps_N]).min()) for _, steps_N, _ in bars]
    room = 0.6 * min(gaps) / len(bars)
    with _style("replaced"):
        figure, axes = _canvas(SMALL, runs)
        for place, (number, steps_N, values_N) in enumerate(bars):
            at_N = steps_N + room * (place + 0.5 - len(bars) / 2)
            for patch in axes.bar(at_N, values_N, room, color=colour(number)):
                patch.set_gid("data")
        axes.set_xlim(right=max(axes.get_xlim()[1], float(bars[0][1][-1]) + room * len(bars)))
        axes.set_ylim(0, 1.08 * max(1.0, *(float(values_N.max()) for _, _, values_N in bars)))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=_ROUND, integer=True))
        return _as_inline_svg(figure)


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
    with _style(f"over values {name}"):
        figure, axes = _canvas(SMALL, [])
        if np.isfinite(intervals_V2).all():
            axes.fill_between(at_V, *intervals_V2.T, color=colour(0), alpha=0.15, linewidth=0)
        for line in axes.plot(at_V, means_V, color=colour(0), linewidth=2, marker="o", markersize=5):
            line.set_gid("data")
        for at, values in zip(at_V, points, strict=True):
            axes.plot([at] * len(values), values, "o", color=MUTED, markersize=2.5, alpha=0.6)
        axes.set_xlim(-0.3, len(labels) - 0.7)
        axes.set_xticks(at_V, labels)
        axes.margins(y=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=_ROUND))
        return _as_inline_svg(figure)


def funnel(stages: Sequence[str], shares_CS: NDArray[np.float64], size: tuple[int, int]) -> str:
    """Draw which share of its pairs each category still has after each stage, a line a category.

    Args:
        stages: names of ours, which may stand in a drawing.
        shares_CS: of the pairs read; NaN-free.
    """
    with _style(f"funnel {size}"):
        slanted = size[0] < 60 * len(stages)  # names side by side would run into each other
        figure, axes = _canvas(size, [], foot=72 if slanted else 24)
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
        return _as_inline_svg(figure)


def histogram(edges_E: NDArray[np.float64], counts_B: NDArray[np.int64], minimum: float, name: str) -> str:
    """Draw how many pairs have a score in each bin; the bins below `minimum` in the second colour, which
    stands for dropped.

    Args:
        edges_E: of the bins, ascending, one more than there are counts.
        name: keeps the ids of this drawing apart from those of others.
    """
    with _style(f"histogram {name}"):
        figure, axes = _canvas(SMALL, [])
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
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=_ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=_ROUND, integer=True))
        return _as_inline_svg(figure)


# --- drawing -------------------------------------------------------------------------------------


def _metric(runs: Sequence[Run], key: str, raw: bool | None = None) -> list[Curve]:
    """One smooth curve a run of that key of metrics.jsonl; raw lines by default only where there is one
    run."""
    raw = len(runs) == 1 if raw is None else raw
    curves = [
        Curve(*known(run.metrics, key), number, smooth=True, raw=raw) for number, run in enumerate(runs)
    ]
    return [curve for curve in curves if len(curve.steps_N)]


def _lines(
    curves: Sequence[Curve],
    runs: Sequence[Run],
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
    with _style(f"{name} {size}"):
        figure, axes = _canvas(size, runs)
        if decorate:
            decorate(axes)
        in_sight = []
        for curve in curves:  # a point a pixel at the most: a screen shows no more, and the page stays small
            look: dict[str, Any] = {"color": colour(curve.series), "linewidth": 1.8, "gid": "data"}
            look |= {"dashes": (4, 2)} if curve.dashed else {}
            if curve.points and len(curve.steps_N) <= MAX_MARKERS:
                look |= {"marker": "o", "markersize": 4, "markeredgewidth": 0}
            values_N = curve.values_N
            if curve.smooth:
                values_N = smoothed(curve)
                # One outlier must not flatten the rest: 99 of 100 values have to be in sight.
                usual = np.percentile(curve.values_N, (0.5, 99.5))
                in_sight.append(values_N.clip(*usual))
                if curve.raw:
                    raw = thinned(curve.steps_N, curve.values_N, size[0])
                    axes.plot(*raw, color=look["color"], linewidth=0.8, alpha=0.35)
                    in_sight.append(usual)
            else:
                in_sight.append(values_N)
            axes.plot(*_in_pieces(curve, values_N, size[0]), **look)
        seen = np.concatenate(in_sight)
        low, high = 0.0 if from_zero else float(seen.min()), float(seen.max())
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low if from_zero else low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(num_ticks, steps=_ROUND))
        axes.yaxis.set_major_formatter(FuncFormatter(y_format or _thousands))
        return _as_inline_svg(figure)


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


def _style(salt: str) -> AbstractContextManager[None]:
    """The look of all drawings; `salt` enters the ids that matplotlib makes up for what a drawing refers
    to."""
    return matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt})


def _canvas(size: tuple[int, int], runs: Sequence[Run], foot: int = 24) -> tuple[Figure, Axes]:
    """A transparent figure of that many CSS pixels (at 72 dots an inch points are pixels) over the steps of
    the runs, with fixed margins (`foot` for what stands under the axis), so that axes of figures side by side
    are in line."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    left, right, top = 36, 10, 8
    axes = figure.add_axes(
        (left / width, foot / height, (width - left - right) / width, (height - top - foot) / height)
    )
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    last = max([1, *(run.last_step for run in runs)])
    axes.set_xlim(-0.01 * last, 1.01 * last)
    axes.xaxis.set_major_locator(MaxNLocator(min(10, width // 60), steps=_ROUND, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    return figure, axes


def _as_inline_svg(figure: Figure) -> str:
    """Return the figure as one `<svg>` element for a page: without a size, fonts and colours those of the
    page, no ids but those that the drawing itself refers to, coordinates to a tenth of a pixel."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    referred = set(re.findall(r"#(\w+)", text.getvalue()))
    for element in root.iter():
        name = element.get("id")
        if name is not None and name not in referred:
            del element.attrib["id"]
            if name == "data":
                element.set("class", "data")
        for key in {"d", "x", "y", "transform"} & element.attrib.keys():
            element.set(key, " ".join(re.sub(r"\d+\.\d+", _tenths, element.attrib[key]).split()))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        if style := element.get("style"):
            style = re.sub(r"font-family: [^;]+;? ?", "", style)
            element.set("style", re.sub(r"#fe[0-9a-f]{4}", _css_colour, style))
    for key in ("width", "height", "version"):
        del root.attrib[key]
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))


def _tenths(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _css_colour(stand_in: re.Match[str]) -> str:
    return _CSS_OF_STAND_IN.get(stand_in[0]) or f"var(--series-{int(stand_in[0][-2:], 16)})"


def _scientific(value: float, _: Any = None) -> str:
    return sentences.scientific(value) if value else "0"


def _per_cent(value: float, _: Any = None) -> str:
    return f"{100 * value:g}%"


def _thousands(value: float, _: Any = None) -> str:
    """8200 as 8.2k, because a tick has little room."""
    text = f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
    return text.replace("-", "\N{MINUS SIGN}")
