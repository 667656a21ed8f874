"""What `conan-embed filter` wrote, as a page of its own and as a section in the report of a run that trained on it.

Everything is read from the folder's `summary.json` (its shape is in filtering/summary.py) and `filter.json`; only the
texts that duplicates resemble are looked up in `kept/` and `dropped/`. The funnel is drawn twice: as bars of the page
over all pairs, and as lines by category.
"""

import glob
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from conan_embed.errors import UserError
from conan_embed.files import read_json
from conan_embed.reporting import canvas, charts, sentences
from conan_embed.reporting.panels import Drawing, Entry
from conan_embed.reporting.runs import RunRecord
from conan_embed.reporting.tables import Tile

SECTIONS = {  # in the order of the page: key, and how the navigation calls it
    "funnel": "Funnel",
    "reasons": "Reasons",
    "samples": "Samples",
    "scores": "Teacher scores",
    "sources": "Sources",
    "speed": "Speed",
    "facts": "Recipe",
}
STAGE_NAMES = {"prompt_response": "prompt-response"}
_NUM_REASONS = 3  # named at the head of the page


@dataclass(frozen=True)
class Filtered:
    """The output folder of a filter run: its `summary` and what `filter.json` says of recipe and files."""

    path: Path
    summary: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def read(self) -> int:
        """Pairs read."""
        return int(self.summary["rows"]["read"])

    @property
    def kept(self) -> int:
        """Pairs kept."""
        return int(self.summary["rows"]["kept"])

    @property
    def reasons(self) -> list[dict[str, Any]]:
        """The reasons that dropped pairs, those that dropped most first."""
        return sorted(self.summary["reasons"], key=lambda reason: -reason["dropped"])


@dataclass(frozen=True)
class Bar:
    """A stage of the funnel: the pairs left after it, and those it dropped; widths in per cent of those read."""

    name: str
    left: str
    lost: str
    width: float
    lost_width: float


def is_filter_output(folder: Path) -> bool:
    """Tell whether `conan-embed filter` wrote (or is writing) this folder."""
    return (Path(folder) / "filter.json").is_file()


def read_filtered(folder: Path) -> Filtered:
    """Read the output folder of a filter run.

    Raises:
        UserError: the run is not finished, or one of its files is damaged.
    """
    folder = Path(folder)
    if not (folder / "summary.json").is_file():
        raise UserError(
            f"{folder}: this filter run is not finished (there is no summary.json); "
            "start `conan-embed filter` again with the same recipe, it goes on where it stopped."
        )
    return Filtered(folder.resolve(), read_json(folder / "summary.json"), read_json(folder / "filter.json"))


def behind(path: str) -> Path | None:
    """Return the finished filter output that a data file (or a folder or glob of them) comes from, or None."""
    parts = Path(path).expanduser().parts
    resolved = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)).resolve()
    for folder in (resolved, *resolved.parents):
        if is_filter_output(folder) and (folder / "summary.json").is_file():
            return folder
    return None


# --- the page -----------------------------------------------------------------------------------


def page_of(filtered: Filtered) -> dict[str, Any]:
    """Return everything that `filtered.html` shows, as plain values."""
    sections: dict[str, Any] = {
        "funnel": funnel(filtered),
        "reasons": reasons(filtered),
        "samples": samples(filtered),
        "scores": scores(filtered),
        "sources": sources(filtered),
        "speed": speed(filtered),
        "facts": facts(filtered),
    }
    return sections | {
        "present": {key: name for key, name in SECTIONS.items() if sections[key]},
        "title": filtered.path.name,
        "headline": headline(filtered),
        "lede": lede(filtered),
        "tiles": tiles(filtered),
    }


def headline(filtered: Filtered) -> str:
    """Say how many pairs stayed."""
    if not filtered.read:
        return "There were no pairs to read."
    return f"{filtered.kept:,} of {filtered.read:,} pairs ({_share(filtered.kept, filtered.read)}) stayed."


def lede(filtered: Filtered) -> str:
    """Say what was read, what took most of the pairs, and which category kept least and most."""
    counts = filtered.summary["funnel"]
    categories = {name: row for name, row in counts["categories"].items() if row["read"]}
    said = (
        f"Read from {sentences.counted(len(filtered.summary['sources']), 'source')} in "
        f"{len(categories)} {'category' if len(categories) == 1 else 'categories'}."
    )
    if most := [f"{reason['reason']} ({reason['dropped']:,})" for reason in filtered.reasons[:_NUM_REASONS]]:
        said += f" Most of what went did so by {sentences.listed(most)}."
    if len(categories) > 1:
        last = counts["stages"][-1]
        order = sorted(categories, key=lambda name: categories[name][last] / categories[name]["read"])
        ends = [f"{name} ({_share(categories[name][last], categories[name]['read'])})" for name in order]
        said += f" {ends[-1]} kept most, {ends[0]} least."
    return said


