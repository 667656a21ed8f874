"""The tables of the report as plain values: key numbers, scores by task and by width, facts of the runs.

A score table has a column for the model before training (where all runs started from the same one) and a
column for each run. A row is a task or a mean; the mean of a column is only taken over tasks that every
column has.
"""

import contextlib
import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conan_embed.reporting import sentences
from conan_embed.reporting.runs import FULL_WIDTH, Evaluation, RunRecord, Score, known

Values = Sequence[float | None]  # scores in per cent, one a column; None where there is none


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
class Rows:
    """Rows under a title."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class ScoreTable:
    """Scores by task; `scale` are the ticks of the tracks, where there are any."""

    note: str
    columns: Sequence[str]
    scale: Sequence[int] | None
    groups: Sequence[Rows]


@dataclass(frozen=True)
class WidthTable:
    """Scores by Matryoshka width."""

    note: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class FactRow:
    """A fact or a key of the recipe, with a cell for each run; `code` for what is set in a fixed width."""

    name: str
    cells: Sequence[str]
    code: bool = False


@dataclass(frozen=True)
class Facts:
    """What run.json and recipe.yaml say; `recipes` are (run, text)."""

    columns: Sequence[str]
    rows: Sequence[FactRow]
    differences: Sequence[FactRow]
    recipes: Sequence[tuple[str, str]]


# --- key numbers --------------------------------------------------------------------------------


def tiles(run: RunRecord) -> list[Tile]:
    """Return the key numbers of a run."""
    shown = []
    if run.num_steps:
        seconds = run.total("seconds")
        notes = [] if math.isnan(seconds) else [f"in {sentences.duration(seconds)}"]
        if run.num_steps < run.facts.get("steps", 0):
            notes.append(f"of {run.facts['steps']:,}, not finished")
        shown.append(Tile("Steps", f"{run.num_steps:,}", ", ".join(notes)))
    if (rate := run.median("tokens_per_second")) > 0:
        floor = run.facts.get("matmul_peak_tokens_per_second")
        note = f"{rate / floor:.0%} of the measured floor" if floor else "real, without padding"
        shown.append(Tile("Tokens a second", sentences.short(rate), note))
    if (tokens := run.total("tokens")) > 0:
        texts = run.total("texts")
        note = f"in {sentences.short(texts)} texts" if texts > 0 else ""
        shown.append(Tile("Tokens trained on", sentences.short(tokens), note))
    replaced_N = known(run.checks, "replaced")[1]
    if len(replaced_N):
        note = f"queries, in {sentences.counted(len(replaced_N), 'check')}"
        shown.append(Tile("Negatives replaced", f"{replaced_N.sum():,.0f}", note))
    return shown


def overview(runs: Sequence[RunRecord]) -> list[tuple[str, list[Tile]]]:
    """Return the key numbers of several runs: a label, and a tile for each run."""
    columns = [{tile.label: tile for tile in tiles(run)} for run in runs]
    labels = dict.fromkeys(label for column in columns for label in column)
    return [(label, [column.get(label, Tile(label, "–")) for column in columns]) for label in labels]


# --- scores -------------------------------------------------------------------------------------


def results(runs: Sequence[RunRecord]) -> ScoreTable | None:
    """Return the final scores by task, grouped by kind: before, after and difference, or a column a run."""
    start, ended = common_start(runs), [(run, run.after) for run in runs if run.after]
    evaluations = ([start] if start else []) + [after for _, after in ended]
    if not evaluations:
        return None
    pair = len(runs) == 1 and len(evaluations) == 2
    columns = ["before"] if start else []
    columns += [run.name if len(runs) > 1 else "after" for run, _ in ended]
    by_kind = sentences.by_kind(union(evaluations))
    low, high = _scale(score.value for each in evaluations for score in each.scores.values())

    def row(name: str, values: Values, *, mean: bool = False) -> Row:
        if not pair:
            return Row(name, _compared(values, first=1 if start else 0), mean)
        before, after = values
        cells = [Cell(sentences.number(before)), Cell(sentences.number(after))]
        if before is None or after is None:
            return Row(name, [*cells, Cell("")], mean)
        at = [100 * (value - low) / (high - low) for value in (before, after)]
        track = {"start": at[0], "stop": at[1], "low": min(at), "high": max(at)}
        return Row(name, [*cells, _difference(after - before)], mean, track)

    groups = []
    means: list[Values] = []  # a row for each kind
    complete: list[Values] = []  # a row for each task that all columns have
    for kind, scores in by_kind.items():
        rows = [_values(score.key, evaluations) for score in scores]
        whole = [values for values in rows if None not in values]
        metrics = {sentences.metric_name(score.metric) for score in scores}
        title = sentences.kind_name(kind) + (f" · {metrics.pop()}" if len(metrics) == 1 else "")
        lines = [row(score.task, values) for score, values in zip(scores, rows, strict=True)]
        if whole:
            means.append(_mean(whole))
            complete += whole
        if len(whole) > 1:
            lines.append(row(f"Mean of {len(whole)}", means[-1], mean=True))
        groups.append(Rows(title, lines))
    if len(means) > 1:
        lines = [row(f"Mean of {len(means)} kinds", _mean(means), mean=True)]
        lines.append(row(f"Mean of {len(complete)} tasks", _mean(complete), mean=True))
        groups.append(Rows("All tasks", lines))
    if not pair:
        return ScoreTable(_results_note(runs, pair), columns, None, groups)
    return ScoreTable(
        _results_note(runs, pair), [*columns, "difference"], [low, (low + high) // 2, high], groups
    )


def widths(runs: Sequence[RunRecord]) -> WidthTable | None:
    """Return the final scores by Matryoshka width: of one run by task, of several runs their means."""
    ended = [(run.name, run.after) for run in runs if run.after]
    tasks = [
        score for group in sentences.by_kind(union(after for _, after in ended)).values() for score in group
    ]
    tasks = [task for task in tasks if all(task.key in after.scores for _, after in ended)]
    known_widths = sorted({width for task in tasks for width in task.by_width}, reverse=True)
    if len(known_widths) < 2:
        return None

    def by_task(evaluation: Evaluation | None) -> list[Values]:
        scores = evaluation.scores if evaluation else {}
        return [
            [scores[task.key].by_width.get(width) if task.key in scores else None for width in known_widths]
            for task in tasks
        ]

    note = "A width is a prefix of the embedding, normalised"
    if len(runs) > 1:
        note += f"; mean of {sentences.counted(len(tasks), 'task')}."
        rows = [_by_width(name, _mean(by_task(after))) for name, after in ended]
    else:
        before, after = by_task(runs[0].before), by_task(runs[0].after)
        note += "; small: the difference from the same prefix before training." if runs[0].before else "."
        rows = [_by_width(t.task, now, was) for t, now, was in zip(tasks, after, before, strict=True)]
        if len(tasks) > 1:
            rows.append(_by_width(f"Mean of {len(tasks)} tasks", _mean(after), _mean(before), mean=True))
    columns = ["full" if width == FULL_WIDTH else f"{width}" for width in known_widths]
    return WidthTable(note, "Run" if len(runs) > 1 else "Task", columns, rows)


def common_start(runs: Sequence[RunRecord]) -> Evaluation | None:
    """Return the evaluation before training, if all runs started from the same scores."""
    first, *others = [run.before for run in runs]
    if first is None:
        return None
    for other in others:
        if other is None or other.scores.keys() != first.scores.keys():
            return None
        if any(abs(other.scores[key].value - score.value) > 0.05 for key, score in first.scores.items()):
            return None
    return first


def union(evaluations: Iterable[Evaluation]) -> list[Score]:
    """Return one score of each task that any of the evaluations has."""
    return list({key: score for each in evaluations for key, score in each.scores.items()}.values())


def _values(key: str, evaluations: Sequence[Evaluation]) -> Values:
    return [each.scores[key].value if key in each.scores else None for each in evaluations]


def _mean(rows: Sequence[Values]) -> Values:
    """The mean of each column; None where a row has a gap."""
    return [
        None if None in column else math.fsum(value for value in column if value is not None) / len(rows)
        for column in zip(*rows, strict=True)
    ]


def _scale(values: Iterable[float]) -> tuple[int, int]:
    """The tens that enclose all values."""
    values = list(values)
    high = math.ceil(max(values) / 10) * 10
    return min(math.floor(min(values) / 10) * 10, high - 10), high


def _compared(values: Values, first: int) -> list[Cell]:
    """Cells of several runs: the best is marked; each run after the first, which stands at `first`, with its
    difference from that one."""
    best = max((value for value in values if value is not None), default=None)
    base = values[first] if first < len(values) else None
    cells = []
    for place, value in enumerate(values):
        change = Cell("")
        if place > first and value is not None and base is not None:
            change = _difference(value - base)
        is_best = value is not None and value == best
        cells.append(Cell(sentences.number(value), "", change.text, change.tone, is_best))
    return cells


def _by_width(name: str, values: Values, before: Values = (), *, mean: bool = False) -> Row:
    cells = []
    for value, was in zip(values, before or [None] * len(values), strict=True):
        change = Cell("") if value is None or was is None else _difference(value - was)
        cells.append(Cell(sentences.number(value), "", change.text, change.tone))
    return Row(name, cells, mean)


def _difference(value: float) -> Cell:
    text = sentences.signed(value)
    return Cell(text, "good" if text.startswith("+") else "bad" if text.startswith("−") else "")


def _results_note(runs: Sequence[RunRecord], pair: bool) -> str:
    if len(runs) > 1:
        return "Scores in per cent, the best in bold; small: the difference from the first run."
    run, after = runs[0], runs[0].after
    if after is None:
        return "Scores in per cent, before training."
    last = after.step >= run.num_steps
    when = (
        "after training" if last else f"after {after.step:,} of {run.num_steps:,} steps, the best by average"
    )
    note = f"Scores in per cent: ○ before training, ● {when}." if pair else f"Scores in per cent, {when}."
    if run.recipe and run.recipe.evaluation.keep_best and run.before and run.before.average >= after.average:
        note += " No evaluated step beat the start, so model/ is the model from before training."
    return note


# --- facts --------------------------------------------------------------------------------------


def facts(runs: Sequence[RunRecord]) -> Facts | None:
    """Return what run.json and recipe.yaml say; of several runs also the keys in which their recipes
    differ."""
    keys = dict.fromkeys(key for run in runs for key, value in run.facts.items() if value is not None)
    rows = [
        FactRow(
            key.replace("_", " ").capitalize(),
            [fact(run.rows if key == "datasets" else run.facts.get(key)) for run in runs],
            code=key == "command",
        )
        for key in keys
    ]
    recipes = [flat(run.recipe.as_dict()) if run.recipe else {} for run in runs]
    differences = [
        FactRow(key, [fact(recipe.get(key)) for recipe in recipes])
        for key in dict.fromkeys(key for recipe in recipes for key in recipe)
        if any(recipe.get(key) != recipes[0].get(key) for recipe in recipes)
    ]
    texts = [(run.name, run.recipe_text) for run in runs if run.recipe_text.strip()]
    if not rows and not texts:
        return None
    return Facts([run.name for run in runs], rows, differences, texts)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested recipe as dotted keys and values."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def fact(value: Any) -> str:
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
            return ", ".join(f"{key} {fact(part)}" for key, part in value.items())
        case list():
            return ", ".join(fact(part) for part in value)
    with contextlib.suppress(ValueError):  # a time is read more easily without its T and its fractions
        return f"{datetime.datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S}"
    return str(value)
