"""The sections of the report that are drawings: figures with their titles, legends and a sentence about
them."""

from collections.abc import Sequence
from dataclasses import dataclass

from conan_embed.reporting import canvas, figures, sentences
from conan_embed.reporting.runs import RunFiles
from conan_embed.reporting.scores import union


@dataclass(frozen=True)
class Entry:
    """One entry of a legend: a colour slot (None: grey) and a CSS class for its line."""

    label: str
    series: int | None = None
    style: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure with its title; `narrow` is the same for phones where the first is too wide for them."""

    title: str
    svg: str
    narrow: str = ""
    legend: Sequence[Entry] = ()
    latest: str = ""


@dataclass(frozen=True)
class Figures:
    """Drawings with a sentence about them and a legend; `summaries` are (run, sentence)."""

    drawings: Sequence[Drawing]
    note: str = ""
    legend: Sequence[Entry] = ()
    summaries: Sequence[tuple[str, str]] = ()


def run_legend(runs: Sequence[RunFiles]) -> list[Entry]:
    """Return the legend of the runs, each with its colour."""
    return [Entry(run.name, number % canvas.NUM_SERIES) for number, run in enumerate(runs)]


def evaluation(runs: Sequence[RunFiles]) -> list[Drawing]:
    """Return a small figure of each task that was evaluated more than once."""
    drawings = []
    tasks = sentences.by_kind(union(each for run in runs for each in run.evaluations))
    for task in (score for group in tasks.values() for score in group):
        values = [e.scores[task.key].value for e in runs[0].evaluations if task.key in e.scores]
        if svg := figures.evaluation(runs, task.key):
            change = (
                "" if len(runs) > 1 else f"{sentences.number(values[0])} → {sentences.number(values[-1])}"
            )
            drawings.append(Drawing(task.task, svg, latest=change))
    return drawings


def scores(runs: Sequence[RunFiles]) -> Figures | None:
    """Return figure 2 of the paper."""
    if not (svg := figures.scores(runs, canvas.WIDE)):
        return None
    marks = any(figures.replacements(run) for run in runs)
    note = "How near queries are to their positives and to their hard negatives: figure 2 of the paper."
    if len(runs) == 1:
        legend = [Entry("positives", 0), Entry("hard negatives", 1)]
        legend += (
            [Entry("a check replaced negatives (the darker, the more)", None, "upright")] if marks else []
        )
    else:
        legend = [*run_legend(runs), Entry("positives"), Entry("hard negatives", None, "dashed")]
        note += " The ticks at the foot are checks that replaced negatives." if marks else ""
    return Figures([Drawing("Mean cosine", svg, figures.scores(runs, canvas.NARROW), legend)], note)


def negatives(runs: Sequence[RunFiles]) -> Figures | None:
    """Return what the checks of the hard negatives recorded."""
    single = len(runs) == 1
    means = _pair("S₀, when chosen", "S, now", single)
    ages = _pair("mean", "oldest", single)
    rank = figures.check(runs, ["mean_rank"])
    exhausted = figures.check(runs, ["exhausted_share"], from_zero=True, as_per_cent=True)
    age = figures.check(runs, ["bank_age", "bank_age_max"], from_zero=True)
    drawings = _drawn(
        Drawing("Queries with new negatives", figures.replaced(runs)),
        Drawing("Mean score", figures.check(runs, ["mean_initial", "mean_current"]), legend=means),
        Drawing("Mean rank in use", rank),
        Drawing("Share of exhausted rankings", exhausted),
        Drawing("Age of the bank, steps", age, legend=ages),
    )
    summaries = [("" if single else run.name, sentences.negatives(run)) for run in runs]
    return Figures(drawings, summaries=[pair for pair in summaries if pair[1]]) if drawings else None


def losses(runs: Sequence[RunFiles]) -> list[Drawing]:
    """Return the total loss and that of each task."""
    parts = sorted({key for run in runs for key in run.metrics.columns if key.startswith("loss/")})
    names = {"loss": "Total"} | {key: sentences.kind_name(key.removeprefix("loss/")) for key in parts}
    return _drawn(*(Drawing(name, figures.loss(runs, key)) for key, name in names.items()))


def mixing(runs: Sequence[RunFiles]) -> Figures | None:
    """Return figure 4 of the paper, where runs that mix their tasks differently are compared."""
    ways = [None if run.recipe is None else run.recipe.step.mixing for run in runs]
    if not {"joint", "sequential"} <= set(ways):
        return None
    names = {"joint": "all tasks in every step (Cross-GPU Batch Balance)", "sequential": "one task a step"}
    legend = [
        Entry(f"{run.name}: {names[way]}" if way else run.name, number % canvas.NUM_SERIES)
        for number, (run, way) in enumerate(zip(runs, ways, strict=True))
    ]
    tasks = {"Retrieval": ["retrieval"], "STS": ["sts"], "Retrieval + STS": ["retrieval", "sts"]}
    drawings = _drawn(*(Drawing(name, figures.mixed_loss(runs, keys)) for name, keys in tasks.items()))
    return Figures(drawings, legend=legend) if drawings else None


def speed(runs: Sequence[RunFiles]) -> Figures | None:
    """Return throughput, learning rate and gradient norm."""
    drawings = _drawn(
        Drawing("Real tokens a second", figures.throughput(runs)),
        Drawing("Learning rate", figures.learning_rate(runs)),
        Drawing("Gradient norm", figures.gradient_norm(runs)),
    )
    note = sentences.speed(runs[0]) if len(runs) == 1 else ""
    return Figures(drawings, note) if drawings else None


def _pair(first: str, second: str, single: bool) -> list[Entry]:
    """The legend of a figure of two quantities."""
    if single:
        return [Entry(first, 0), Entry(second, 1)]
    return [Entry(first), Entry(second, None, "dashed")]


def _drawn(*drawings: Drawing) -> list[Drawing]:
    """The drawings for which something was recorded."""
    return [drawing for drawing in drawings if drawing.svg]