def tiles(filtered: Filtered) -> list[Tile]:
    """Return the key numbers."""
    speed = filtered.summary["speed"]
    dropped = filtered.read - filtered.kept
    shown = [
        Tile("Pairs read", f"{filtered.read:,}"),
        Tile("Kept", f"{filtered.kept:,}", _share(filtered.kept, filtered.read)),
        Tile("Dropped", f"{dropped:,}", f"for {sentences.counted(len(filtered.reasons), 'reason')}"),
    ]
    if speed["rows_per_second"]:
        note = f"{sentences.duration(speed['seconds'])}, {sentences.counted(speed['workers'], 'worker')}"
        shown.append(Tile("Pairs a second", sentences.short(speed["rows_per_second"]), note))
    return shown


def funnel(filtered: Filtered) -> dict[str, Any] | None:
    """Return the funnel by stage, and by stage and category (table 1 of the paper for these pairs)."""
    found = filtered.summary["funnel"]
    if not filtered.read:
        return None
    stages = found["stages"]
    largest = sorted(found["categories"].items(), key=lambda item: -item[1]["read"])
    rows = [_funnel_row(name, counts, stages) for name, counts in largest]
    if len(rows) > 1:
        rows.append({**_funnel_row("All", found["total"], stages), "mean": True})
    drawn = [(name, counts) for name, counts in largest if counts["read"]][: canvas.NUM_SERIES]
    shares_CS = np.array([[counts[stage] / counts["read"] for stage in stages] for _, counts in drawn])
    names = [stage_name(stage) for stage in stages]
    legend = [Entry(name, number) for number, (name, _) in enumerate(drawn)]
    title = "Share of pairs left after each stage"
    if len(drawn) < len(largest):
        title += f", the {len(drawn)} largest categories"
    wide, narrow = (charts.funnel(names, shares_CS, size) for size in (canvas.WIDE, canvas.NARROW))
    return {
        "bars": bars(filtered),
        "columns": names,
        "rows": rows,
        "drawing": Drawing(title, wide, narrow, legend),
    }


def bars(filtered: Filtered) -> list[Bar]:
    """Return the funnel over all pairs, a bar a stage."""
    counts, found, before = filtered.summary["funnel"], [], filtered.read
    for stage in counts["stages"]:
        left = counts["total"][stage]
        lost = f"−{before - left:,}" if left < before else ""
        width, lost_width = (100 * part / max(filtered.read, 1) for part in (left, before - left))
        found.append(Bar(stage_name(stage), f"{left:,}", lost, round(width, 2), round(lost_width, 2)))
        before = left
    return found


def _funnel_row(name: str, counts: Mapping[str, int], stages: Sequence[str]) -> dict[str, Any]:
    read = counts["read"]
    notes = ["", *(_share(counts[stage], read) for stage in stages[1:])]
    cells = [{"text": f"{counts[s]:,}", "note": note} for s, note in zip(stages, notes, strict=True)]
    return {"name": name, "cells": cells, "mean": False}


def reasons(filtered: Filtered) -> list[dict[str, Any]]:
    """Return the reasons by stage, each with a bar: what it dropped, and what it applied to."""
    most = max([1, *(reason["applied"] for reason in filtered.summary["reasons"])])
    groups: dict[str, list[dict[str, Any]]] = {}
    for reason in filtered.summary["reasons"]:
        named = list(reason["categories"].items())
        row = {
            "name": reason["reason"],
            "about": reason["about"],
            "dropped": f"{reason['dropped']:,}",
            "share": _share(reason["dropped"], filtered.read),
            "applied": f"{reason['applied']:,}",
            "mainly": named[0][0] if named else "",
            "mainly_share": _share(named[0][1], reason["dropped"]) if named else "",
            "width": round(100 * reason["dropped"] / most, 2),
            "more": round(100 * (reason["applied"] - reason["dropped"]) / most, 2),
        }
        groups.setdefault(stage_name(reason["stage"]), []).append(row)
    return [{"title": stage, "rows": rows} for stage, rows in groups.items()]


def samples(filtered: Filtered) -> list[dict[str, Any]]:
    """Return dropped pairs of every reason, those of duplicates with the pair that they resemble."""
    shown = [reason for reason in filtered.reasons if reason["samples"]]
    originals = _pairs(
        filtered.path,
        {s["duplicate_of"] for reason in shown for s in reason["samples"] if s["duplicate_of"] is not None},
    )
    return [
        {
            "name": reason["reason"],
            "about": reason["about"],
            "of": f"{len(reason['samples'])} of {reason['dropped']:,}",
            "pairs": [
                {
                    "query": sample["query"],
                    "positive": sample["positive"],
                    "original": originals.get(sample["duplicate_of"]),
                    "facts": _sample_facts(sample),
                }
                for sample in reason["samples"]
            ],
        }
        for reason in shown
    ]


def _sample_facts(sample: Mapping[str, Any]) -> str:
    value = sample["value"]
    said = [] if value is None else [f"value {value:.4g}"]
    said += dict.fromkeys([sample["category"], sample["source"]])
    said += [f"pair {sample['id']}"]
    said += [f"like pair {sample['duplicate_of']}"] if sample["duplicate_of"] is not None else []
    return " · ".join(said)


