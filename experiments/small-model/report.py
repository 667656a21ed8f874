"""What is shown of the small model: the tables of the look and of the full run, and the cards."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costs import GPU_SECONDS_PER_STEP, GPU_SHARE, gpu_hours, matrix_weights, read_costs
from result_file import write_result
from scoring import choice_score, estimates, retention, type_mean
from sources import licence_lines, statement

from conan_embed.encoder.card import note_results, note_training
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.results import EvaluationResult
from conan_embed.evaluation.statistics import LEVEL, Estimate
from conan_embed.files import write_text

if TYPE_CHECKING:
    from run import Candidate, Workplace

# Main scores as their authors publish them; parameters in millions.
PUBLISHED = {
    "gte-small-zh (30 M)": {
        "AFQMC": 36.7, "ATEC": 45.8, "LCQMC": 72.7, "PAWSX": 12.8, "QBQTC": 37.0, "STSB": 76.5, "Ocnli": 60.5, "Cmnli": 69.2
    },
    "bge-small-zh-v1.5 (24 M)": {"AFQMC": 33.4, "STSB": 76.7, "PAWSX": 9.3},
    "Dmeta-embedding-zh-small (74 M)": {
        "AFQMC": 59.5, "ATEC": 58.6, "LCQMC": 78.7, "PAWSX": 43.0, "QBQTC": 41.0, "STSB": 79.1, "Ocnli": 81.2, "Cmnli": 82.7
    },
}  # fmt: skip
SETS = tuple(PUBLISHED["gte-small-zh (30 M)"])
ELSEWHERE = {"QBQTC": "QBQTC-dev"}  # the same set's other split, where the published one is not at hand
_END_OF_CARD = "<!-- conan-embed: end. What follows is yours -->"


# -------------------------------------------------------------------------------------------------------- look


def show_look(
    place: "Workplace", candidates: Sequence["Candidate"], chosen: "Candidate | None", *, write: bool
) -> None:
    """Show the development sets of all arms, and what they cost."""
    choice = "None of these arms is one that the full run may be like." if chosen is None else ""
    if chosen is not None:
        choice = f"The full run goes on with `{chosen.name}`."
    what = (
        f"Starting from {place.base.name}; a tenth of the steps of stage 2, stage 1 whole; development sets only, held out "
        f"of the training files. One seed: {LEVEL:.0%} intervals are over test items and say nothing about another run. "
        f"Differences are from the first fine-tuned arm. {choice}"
    )
    lines = [
        *("## Development sets", "", *development_lines(candidates, place.widths), ""),
        *("## Cost so far", "", *cost_lines(place)),
    ]
    raw = {each.name: {task: score.main for task, score in each.result.items()} for each in candidates}
    write_result("A small model, a look", what, lines, raw, write, name="small-model-look")


def development_lines(candidates: Sequence["Candidate"], widths: Sequence[int]) -> list[str]:
    """Return a table: the mean that is chosen by, at every width, and how far it lies above the first trained arm."""
    first = next((each for each in candidates if each.name not in ("base", "pre-trained")), candidates[0])
    tasks = list(first.result)
    differences = estimates([each.result for each in (first, *candidates)], tasks)["average"][1:]
    head = ["model", "retrieval", "graded", "mean", f"against {first.name}", *(f"mean, {w}" for w in widths)]
    body = [
        [
            each.name,
            *(percent(type_mean(each.result, type_, tasks)) for type_ in ("retrieval", "sts")),
            percent(choice_score(each.result, tasks)),
            interval(difference),
            *(percent(choice_score(each.result, tasks, width)) for width in widths),
        ]
        for each, difference in zip(candidates, differences, strict=True)
    ]
    return grid(head, body)


# -------------------------------------------------------------------------------------------------------- full


def show_full(place: "Workplace", columns: dict[str, dict[str, Any]], *, write: bool) -> None:
    """Show the evaluation sets of all columns beside published values, what was demanded, what was tried, the cost."""
    by_mteb = {
        name: EvaluationResult.from_json(column["scores"]["by_mteb"]) for name, column in columns.items()
    }
    own = {name: EvaluationResult.from_json(column["scores"]["own"]) for name, column in columns.items()}
    deviation = max(
        abs(by_mteb[name][task].main - own[name][task].main) for name in own for task in own[name]
    )
    lines = [
        *("## Beside published values", "", *published_lines(by_mteb), ""),
        *("## Retrieval against the base", "", *retention_lines(own), ""),
        *("## Evaluation sets", "", *score_lines(by_mteb, own), ""),
        *("## Widths", "", *width_lines(by_mteb), ""),
        *("## What was tried, on the development sets", "", *tried_lines(columns), ""),
        *("## Cost", "", *cost_lines(place)),
    ]
    statements = [statement(name, column["files"]) for name, column in columns.items() if column["files"]]
    what = (
        f"Starting from {place.base.name}. One run of each stage, one seed: {LEVEL:.0%} intervals are over test items and "
        f"say nothing about another run. {' '.join(statements)} Everything was chosen by rows held out of the training "
        f"files. Scores by mteb's own classes; this package's metrics, from which the intervals are, differ by "
        f"{100 * deviation:.3f} at most."
    )
    raw = {
        name: {
            **column,
            "model": Path(column["model"]).name,
            "scores": column["scores"]["by_mteb"],
            "tried": _main_scores(column["tried"]),
        }
        for name, column in columns.items()
    }
    write_result("A small model", what, lines, raw, write, name="small-model")


def _main_scores(tried: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was tried without the items of the development sets, of which there are tens of thousands."""
    return [
        {**each, "development": {k: v["main_score"] for k, v in each["development"]["tasks"].items()}}
        for each in tried
    ]


