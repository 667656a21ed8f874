"""Results of evaluations as a table for the terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from conan_embed.evaluation import published
from conan_embed.evaluation.differences import is_other_data, score_of, shared_metric
from conan_embed.evaluation.results import EvaluationResult, TaskResult, summarise, type_of, types_of
from conan_embed.evaluation.stored import Stored


def table(
    result: EvaluationResult,
    *,
    baseline: EvaluationResult | None = None,
    widths: Sequence[int] | None = None,
) -> Table:
    """Show main scores times 100: tasks grouped by type, the mean of each type, and both averages.

    Args:
        result: what `evaluate` returned.
        baseline: a result to compare with, by a metric that both have; a row that it does not cover in full, with the
            same data, shows no difference. The caption says what is compared otherwise, or not at all.
        widths: widths to show beside the full one; all of `result` by default.
    """
    if widths is None:
        widths = [width for width in result.widths if width != result.width]
    shown = _empty_table(result, baseline, widths)
    rows = _Rows(result, baseline, widths)
    for type_ in types_of(result):
        keys = [key for key in result if type_of(key) == type_]
        for key in keys:
            shown.add_row(*rows.cells(f"  {key.split('/', 1)[1]}", result[key].metric, [key], type_))
        shown.add_row(*rows.cells(type_, f"mean of {len(keys)}", keys, type_), style="bold")
        shown.add_section()
    shown.add_row(*rows.cells("average", "mean of types", list(result), "average"), style="bold")
    shown.add_row(*rows.cells("", "mean of tasks", list(result), "average_of_tasks"))
    if baseline is not None:
        shown.caption = Text("\n".join(_oddities(result, baseline)))  # names may have square brackets
    return shown


def _oddities(result: EvaluationResult, baseline: EvaluationResult) -> Iterator[str]:
    """Yield what a reader of the differences has to know."""
    for key in filter(baseline.__contains__, result):
        old, now = baseline[key], result[key]
        metric = shared_metric(old, now)
        if is_other_data(old, now):
            yield f"{key}: not compared, {baseline.model} was evaluated on other data."
        elif metric is None:
            yield f"{key}: not compared, {old.metric} is no {now.metric}."
        elif metric != now.metric or metric != old.metric:
            yield f"{key}: compared by {metric}, which both have."


def _empty_table(result: EvaluationResult, baseline: EvaluationResult | None, widths: Sequence[int]) -> Table:
    shown = Table(title=f"{result.model} (scores x 100)", title_justify="left", caption_justify="left")
    shown.add_column("task")
    shown.add_column("metric", style="dim")
    shown.add_column(f"width {result.width}", justify="right")
    if baseline is not None:
        shown.add_column(f"against {baseline.model}", justify="right")
    for width in widths:
        shown.add_column(str(width), justify="right")
    return shown


@dataclass(frozen=True)
class _Rows:
    """The rows of a table: means of some tasks' main scores."""

    result: EvaluationResult
    baseline: EvaluationResult | None
    widths: Sequence[int]

    def cells(self, label: str, metric: str, keys: Sequence[str], which: str) -> list[Text]:
        """Return a row for the tasks `keys`; `which` is the member of `summarise` that it shows."""

        def mean(score: Callable[[str], float]) -> float:
            return summarise({key: score(key) for key in keys})[which]

        now = mean(lambda key: self.result[key].main)
        cells = [Text(label), Text(metric), Text(f"{100 * now:.2f}")]
        if (old := self.baseline) is not None:
            gains = {key: _gain(old[key], self.result[key]) for key in keys if key in old}
            known = {key: gain for key, gain in gains.items() if gain is not None}
            covered = len(known) == len(keys)
            cells.append(_difference(mean(known.__getitem__)) if covered else Text(""))
        for width in self.widths:
            cells.append(Text(f"{100 * mean(lambda key, w=width: self.result[key].by_width[w]):.2f}"))  # type: ignore[misc]
        return cells


def _gain(before: TaskResult, after: TaskResult) -> float | None:
    """Return the difference of two results by a metric that both have; None where they do not compare."""
    metric = shared_metric(before, after)
    if metric is None or is_other_data(before, after):
        return None
    return score_of(after, metric) - score_of(before, metric)


