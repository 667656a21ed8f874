"""The tables of the report as plain values: key numbers, and what run.json and recipe.yaml say (scores: scores.py)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conan_embed.reporting import sentences
from conan_embed.reporting.runs import RunFiles, known

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


@dataclass(frozen=True)
class Tile:
    """A number that stands large at the head of the page."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A number in a table; `note` stands small beneath it; tones are "good", "bad" or empty."""

    text: str
    tone: str = ""
    note: str = ""
    note_tone: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A row of scores; `track` places before and after on a line, in per cent of its length."""

    name: str
    cells: Sequence[Cell]
    mean: bool = False
    track: Mapping[str, float] | None = None


@dataclass(frozen=True)
class DetailRow:
    """A line of run.json or a key of the recipe, with a cell for each run; `code` for what is set in a fixed width."""

    name: str
    cells: Sequence[str]
    code: bool = False


@dataclass(frozen=True)
class RunDetails:
    """What run.json and recipe.yaml say; `recipes` are (run, text)."""

    columns: Sequence[str]
    rows: Sequence[DetailRow]
    differences: Sequence[DetailRow]
    recipes: Sequence[tuple[str, str]]


# --- key numbers --------------------------------------------------------------------------------


def tiles(run: RunFiles) -> list[Tile]:
    """Return the key numbers of a run."""
    shown = []
    if run.num_steps:
        seconds = run.total("seconds")
        notes = [] if math.isnan(seconds) else [f"in {sentences.duration(seconds)}"]
        if run.num_steps < run.record.get("steps", 0):
            notes.append(f"of {run.record['steps']:,}, not finished")
        shown.append(Tile("Steps", f"{run.num_steps:,}", ", ".join(notes)))
    if (rate := run.median("tokens_per_second")) > 0:
        floor = run.record.get("matmul_peak_tokens_per_second")
        note = f"{rate / floor:.0%} of the measured floor" if floor else "real, without padding"
        shown.append(Tile("Tokens a second", sentences.short(rate), note))
    if (tokens := run.total("tokens")) > 0:
        texts = run.total("texts")
        note = f"in {sentences.short(texts)} texts" if texts > 0 else ""
        shown.append(Tile("Tokens trained on", sentences.short(tokens), note))
    replaced_N = known(run.checks, "replaced")[1]
    if len(replaced_N):
        note = f"queries, in {sentences.plural(len(replaced_N), 'check')}"
        shown.append(Tile("Negatives replaced", f"{replaced_N.sum():,.0f}", note))
    return shown


def overview(runs: Sequence[RunFiles]) -> list[tuple[str, list[Tile]]]:
    """Return the key numbers of several runs: a label, and a tile for each run."""
    columns = [{tile.label: tile for tile in tiles(run)} for run in runs]
    labels = dict.fromkeys(label for column in columns for label in column)
    return [(label, [column.get(label, Tile(label, "–")) for column in columns]) for label in labels]


# --- details --------------------------------------------------------------------------------------


def details(runs: Sequence[RunFiles]) -> RunDetails | None:
    """Return what run.json and recipe.yaml say; of several runs also the keys in which their recipes
    differ."""
    keys = dict.fromkeys(key for run in runs for key, value in run.record.items() if value is not None)
    rows = [
        DetailRow(
            key.replace("_", " ").capitalize(),
            [format_value(run.rows if key == "datasets" else run.record.get(key)) for run in runs],
            code=key == "command",
        )
        for key in keys
    ]
    recipes = [flat(run.recipe.as_dict()) if run.recipe else {} for run in runs]
    differences = [
        DetailRow(key, [format_value(recipe.get(key)) for recipe in recipes])
        for key in dict.fromkeys(key for recipe in recipes for key in recipe)
        if any(recipe.get(key) != recipes[0].get(key) for recipe in recipes)
    ]
    texts = [(run.name, run.recipe_text) for run in runs if run.recipe_text.strip()]
    if not rows and not texts:
        return None
    return RunDetails([run.name for run in runs], rows, differences, texts)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested recipe as dotted keys and values."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def format_value(value: Any) -> str:
    """Return a value of a JSON or YAML file as a person writes it."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() if abs(value) >= 1000:
            return f"{value:,.0f}"
        case float():
            return f"{value:.4g}" if abs(value) >= 1e-3 or not value else sentences.scientific(value)
        case dict():
            return ", ".join(f"{key} {format_value(part)}" for key, part in value.items())
        case list():
            return ", ".join(format_value(part) for part in value)
    text = str(value)
    # A time is read more easily without its T and its fractions; a name like 20241231 is none.
    return f"{text[:10]} {text[11:19]}" if _TIME.match(text) else text
