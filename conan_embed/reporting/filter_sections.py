"""The sections of the page of a filter output.

The funnel is drawn twice: as bars over all pairs, and as lines by category.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from conan_embed.reporting import canvas, charts, sentences
from conan_embed.reporting.filter_samples import samples
from conan_embed.reporting.filters import Bar, Filtered, bars, headline, lede, share, stage_name, tiles
from conan_embed.reporting.page import template
from conan_embed.reporting.panels import Drawing, Entry
from conan_embed.reporting.tables import Cell, Row

SECTIONS = {  # in the order of the page: key, and how the navigation calls it
    "funnel": "Funnel",
    "reasons": "Reasons",
    "bad_rows": "Bad rows",
    "samples": "Samples",
    "scores": "Teacher scores",
    "sources": "Sources",
    "speed": "Speed",
    "recipe": "Recipe",
}


@dataclass(frozen=True)
class Funnel:
    """The funnel over all pairs as bars, by category as a table, and as lines."""

    bars: Sequence[Bar]
    columns: Sequence[str]
    rows: Sequence[Row]
    drawing: Drawing


@dataclass(frozen=True)
class Reason:
    """A reason in the table of reasons; widths of its bars in per cent."""

    name: str
    about: str
    dropped: str
    share: str
    applied: str
    mainly: str
    mainly_share: str
    width: float
    more: float


@dataclass(frozen=True)
class ReasonGroup:
    """The reasons of a stage."""

    title: str
    rows: Sequence[Reason]


@dataclass(frozen=True)
class BadFile:
    """A file with rows that could not be read: how many, why, and where the first is."""

    path: str
    rows: str
    reasons: str
    first: str


@dataclass(frozen=True)
class TeacherScores:
    """Histograms of the teacher's scores, by category."""

    summary: str
    legend: Sequence[Entry]
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Source:
    """A source with its kept share and its languages by side."""

    name: str
    read: str
    kept: str
    share: str
    width: float
    languages: Mapping[str, str]


@dataclass(frozen=True)
class StageTime:
    """The processor time of a stage."""

    name: str
    seconds: str
    rate: str
    width: float


@dataclass(frozen=True)
class Speed:
    """Processor time by stage."""

    summary: str
    rows: Sequence[StageTime]


@dataclass(frozen=True)
class RecipeAndFiles:
    """The recipe as YAML, and the files that were read."""

    recipe: str
    files: Sequence[str]


def render(filtered: Filtered) -> str:
    """Return the page of a filter output as HTML."""
    sections: dict[str, Any] = {
        "funnel": funnel(filtered),
        "reasons": reasons(filtered),
        "bad_rows": bad_rows(filtered),
        "samples": samples(filtered),
        "scores": scores(filtered),
        "sources": sources(filtered),
        "speed": speed(filtered),
        "recipe": recipe_and_files(filtered),
    }
    return template("filtered.html").render(
        sections,
        present={key: name for key, name in SECTIONS.items() if sections[key]},
        title=filtered.path.name,
        headline=headline(filtered),
        lede=lede(filtered),
        tiles=tiles(filtered),
    )


def funnel(filtered: Filtered) -> Funnel | None:
    """Return the funnel by stage, and by stage and category (table 1 of the paper for these pairs)."""
    counts = filtered.summary.funnel
    if not filtered.summary.read:
        return None
    stages = counts.stages
    largest = sorted(counts.categories.items(), key=lambda item: -item[1]["read"])
    rows = [_funnel_row(name, left, stages) for name, left in largest]
    if len(rows) > 1:
        rows.append(_funnel_row("All", counts.total, stages, mean=True))
    drawn = [(name, left) for name, left in largest if left["read"]][: canvas.NUM_SERIES]
    shares_CS = np.array([[left[stage] / left["read"] for stage in stages] for _, left in drawn])
    names = [stage_name(stage) for stage in stages]
    legend = [Entry(name, number) for number, (name, _) in enumerate(drawn)]
    title = "Share of pairs left after each stage"
    if len(drawn) < len(largest):
        title += f", the {len(drawn)} largest categories"
    wide, narrow = (charts.funnel(names, shares_CS, size) for size in (canvas.WIDE, canvas.NARROW))
    return Funnel(bars(filtered), names, rows, Drawing(title, wide, narrow, legend))


def _funnel_row(name: str, counts: Mapping[str, int], stages: Sequence[str], *, mean: bool = False) -> Row:
    read = counts["read"]
    notes = ["", *(share(counts[stage], read) for stage in stages[1:])]
    cells = [Cell(f"{counts[stage]:,}", note=note) for stage, note in zip(stages, notes, strict=True)]
    return Row(name, cells, mean)