def published_lines(columns: dict[str, EvaluationResult]) -> list[str]:
    """Return the table of the sets with published values; pairs by accuracy at the best threshold, as C-MTEB has them."""
    body = [
        [name, *(published_cell(result, data_set) for data_set in SETS)] for name, result in columns.items()
    ]
    body += [
        [model, *(f"{values[data_set]:.1f}" if data_set in values else "–" for data_set in SETS)]
        for model, values in PUBLISHED.items()
    ]
    notes = "–: not published, or the set is not at hand. (QBQTC-dev): that split of QBQTC, not the published one."
    return [*grid(["model", *SETS], body), "", notes]


def published_cell(result: EvaluationResult, data_set: str) -> str:
    for name in (data_set, ELSEWHERE.get(data_set)):
        for type_ in ("sts", "pair_classification"):
            task = result.get(f"{type_}/{name}")
            if task is not None:
                value = percent(task.scores.get("cosine_accuracy", task.main), 1)
                return value if name == data_set else f"{value} ({name})"
    return "–"


def retention_lines(own: dict[str, EvaluationResult]) -> list[str]:
    """Return what was demanded of retrieval: not below the base on average, less than 2 points lost on some sets."""
    body = []
    for name, result in own.items():
        if result is own["base"]:
            continue
        for task, difference in retention(own["base"], result).items():
            demand, least = ("not below the base", 0.0) if task == "average" else ("loses less than 2", -0.02)
            body.append([name, shown_task(task), demand, interval(difference), verdict(difference, least)])
    return grid(["column", "sets", "demand", "difference from the base", "held"], body)


def shown_task(task: str) -> str:
    return "mean of retrieval and of reranking" if task == "average" else task.partition("/")[2]


def verdict(difference: Estimate, least: float) -> str:
    """Tell whether a difference is above `least`, and whether its whole interval is."""
    is_held = difference.value >= least if least == 0 else difference.value > least
    if not is_held:
        return "no" if difference.high < least else "no, but the interval reaches it"
    return "yes, with its interval" if difference.low >= least else "yes, but not with its interval"


def score_lines(by_mteb: dict[str, EvaluationResult], own: dict[str, EvaluationResult]) -> list[str]:
    """Return a table: every set at full width, and how far each column lies above the base."""
    names = list(by_mteb)
    trained = names[1:]
    tasks = list(by_mteb["base"])
    differences = estimates([own[name] for name in names], tasks)
    head = ["set", *names, *(f"{name} against base" for name in trained)]
    body = [
        [
            task,
            *(percent(by_mteb[name][task].main) for name in names),
            *(interval(differences[task][names.index(name)]) for name in trained),
        ]
        for task in tasks
    ]
    return grid(head, body)


