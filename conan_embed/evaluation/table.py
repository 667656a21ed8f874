"""Results of evaluations as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from conan_embed.evaluation.local import summarise
from conan_embed.evaluation.sets import TYPES


def table(
    results: Mapping[str, Any],
    *,
    baseline: Mapping[str, Any] | None = None,
    widths: Sequence[int] | None = None,
) -> Table:
    """Show main scores times 100: tasks grouped by type, the mean of each type, and both averages.

    Args:
        results: what `evaluate` returned.
        baseline: results to compare with; a row that it does not cover in full shows no difference.
        widths: widths to show beside the full one; all of `results` by default.
    """
    tasks: Mapping[str, Mapping[str, Any]] = results["tasks"]
    if widths is None:
        widths = [int(width) for width in results.get("widths", {}) if int(width) != results["width"]]
    old = {} if baseline is None else {key: result["main_score"] for key, result in baseline["tasks"].items()}

    shown = Table(title=f"{results['model']} (scores x 100)", title_justify="left")
    shown.add_column("task")
    shown.add_column("metric", style="dim")
    shown.add_column(f"width {results['width']}", justify="right")
    if baseline is not None:
        shown.add_column(f"against {baseline['model']}", justify="right")
    for width in widths:
        shown.add_column(str(width), justify="right")

    def add_row(label: str, metric: str, keys: Sequence[str], which: str, style: str = "") -> None:
        def mean(scores: Mapping[str, float]) -> float:
            return summarise({key: scores[key] for key in keys})[which]

        now = mean({key: tasks[key]["main_score"] for key in keys})
        cells = [Text(label), Text(metric), Text(f"{100 * now:.2f}")]
        if baseline is not None:
            cells.append(_difference(now - mean(old)) if all(key in old for key in keys) else Text(""))
        for width in widths:
            cells.append(Text(f"{100 * mean({key: tasks[key]['widths'][str(width)] for key in keys}):.2f}"))
        shown.add_row(*cells, style=style)

    for type_ in TYPES:
        keys = [key for key in tasks if key.split("/", 1)[0] == type_]
        for key in keys:
            add_row(f"  {key.split('/', 1)[1]}", tasks[key]["metric"], [key], type_)
        if keys:
            add_row(type_, f"mean of {len(keys)}", keys, type_, style="bold")
            shown.add_section()
    add_row("average", "mean of types", list(tasks), "average", style="bold")
    add_row("", "mean of tasks", list(tasks), "average_of_tasks")
    return shown


def _difference(value: float) -> Text:
    shown = f"{100 * value:+.2f}"
    colour = "dim" if shown in ("+0.00", "-0.00") else "green" if value > 0 else "red"
    return Text(shown.replace("-0.00", "+0.00"), style=colour)
