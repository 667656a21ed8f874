"""The page of a comparison: how arms differ, dot by dot, with intervals; over the values of settings.

It is made from the plain values of results.json (ablation/comparison.py), into one self-contained file like the report.
Dots and intervals are placed by the page itself, so that the names of arms, which may be in any script, stay text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conan_embed.files import write_text
from conan_embed.reporting import figures, sentences
from conan_embed.reporting.page import template
from conan_embed.reporting.panels import Drawing

_NUMBER = re.compile(r"[-+]?\d[\d_]*\.?\d*(e[-+]?\d+)?", re.IGNORECASE)


def write_page(comparison: Mapping[str, Any], output: Path) -> None:
    """Write the page of a comparison, as one HTML file."""
    names = [arm["name"] for arm in comparison["arms"]]
    rows: Mapping[str, Sequence[Mapping[str, Any]]] = comparison["rows"]
    means = ["average", *(name for name in rows if "/" not in name and name != "average")]
    page = template("arms.html").render(
        title=comparison["title"],
        headline=headline(comparison),
        against=comparison["against"],
        level=f"{comparison['level']:.0%}",
        seeds=sentences.counted(len(comparison["seeds"]), "seed"),
        one_seed=len(comparison["seeds"]) == 1,
        panels=[_panel(name, names, rows[name], comparison["against"]) for name in means],
        lines=_over_values(comparison, means),
        names=names,
        tasks=[
            {"name": name, "cells": [_score(cell) for cell in cells]}
            for name, cells in rows.items()
            if "/" in name
        ],
        arms=[
            {
                "name": arm["name"],
                "seen": [f"{value:,.0f}" for value in arm["seen"].values()],
                "changes": arm["changes"],
            }
            for arm in comparison["arms"]
        ],
        seen=list(comparison["arms"][0]["seen"]),
    )
    write_text(output, page)


def headline(comparison: Mapping[str, Any]) -> str:
    """Return what the averages say, in a sentence."""
    cells = comparison["rows"]["average"]
    named = [
        (arm["name"], cell)
        for arm, cell in zip(comparison["arms"], cells, strict=True)
        if arm["name"] != comparison["against"]
    ]
    better = [name for name, cell in named if cell["clear"] and cell["difference"] > 0]
    worse = [name for name, cell in named if cell["clear"] and cell["difference"] < 0]
    against = comparison["against"]
    if not better and not worse:
        return f"No arm differs from {against} on average by more than chance explains."
    clauses = []
    for found, word in ((better, "above"), (worse, "below")):
        if found:
            verb = "lies" if len(found) == 1 else "lie"
            clauses.append(f"{sentences.listed(found)} {verb} {word} {against}")
    if len(better) + len(worse) < len(named):
        clauses.append("no other arm clearly differs from it")
    return "On average " + "; ".join(clauses) + "."


def _panel(
    name: str, arms: Sequence[str], cells: Sequence[Mapping[str, Any]], against: str
) -> dict[str, Any]:
    """One type of task: for each arm its score, its difference, and where dots and interval stand on a scale."""
    ends = [0.0]
    for cell in cells:
        ends += [cell["difference"], *(end for end in (cell["low"], cell["high"]) if end is not None)]
    low, high = 100 * min(ends), 100 * max(ends)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def at(points: float) -> float:
        return round(100 * (points - low) / (high - low), 2)

    base = next(cell for arm, cell in zip(arms, cells, strict=True) if arm == against)
    rows = []
    for arm, cell in zip(arms, cells, strict=True):
        track = {"zero": at(0), "to": at(100 * cell["difference"]), "seeds": [], "low": None, "high": None}
        if arm != against:
            firsts = base["by_seed"] * len(cell["by_seed"]) if len(base["by_seed"]) == 1 else base["by_seed"]
            seeds = zip(
                cell["by_seed"] * (len(firsts) if len(cell["by_seed"]) == 1 else 1), firsts, strict=False
            )
            inside = [at(100 * (value - first)) for value, first in seeds]
            track["seeds"] = [min(max(place, 0.0), 100.0) for place in inside]
            if cell["low"] is not None:
                track |= {"low": at(100 * cell["low"]), "high": at(100 * cell["high"])}
        rows.append(
            {
                "arm": arm,
                "score": _score(cell),
                "difference": "" if arm == against else _difference(cell),
                "tone": ("good" if cell["difference"] > 0 else "bad") if cell["clear"] else "",
                "track": track,
            }
        )
    ticks = [sentences.signed(value, 2) for value in (low, high)]
    return {
        "name": "Average of types" if name == "average" else sentences.kind_name(name),
        "rows": rows,
        "ticks": ticks,
    }


@dataclass(frozen=True)
class _Line:
    """What scores do over the values of one setting."""

    setting: str
    drawings: list[Drawing]


def _over_values(comparison: Mapping[str, Any], means: Sequence[str]) -> list[_Line]:
    """A line for each setting with three values or more, all numbers; other settings have the first arm's values."""
    arms = comparison["arms"]
    first = arms[0]["values"]
    lines = []
    for setting in first:
        here = [
            place
            for place, arm in enumerate(arms)
            if arm["values"] == first | {setting: arm["values"].get(setting)}
        ]
        labels = [arms[place]["values"][setting] for place in here]
        if len(labels) < 3 or not all(_NUMBER.fullmatch(label) for label in labels):
            continue
        here.sort(key=lambda place: float(arms[place]["values"][setting]))
        labels.sort(key=float)
        drawings = [
            _drawing(setting, name, labels, [comparison["rows"][name][place] for place in here])
            for name in means
        ]
        lines.append(_Line(setting, drawings))
    return lines


def _drawing(setting: str, name: str, labels: Sequence[str], cells: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw one type of task over the values of one setting."""
    # The interval is that of the difference from one arm: it is drawn around the mean, and says how far
    # the mean could move against that arm's.
    intervals = np.array(
        [
            [
                100 * (cell["mean"] + (end if end is not None else np.nan) - cell["difference"])
                for end in (cell["low"], cell["high"])
            ]
            for cell in cells
        ]
    )
    svg = figures.over_values(
        labels,
        np.array([100 * cell["mean"] for cell in cells]),
        intervals,
        [[100 * value for value in cell["by_seed"]] for cell in cells],
        f"{setting} {name}",
    )
    return Drawing("Average of types" if name == "average" else sentences.kind_name(name), svg)


def _score(cell: Mapping[str, Any]) -> str:
    spread = "" if cell["spread"] is None else f" ± {sentences.number(100 * cell['spread'], 2)}"
    return f"{sentences.number(100 * cell['mean'], 2)}{spread}"


def _difference(cell: Mapping[str, Any]) -> str:
    text = sentences.signed(100 * cell["difference"], 2)
    if cell["low"] is None:
        return text
    ends = [sentences.signed(100 * cell[end], 2) for end in ("low", "high")]
    return f"{text} [{ends[0]}, {ends[1]}]"