def _pairs(folder: Path, ids: set[int]) -> dict[int, dict[str, str]]:
    """Look up pairs of the output by id; those whose files are gone are left out."""
    files = [file for part in ("kept", "dropped") for file in sorted((folder / part).rglob("*.parquet"))]
    if not ids or not files:
        return {}
    columns = ["id", "query", "positive"]
    wanted = pl.concat([pl.scan_parquet(file).select(columns) for file in files]).filter(
        pl.col("id").is_in(ids)
    )
    texts = [pl.col(side).str.slice(0, 400) for side in columns[1:]]
    return {row["id"]: row for row in wanted.with_columns(texts).collect().to_dicts()}


def scores(filtered: Filtered) -> dict[str, Any] | None:
    """Return the histograms of the teacher's scores, by category."""
    scores = filtered.summary.get("scores")
    if scores is None:
        return None
    edges_E, minimum = np.array(scores["edges"]), scores["minimum"]
    counts = {name: np.array(values) for name, values in scores["categories"].items() if sum(values)}
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
    low = next((r["dropped"] for r in filtered.reasons if r["reason"] == "teacher_score"), 0)
    scored = sum(int(values.sum()) for values in counts.values())
    said = f"The teacher scored {sentences.counted(scored, 'pair')}; "
    said += f"{low:,} ({_share(low, scored)}) fell below {minimum:g}."
    legend = [Entry("kept", 0), Entry(f"below {minimum:g}, dropped", 1)]
    return {"said": said, "legend": legend, "drawings": drawings}


def sources(filtered: Filtered) -> list[dict[str, Any]]:
    """Return the sources with their languages and the share that stayed, the largest first."""
    found = sorted(filtered.summary["sources"].items(), key=lambda item: -item[1]["read"])
    return [
        {
            "name": name,
            "read": f"{source['read']:,}",
            "kept": f"{source['kept']:,}",
            "share": _share(source["kept"], source["read"]),
            "width": round(100 * source["kept"] / max(source["read"], 1), 2),
            "languages": {side: _languages(shares) for side, shares in source["languages"].items()},
        }
        for name, source in found
    ]


def _languages(shares: Mapping[str, float]) -> str:
    """The languages of a side, with their shares where they are more than one."""
    shown = [(code, share) for code, share in shares.items() if share >= 0.005][:4]
    return shown[0][0] if len(shown) == 1 else ", ".join(f"{code} {share:.0%}" for code, share in shown)


def speed(filtered: Filtered) -> dict[str, Any]:
    """Return the processor time of each stage."""
    speed = filtered.summary["speed"]
    stages = speed["stages"]
    total = sum(stage["seconds"] for stage in stages.values()) or 1.0
    rows = [
        {
            "name": stage_name(name),
            "seconds": sentences.number(stage["seconds"], 2),
            "rate": sentences.short(stage["rows_per_second"]) if stage["rows_per_second"] else "–",
            "width": round(100 * stage["seconds"] / total, 2),
        }
        for name, stage in stages.items()
    ]
    workers = sentences.counted(speed["workers"], "worker")
    said = f"The whole run took {sentences.duration(speed['seconds'])} with {workers}"
    if speed["rows_per_second"]:
        said += f": {sentences.short(speed['rows_per_second'])} pairs a second"
    return {"said": said + ".", "rows": rows}


def facts(filtered: Filtered) -> dict[str, Any]:
    """Return the recipe as YAML, and the files that were read."""
    recipe = yaml.safe_dump(filtered.facts.get("recipe"), sort_keys=False, allow_unicode=True)
    return {"recipe": recipe, "files": list(filtered.facts.get("files", {}))}


def stage_name(stage: str) -> str:
    """Return how a stage is called on the page."""
    return STAGE_NAMES.get(stage, stage)


def _share(part: float, whole: float) -> str:
    """A share in per cent, with a place where it is small; nothing and everything only where it is so."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.05:
        return "<0.1%"
    return f"{share:.1f}%" if 0 < share < 10 or 99 < share < 100 else f"{share:.0f}%"


# --- in the report of a training run ------------------------------------------------------------


def behind_runs(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the funnel of every filter output that the runs' data come from, with the data sets that do."""
    fed: dict[Path, list[str]] = {}
    for run in runs:
        if run.recipe is None:
            continue
        data = run.recipe.data
        files = [(part.name, part.path) for part in data.retrieval]
        files += [(part.name, part.path) for part in data.classification]
        files += [(part.name, part.path) for part in data.sts]
        for name, path in files:
            if (folder := behind(path)) is not None and name not in fed.setdefault(folder, []):
                fed[folder].append(name)
    found = []
    for folder, names in fed.items():
        filtered = read_filtered(folder)
        sets = f"{'Data set' if len(names) == 1 else 'Data sets'} {sentences.listed(names)}"
        verb = "comes" if len(names) == 1 else "come"
        said = f"{sets} {verb} out of a filter. {headline(filtered)} {lede(filtered)}"
        found.append({"said": said, "bars": bars(filtered), "path": str(folder)})
    return found