def width_lines(by_mteb: dict[str, EvaluationResult]) -> list[str]:
    """Return a table: every set at every width."""
    columns = [(name, width) for name, result in by_mteb.items() for width in result.widths]
    body = [
        [task, *(percent(by_mteb[name][task].by_width[width], 1) for name, width in columns)]
        for task in by_mteb["base"]
    ]
    return grid(["set", *(f"{name}, {width}" for name, width in columns)], body)


def tried_lines(columns: dict[str, dict[str, Any]]) -> list[str]:
    body = [
        [name, each["name"], percent(each["score"]), "chosen" if each["name"] == column["chosen"] else ""]
        for name, column in columns.items()
        if column["files"]
        for each in column["tried"]
    ]
    start = ", ".join(sorted({column["start"] for column in columns.values() if column["files"]}))
    note = f"Fine-tuning started from: {start} (the look). `zero-shot` is chosen by sets that no evaluated set is near to."
    return [*grid(["column", "model", "mean of the development sets", ""], body), "", note]


# -------------------------------------------------------------------------------------------------------- cost


def cost_lines(place: "Workplace") -> list[str]:
    """Return a table of all work, its sum, and what it would be on one GPU (calculated)."""
    costs = read_costs(place.output)
    body = [
        [
            cost.what,
            str(cost.pieces),
            f"{cost.steps:,}" if cost.tokens else "",
            f"{cost.tokens:,}" if cost.tokens else "",
            f"{cost.hours:.2f}",
            f"{cost.cpu_hours:.2f}",
        ]
        for cost in costs
    ]
    tokens, hours, cpu_hours = (
        sum(getattr(cost, name) for cost in costs) for name in ("tokens", "hours", "cpu_hours")
    )
    body.append(["all", "", "", f"{tokens:,}", f"{hours:.2f}", f"{cpu_hours:.2f}"])
    estimate = gpu_hours(costs, matrix_weights(EmbeddingModel.load(place.base)))
    return [
        *grid(["work", "pieces", "steps", "tokens trained", "hours", "core hours"], body),
        "",
        f"Hours are those of the clock, core hours those of this process on all cores. On one H100 the same would take about "
        f"{estimate:.2f} hours. That is calculated, not measured: {GPU_SHARE:.0%} of the published bfloat16 rate, no step "
        f"below {GPU_SECONDS_PER_STEP:g} s, mining and scoring faster by as much as training, filtering as on the CPU.",
    ]


# -------------------------------------------------------------------------------------------------------- card


def write_card(
    model: Path, run: Path, scores: EvaluationResult, column: str, share: str, files: Sequence[str]
) -> None:
    """Note training and scores in a model's card, with the licences of its data and what they are in domain for."""
    note_training(model, run)
    note_results(model, scores.to_json())
    path = model / "README.md"
    text, mark, _ = path.read_text(encoding="utf-8").partition(_END_OF_CARD)
    text = text.replace("license: unknown", "license: other\nlicense_name: research-only", 1)
    lines = [
        "## Data, licences and limits",
        "",
        f"{statement(column, files)} Compare its scores on these sets with models that were trained on them too.",
        "",
        f"Weights: {share} of the fine-tuned model, the rest of the base. Chinese and English; short texts above all.",
        "",
        "For research only: some of the training files allow no commercial use, and many state no licence.",
        "",
        *licence_lines(files),
    ]
    write_text(path, f"{text}{mark}\n\n" + "\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------------------- cells


def percent(score: float, digits: int = 2) -> str:
    return f"{100 * score:.{digits}f}"


def interval(difference: Estimate) -> str:
    if math.isnan(difference.low):
        return f"{100 * difference.value:+.2f}"
    return f"{100 * difference.value:+.2f} ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})"


def grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]