def kept(result: EvaluationResult) -> Table | None:
    """Show what widths and stored vectors keep of the average; None where no vectors were stored."""
    some = next(iter(result.values()))
    if not some.stored:
        return None
    shown = Table(title="What stored vectors keep (mean of types x 100)", title_justify="left")
    for name in ("vectors", "width", "bytes", "average", "kept", *types_of(result)):
        shown.add_column(name, justify="left" if name == "vectors" else "right")
    forms = [Stored.parse(form) for form in some.stored]
    for width in dict.fromkeys([result.width, *result.widths]):
        full = width == result.width
        scores = {key: task.main if full else task.by_width[width] for key, task in result.items()}
        shown.add_row(*_kept_cells("float32", width, 4 * width, scores, result))
        for form in forms:
            if form.width == width:
                scores = {key: task.stored[str(form)][task.metric] for key, task in result.items()}
                shown.add_row(*_kept_cells(form.kind, width, form.num_bytes, scores, result))
        shown.add_section()
    return shown


def _kept_cells(
    kind: str, width: int, num_bytes: int, scores: Mapping[str, float], result: EvaluationResult
) -> list[str]:
    means = summarise(scores)
    kept_share = means["average"] / result.average if result.average else float("nan")
    cells = [f"{100 * means[type_]:.2f}" for type_ in types_of(result)]
    return [
        kind,
        f"{width}",
        f"{num_bytes:,}",
        f"{100 * means['average']:.2f}",
        f"{100 * kept_share:.1f} %",
        *cells,
    ]


def by_type(result: EvaluationResult) -> Table | None:
    """Show the averages of C-MTEB's six types beside published rows; None for results of another benchmark.

    Rows are comparable in so far as the model's cover the same sets: the number of sets stands beside each average.
    """
    if result.benchmark not in published.BENCHMARKS:
        return None
    shown = _empty_by_type(result)
    shown.add_row(*_averages(result, result.width, result.summary), style="bold")
    for width in result.widths:
        if width != result.width:
            shown.add_row(*_averages(result, width, result.summary_at(width)), style="bold")
    counts = [sum(type_of(key) == type_ for key in result) for type_ in published.COLUMNS]
    shown.add_row("sets", "", "", *map(str, counts), style="dim")
    shown.add_section()
    shown.add_row("published:", style="dim")
    for name, (average_of_sets, of_types) in published.ROWS.items():
        cells = [f"{value:.2f}" for value in of_types]
        shown.add_row(name, str(published.NUM_SETS), f"{average_of_sets:.2f}", *cells)
    shown.caption = _caption(result)
    return shown


def _empty_by_type(result: EvaluationResult) -> Table:
    title = f"{result.model}: averages by type of task (scores x 100)"
    shown = Table(title=title, title_justify="left", caption_justify="left", pad_edge=False)
    shown.add_column("model", overflow="fold")
    for name in ("sets", "Avg", *published.COLUMNS.values()):
        shown.add_column(name, justify="right")
    return shown


def _averages(result: EvaluationResult, width: int, means: Mapping[str, float]) -> list[str]:
    cells = [f"{100 * means[type_]:.2f}" if type_ in means else "" for type_ in published.COLUMNS]
    return [f"width {width}", str(len(result)), f"{100 * means['average_of_tasks']:.2f}", *cells]


def _caption(result: EvaluationResult) -> str:
    captions = ["Published rows: Conan-embedding, arXiv 2408.15710; not measured here."]
    tasks = result.values()
    precisions = [task.scores["average_precision"] for task in tasks if "average_precision" in task.scores]
    if precisions:
        mean = 100 * sum(precisions) / len(precisions)
        captions.append(
            f"PairCls by average precision, as the published rows: {mean:.2f} (mteb ranks by accuracy)."
        )
    return "\n".join(captions)


def _difference(value: float) -> Text:
    shown = f"{100 * value:+.2f}"
    colour = "dim" if shown in ("+0.00", "-0.00") else "green" if value > 0 else "red"
    return Text(shown.replace("-0.00", "+0.00"), style=colour)