def reasons(filtered: Filtered) -> list[ReasonGroup]:
    """Return the reasons by stage, each with a bar: what it dropped, and what it applied to."""
    reasons, read = filtered.summary.reasons, filtered.summary.read
    most = max([1, *(reason.applied for reason in reasons)])
    groups: dict[str, list[Reason]] = {}
    for reason in reasons:
        category, count = next(iter(reason.categories.items()), ("", 0))
        row = Reason(
            name=reason.reason,
            about=reason.about,
            dropped=f"{reason.dropped:,}",
            share=share(reason.dropped, read),
            applied=f"{reason.applied:,}",
            mainly=category,
            mainly_share=share(count, reason.dropped) if category else "",
            width=round(100 * reason.dropped / most, 2),
            more=round(100 * (reason.applied - reason.dropped) / most, 2),
        )
        groups.setdefault(stage_name(reason.stage), []).append(row)
    return [ReasonGroup(stage, rows) for stage, rows in groups.items()]


def bad_rows(filtered: Filtered) -> list[BadFile]:
    """Return the files with rows that could not be read, those with most first."""
    most = sorted(filtered.summary.bad_rows, key=lambda bad: -bad.rows)
    return [
        BadFile(
            bad.path,
            f"{bad.rows:,}",
            ", ".join(f"{reason}: {count:,}" for reason, count in bad.reasons.items()),
            bad.first,
        )
        for bad in most
    ]


def scores(filtered: Filtered) -> TeacherScores | None:
    """Return the histograms of the teacher's scores, by category."""
    scores = filtered.summary.scores
    if scores is None:
        return None
    edges_E, minimum = np.array(scores.edges), scores.minimum
    counts = {name: np.array(values) for name, values in scores.categories.items() if sum(values)}
    if not counts:
        return None
    # One scale of cosines for all, cut to where there are any.
    used = np.flatnonzero(np.sum(list(counts.values()), axis=0))
    first, last = int(used[0]), int(used[-1]) + 1
    inside_E = edges_E[first : last + 1]
    drawings = []
    for name, counts_B in sorted(counts.items(), key=lambda item: -item[1].sum()):
        mean = float((counts_B * (edges_E[:-1] + edges_E[1:]) / 2).sum() / counts_B.sum())
        svg = charts.histogram(inside_E, counts_B[first:last], minimum, name)
        drawings.append(Drawing(name, svg, latest=f"mean {mean:.2f}"))
    low = next((r.dropped for r in filtered.reasons if r.reason == "teacher_score"), 0)
    scored = sum(int(values.sum()) for values in counts.values())
    summary = f"The teacher scored {sentences.plural(scored, 'pair')}; "
    summary += f"{low:,} ({share(low, scored)}) scored below {minimum:g}."
    legend = [Entry("kept", 0), Entry(f"below {minimum:g}, dropped", 1)]
    return TeacherScores(summary, legend, drawings)


def sources(filtered: Filtered) -> list[Source]:
    """Return the sources with their languages and kept shares, the largest first."""
    largest = sorted(filtered.summary.sources.items(), key=lambda item: -item[1].read)
    return [
        Source(
            name,
            read=f"{source.read:,}",
            kept=f"{source.kept:,}",
            share=share(source.kept, source.read),
            width=round(100 * source.kept / max(source.read, 1), 2),
            languages={side: _languages(shares) for side, shares in source.languages.items()},
        )
        for name, source in largest
    ]


def _languages(shares: Mapping[str, float]) -> str:
    """The languages of a side, with their shares where they are more than one."""
    shown = [(code, share) for code, share in shares.items() if share >= 0.005][:4]
    return shown[0][0] if len(shown) == 1 else ", ".join(f"{code} {share:.0%}" for code, share in shown)


def speed(filtered: Filtered) -> Speed:
    """Return the processor time of each stage."""
    speed = filtered.summary.speed
    total = sum(stage.seconds for stage in speed.stages.values()) or 1.0
    rows = [
        StageTime(
            stage_name(name),
            seconds=sentences.number(stage.seconds, 2),
            rate=sentences.short(stage.rows_per_second) if stage.rows_per_second else "–",
            width=round(100 * stage.seconds / total, 2),
        )
        for name, stage in speed.stages.items()
    ]
    text = f"The whole run took {sentences.duration(speed.seconds)} with {sentences.plural(speed.workers, 'worker')}"
    if speed.rows_per_second:
        text += f": {sentences.short(speed.rows_per_second)} pairs a second"
    return Speed(text + ".", rows)


def recipe_and_files(filtered: Filtered) -> RecipeAndFiles:
    """Return the recipe as YAML, and the files that were read."""
    recipe = yaml.safe_dump(filtered.recipe, sort_keys=False, allow_unicode=True)
    return RecipeAndFiles(recipe, filtered.files)
