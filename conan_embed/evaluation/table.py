"""Results of evaluations as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from conan_embed.evaluation import published
from conan_embed.evaluation.local import summarise, type_of, types_of


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

    for type_ in types_of(tasks):
        keys = [key for key in tasks if type_of(key) == type_]
        for key in keys:
            add_row(f"  {key.split('/', 1)[1]}", tasks[key]["metric"], [key], type_)
        add_row(type_, f"mean of {len(keys)}", keys, type_, style="bold")
        shown.add_section()
    add_row("average", "mean of types", list(tasks), "average", style="bold")
    add_row("", "mean of tasks", list(tasks), "average_of_tasks")
    return shown


def by_type(results: Mapping[str, Any]) -> Table | None:
    """Show the averages of C-MTEB's six types beside published rows; None for results of another benchmark.

    Rows are comparable in so far as the model's cover the same sets: the number of sets stands beside each average.
    """
    if results.get("benchmark") not in published.BENCHMARKS:
        return None
    tasks: Mapping[str, Mapping[str, Any]] = results["tasks"]
    counts = {type_: sum(type_of(key) == type_ for key in tasks) for type_ in published.COLUMNS}
    title = f"{results['model']}: averages by type of task (scores x 100)"
    shown = Table(title=title, title_justify="left", caption_justify="left", pad_edge=False)
    shown.add_column("model", overflow="fold")
    shown.add_column("sets", justify="right")
    shown.add_column("Avg", justify="right")
    for short in published.COLUMNS.values():
        shown.add_column(short, justify="right")
    scores = {str(results["width"]): {key: task["main_score"] for key, task in tasks.items()}}
    for width in results.get("widths", {}):
        scores[width] = {key: task["widths"][width] for key, task in tasks.items()}
    for width, of_tasks in scores.items():
        means = summarise(of_tasks)
        cells = [f"{100 * means[type_]:.2f}" if type_ in means else "" for type_ in published.COLUMNS]
        average = f"{100 * means['average_of_tasks']:.2f}"
        shown.add_row(f"width {width}", str(len(of_tasks)), average, *cells, style="bold")
    shown.add_row("sets", "", "", *(str(count) for count in counts.values()), style="dim")
    shown.add_section()
    shown.add_row("published:", style="dim")
    for name, (average_of_sets, of_types) in published.ROWS.items():
        cells = [f"{value:.2f}" for value in of_types]
        shown.add_row(name, str(published.NUM_SETS), f"{average_of_sets:.2f}", *cells)
    captions = ["Published rows: Conan-embedding, arXiv 2408.15710; not measured here."]
    precisions = [task["average_precision"] for task in tasks.values() if "average_precision" in task]
    if precisions:
        mean = 100 * sum(precisions) / len(precisions)
        captions.append(
            f"PairCls by average precision, as the published rows: {mean:.2f} (mteb ranks by accuracy)."
        )
    shown.caption = "\n".join(captions)
    return shown


def _difference(value: float) -> Text:
    shown = f"{100 * value:+.2f}"
    colour = "dim" if shown in ("+0.00", "-0.00") else "green" if value > 0 else "red"
    return Text(shown.replace("-0.00", "+0.00"), style=colour)
