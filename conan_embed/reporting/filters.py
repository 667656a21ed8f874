"""The output of `conan-embed filter`: what its page says at the top, and its funnel in the report of a run.

Everything is read from the folder's `summary.json` (format: filtering/summary.py) and `filter.json`. The sections of
the page are in filter_sections.py.
"""

import glob
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conan_embed.errors import UserError
from conan_embed.files import read_json
from conan_embed.filtering.summary import Reason, Summary, read_summary
from conan_embed.reporting import sentences
from conan_embed.reporting.runs import RunFiles
from conan_embed.reporting.tables import Tile

STAGE_NAMES = {"prompt_response": "prompt-response"}
_NUM_REASONS = 3  # named at the top of the page


@dataclass(frozen=True)
class Filtered:
    """The output folder of a filter run: its `summary`, and recipe and files as `filter.json` has them."""

    path: Path
    summary: Summary
    recipe: Mapping[str, Any]
    files: Sequence[str]

    @property
    def reasons(self) -> list[Reason]:
        """The reasons that dropped pairs, those that dropped most first."""
        return sorted(self.summary.reasons, key=lambda reason: -reason.dropped)


@dataclass(frozen=True)
class Bar:
    """A stage of the funnel: the pairs left after it, and those it dropped; widths in per cent of those read."""

    name: str
    left: str
    lost: str
    width: float
    lost_width: float


@dataclass(frozen=True)
class Origin:
    """A filter output that a run's data come from: a sentence, its funnel, and where it is."""

    summary: str
    bars: Sequence[Bar]
    path: str


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
            "run `conan-embed filter` again with the same recipe to continue where it stopped."
        )
    made_from = read_json(folder / "filter.json")
    return Filtered(
        folder.resolve(),
        read_summary(folder / "summary.json"),
        made_from.get("recipe"),
        list(made_from.get("files", {})),
    )


def behind(path: str) -> Path | None:
    """Return the finished filter output that a data file (or a folder or glob of them) comes from, or None."""
    parts = Path(path).expanduser().parts
    resolved = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)).resolve()
    for folder in (resolved, *resolved.parents):
        if is_filter_output(folder) and (folder / "summary.json").is_file():
            return folder
    return None


def headline(filtered: Filtered) -> str:
    """Say how many pairs were kept."""
    rows = filtered.summary.rows
    if not rows.read:
        return "There were no pairs to read."
    return f"{rows.kept:,} of {rows.read:,} pairs ({share(rows.kept, rows.read)}) were kept."


def lede(filtered: Filtered) -> str:
    """Say what was read, what took most of the pairs, and which category kept least and most."""
    funnel = filtered.summary.funnel
    categories = {name: left for name, left in funnel.categories.items() if left["read"]}
    text = (
        f"Read from {sentences.plural(len(filtered.summary.sources), 'source')} in "
        f"{len(categories)} {'category' if len(categories) == 1 else 'categories'}."
    )
    if most := [f"{reason.reason} ({reason.dropped:,})" for reason in filtered.reasons[:_NUM_REASONS]]:
        text += f" Most drops were by {sentences.comma_list(most)}."
    if len(categories) > 1:
        last = funnel.stages[-1]
        order = sorted(categories, key=lambda name: categories[name][last] / categories[name]["read"])
        ends = [f"{name} ({share(categories[name][last], categories[name]['read'])})" for name in order]
        text += f" {ends[-1]} kept the largest share, {ends[0]} the smallest."
    return text


def tiles(filtered: Filtered) -> list[Tile]:
    """Return the key numbers."""
    rows, speed = filtered.summary.rows, filtered.summary.speed
    shown = [
        Tile("Pairs read", f"{rows.read:,}"),
        Tile("Kept", f"{rows.kept:,}", share(rows.kept, rows.read)),
        Tile("Dropped", f"{rows.dropped:,}", f"for {sentences.plural(len(filtered.reasons), 'reason')}"),
    ]
    if bad := sum(file.rows for file in filtered.summary.bad_rows):
        shown.append(Tile("Bad rows", f"{bad:,}", "not read, left out"))
    if speed.rows_per_second:
        note = f"{sentences.duration(speed.seconds)}, {sentences.plural(speed.workers, 'worker')}"
        shown.append(Tile("Pairs a second", sentences.short(speed.rows_per_second), note))
    return shown


def bars(filtered: Filtered) -> list[Bar]:
    """Return the funnel over all pairs, a bar a stage."""
    funnel, read = filtered.summary.funnel, filtered.summary.read
    drawn, before = [], read
    for stage in funnel.stages:
        left = funnel.total[stage]
        lost = f"−{before - left:,}" if left < before else ""
        width, lost_width = (100 * part / max(read, 1) for part in (left, before - left))
        drawn.append(Bar(stage_name(stage), f"{left:,}", lost, round(width, 2), round(lost_width, 2)))
        before = left
    return drawn


def stage_name(stage: str) -> str:
    """Return how a stage is called on the page."""
    return STAGE_NAMES.get(stage, stage)


def share(part: float, whole: float) -> str:
    """Return a share in per cent, with a decimal near 0 and 100; "0%" and "100%" only where that is exact."""
    if not whole:
        return "–"
    per_cent = 100 * part / whole
    if 0 < per_cent < 0.05:
        return "<0.1%"
    return f"{per_cent:.1f}%" if 0 < per_cent < 10 or 99 < per_cent < 100 else f"{per_cent:.0f}%"


def behind_runs(runs: Sequence[RunFiles]) -> list[Origin]:
    """Return the funnel of every filter output that the runs' data come from, with the data sets that do."""
    sets_of: dict[Path, list[str]] = {}
    for run in runs:
        if run.recipe is None:
            continue
        data = run.recipe.data
        files = [(part.name, part.path) for part in data.retrieval]
        files += [(part.name, part.path) for part in data.classification]
        files += [(part.name, part.path) for part in data.sts]
        for name, path in files:
            if (folder := behind(path)) is not None and name not in sets_of.setdefault(folder, []):
                sets_of[folder].append(name)
    origins = []
    for folder, names in sets_of.items():
        filtered = read_filtered(folder)
        sets = f"{'Data set' if len(names) == 1 else 'Data sets'} {sentences.comma_list(names)}"
        verb = "comes" if len(names) == 1 else "come"
        summary = f"{sets} {verb} from a filter. {headline(filtered)} {lede(filtered)}"
        origins.append(Origin(summary, bars(filtered), str(folder)))
    return origins
