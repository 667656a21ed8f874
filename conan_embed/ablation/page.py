"""The page of a comparison: how arms differ, dot by dot, with intervals; and scores over the values of a setting.

One self-contained HTML file, like the report. Dots and intervals are placed by the page itself, so that names of arms,
which may be in any script, stay text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conan_embed.ablation.comparison import Cell, Comparison
from conan_embed.files import write_text
from conan_embed.reporting import charts, sentences
from conan_embed.reporting.page import template
from conan_embed.reporting.panels import Drawing


@dataclass(frozen=True)
class Track:
    """Where dots and interval stand on the scale of a panel, in per cent of its length."""

    zero: float
    difference: float
    seeds: Sequence[float] = ()
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class PanelRow:
    """One arm in a panel; `tone` is "good", "bad" or empty."""

    arm: str
    score: str
    difference: str
    tone: str
    track: Track


@dataclass(frozen=True)
class Panel:
    """One type of task (or the average), with the ends of its scale."""

    name: str
    rows: Sequence[PanelRow]
    ticks: tuple[str, str]


@dataclass(frozen=True)
class SettingPanel:
    """Scores over the values of one setting."""

    setting: str
    drawings: Sequence[Drawing]


def write_page(comparison: Comparison, output: Path) -> None:
    """Write the page of a comparison, as one HTML file."""
    page = template("arms.html").render(
        comparison=comparison,
        title=comparison.title,
        headline=headline(comparison),
        seeds=sentences.plural(len(comparison.seeds), "seed"),
        panels=[_panel(comparison, name) for name in comparison.averages],
        settings=_over_values(comparison),
        score=_score,
    )
    write_text(output, page)


def headline(comparison: Comparison) -> str:
    """Say in one sentence which arms differ on average."""
    cells = {arm.name: cell for arm, cell in zip(comparison.arms, comparison.rows["average"], strict=True)}
    against = comparison.against
    above = [name for name, cell in cells.items() if cell.clear and cell.difference > 0]
    below = [name for name, cell in cells.items() if cell.clear and cell.difference < 0]
    clauses = [
        f"{sentences.comma_list(names)} {'scores' if len(names) == 1 else 'score'} {word} {against}"
        for names, word in ((above, "above"), (below, "below"))
        if names
    ]
    if not clauses:
        return f"On average no arm differs clearly from {against}."
    if len(above) + len(below) < len(cells) - 1:
        clauses.append("no other arm differs clearly from it")
    return f"On average {'; '.join(clauses)}."


def _panel(comparison: Comparison, name: str) -> Panel:
    cells = comparison.rows[name]
    ends = [
        0.0,
        *(end for cell in cells for end in (cell.difference, cell.low, cell.high) if end is not None),
    ]
    margin = 0.06 * (max(ends) - min(ends)) or 0.01
    low, high = min(ends) - margin, max(ends) + margin
    names = [arm.name for arm in comparison.arms]
    base = cells[names.index(comparison.against)]
    rows = [
        PanelRow(arm, _score(cell), "", "", _track(cell, base, low, high))
        if cell is base
        else PanelRow(arm, _score(cell), _difference(cell), _tone(cell), _track(cell, base, low, high))
        for arm, cell in zip(names, cells, strict=True)
    ]
    return Panel(_title(name), rows, (_points(low), _points(high)))


def _track(cell: Cell, base: Cell, low: float, high: float) -> Track:
    def at(difference: float) -> float:
        return round(100 * (difference - low) / (high - low), 2)

    if cell is base:
        return Track(at(0), at(0))
    num_seeds = max(len(cell.by_seed), len(base.by_seed))
    scores_S, bases_S = (np.broadcast_to(np.array(each.by_seed), num_seeds) for each in (cell, base))
    seeds = [min(max(at(difference), 0.0), 100.0) for difference in scores_S - bases_S]
    interval = None if cell.low is None or cell.high is None else (at(cell.low), at(cell.high))
    return Track(at(0), at(cell.difference), seeds, interval)


def _over_values(comparison: Comparison) -> list[SettingPanel]:
    """A panel for each setting with three numbers or more, the other settings at the first arm's values."""
    arms = comparison.arms
    first = arms[0].values
    panels = []
    for setting in first:
        line = [i for i, arm in enumerate(arms) if arm.values == first | {setting: arm.values.get(setting)}]
        if len(line) < 3 or not all(_is_number(arms[i].values[setting]) for i in line):
            continue
        line.sort(key=lambda i: float(arms[i].values[setting]))
        labels = [arms[i].values[setting] for i in line]
        cells = {name: [comparison.rows[name][i] for i in line] for name in comparison.averages}
        drawings = [_drawing(setting, name, labels, cells[name]) for name in cells]
        panels.append(SettingPanel(setting, drawings))
    return panels


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _drawing(setting: str, name: str, labels: Sequence[str], cells: Sequence[Cell]) -> Drawing:
    means_V = np.array([cell.mean for cell in cells])
    # The interval of the difference from one arm, laid around the mean: how far it could move against that arm's.
    ends_V2 = np.array([[cell.low, cell.high] for cell in cells], dtype=np.float64)
    intervals_V2 = ends_V2 + np.array([cell.mean - cell.difference for cell in cells])[:, None]
    by_seed = [[100 * score for score in cell.by_seed] for cell in cells]
    svg = charts.over_values(labels, 100 * means_V, 100 * intervals_V2, by_seed, f"{setting} {name}")
    return Drawing(_title(name), svg)


def _title(name: str) -> str:
    return "Average of types" if name == "average" else sentences.kind_name(name)


def _tone(cell: Cell) -> str:
    return ("good" if cell.difference > 0 else "bad") if cell.clear else ""


def _score(cell: Cell) -> str:
    spread = "" if cell.spread is None else f" ± {sentences.number(100 * cell.spread, 2)}"
    return f"{sentences.number(100 * cell.mean, 2)}{spread}"


def _difference(cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return _points(cell.difference)
    return f"{_points(cell.difference)} [{_points(cell.low)}, {_points(cell.high)}]"


def _points(difference: float) -> str:
    return sentences.signed(100 * difference, 2)
