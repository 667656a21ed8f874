"""The score tables of the report as plain values: by task, and by Matryoshka width.

A table has a column for the model before training (where all runs started from the same one) and a column for each run.
A row is a task or a mean; the mean of a column is only taken over tasks that every column has.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from conan_embed.reporting import sentences
from conan_embed.reporting.runs import FULL_WIDTH, Evaluation, RunFiles, Score
from conan_embed.reporting.tables import Cell, Row

Values = Sequence[float | None]
"""Scores in per cent, one a column; None where there is none."""
Drawn = tuple[Sequence[Cell], Mapping[str, float] | None]
"""The cells of a row, and its track."""


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


def results(runs: Sequence[RunFiles]) -> ScoreTable | None:
    """Return the final scores by task, grouped by kind: before, after and difference, or a column a run."""
    start, ended = common_start(runs), [(run, run.after) for run in runs if run.after]
    evaluations = ([start] if start else []) + [after for _, after in ended]
    if not any(evaluation.scores for evaluation in evaluations):
        return None
    columns = ["before"] if start else []
    columns += [run.name if len(runs) > 1 else "after" for run, _ in ended]
    if len(runs) == 1 and len(evaluations) == 2:
        low, high = _scale(score.value for each in evaluations for score in each.scores.values())
        groups = _groups(evaluations, lambda values: _before_and_after(values, low, high))
        note = _results_note(runs, pair=True)
        return ScoreTable(note, [*columns, "difference"], [low, (low + high) // 2, high], groups)
    groups = _groups(evaluations, lambda values: (_compared(values, first=1 if start else 0), None))
    return ScoreTable(_results_note(runs, pair=False), columns, None, groups)


def _groups(evaluations: Sequence[Evaluation], draw: Callable[[Values], Drawn]) -> list[Rows]:
    """Return a group of rows for each kind of task, and one with the means of all."""
    groups = []
    means: list[Values] = []  # a row for each kind
    complete: list[Values] = []  # a row for each task that all columns have
    for kind, scores in sentences.by_kind(union(evaluations)).items():
        rows = [_values(score.key, evaluations) for score in scores]
        whole = [values for values in rows if None not in values]
        metrics = {sentences.metric_name(score.metric) for score in scores}
        title = sentences.kind_name(kind) + (f" · {metrics.pop()}" if len(metrics) == 1 else "")
        lines = [_row(draw, score.task, values) for score, values in zip(scores, rows, strict=True)]
        if whole:
            means.append(_mean(whole))
            complete += whole
        if len(whole) > 1:
            lines.append(_row(draw, f"Mean of {len(whole)}", means[-1], mean=True))
        groups.append(Rows(title, lines))
    if len(means) > 1:
        lines = [_row(draw, f"Mean of {len(means)} kinds", _mean(means), mean=True)]
        lines.append(_row(draw, f"Mean of {len(complete)} tasks", _mean(complete), mean=True))
        groups.append(Rows("All tasks", lines))
    return groups


def _row(draw: Callable[[Values], Drawn], name: str, values: Values, *, mean: bool = False) -> Row:
    cells, track = draw(values)
    return Row(name, cells, mean, track)


def _before_and_after(values: Values, low: float, high: float) -> Drawn:
    """Cells of both and of their difference, and where they stand on a line from `low` to `high`."""
    before, after = values
    cells = [Cell(sentences.number(before)), Cell(sentences.number(after))]
    if before is None or after is None:
        return [*cells, Cell("")], None
    at = [100 * (value - low) / (high - low) for value in (before, after)]
    track = {"start": at[0], "stop": at[1], "low": min(at), "high": max(at)}
    return [*cells, _difference(after - before)], track


def widths(runs: Sequence[RunFiles]) -> WidthTable | None:
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
        note += f"; mean of {sentences.plural(len(tasks), 'task')}."
        rows = [_by_width(name, _mean(by_task(after))) for name, after in ended]
    else:
        before, after = by_task(runs[0].before), by_task(runs[0].after)
        note += "; small: the difference from the same prefix before training." if runs[0].before else "."
        rows = [_by_width(t.task, now, was) for t, now, was in zip(tasks, after, before, strict=True)]
        if len(tasks) > 1:
            rows.append(_by_width(f"Mean of {len(tasks)} tasks", _mean(after), _mean(before), mean=True))
    columns = ["full" if width == FULL_WIDTH else f"{width}" for width in known_widths]
    return WidthTable(note, "Run" if len(runs) > 1 else "Task", columns, rows)


def common_start(runs: Sequence[RunFiles]) -> Evaluation | None:
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
    for column, value in enumerate(values):
        change = Cell("")
        if column > first and value is not None and base is not None:
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


def _results_note(runs: Sequence[RunFiles], *, pair: bool) -> str:
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
