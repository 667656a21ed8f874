"""What the report says in words (the gain, the recipe, the negatives, the speed), and how it writes numbers.

Every function returns plain text, which the page escapes. A clause whose numbers were not recorded is left
out; a sentence that would have no clause is the empty string.
"""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from conan_embed.reporting.runs import RunFiles, Score, known

KIND_NAMES = {
    "retrieval": "Retrieval",
    "reranking": "Reranking",
    "sts": "STS",
    "pair_classification": "Pair classification",
    "classification": "Classification",
    "clustering": "Clustering",
    "bitext": "Bitext mining",
}
METRIC_NAMES = {
    "ndcg_at_10": "nDCG@10",
    "map_at_1000": "MAP",
    "cosine_spearman": "Spearman",
    "cosine_ap": "AP",
    "v_measure": "V-measure",
    "f1": "F1",
}


# --- numbers and names --------------------------------------------------------------------------


def number(value: float | None, places: int = 1) -> str:
    """Return a number with that many places and a true minus sign; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{round(value, places) + 0.0:,.{places}f}"  # + 0.0: no negative zero
    return text.replace("-", "−")


def signed(value: float, places: int = 1) -> str:
    """Return a difference with its sign, zero without."""
    text = number(value, places)
    return f"+{text}" if round(value, places) > 0 else text


def short(value: float) -> str:
    """Return a count to three digits: 812, 7,770, 3.1 M."""
    for size, unit in ((1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{float(f'{value:.3g}'):,.0f}"


def scientific(value: float) -> str:
    """Return 2e-05 as people write it: 2e-5."""
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].replace("+", ""), f"{value:.3g}")


def duration(seconds: float) -> str:
    """Return a time as people say it: 2.3 seconds, 41 seconds, 12 minutes, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.2g} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: float, noun: str) -> str:
    """Return "1 step", "2,000 queries"."""
    plural = noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,.0f} {noun if count == 1 else plural}"


def comma_list(items: Iterable[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    items = list(items)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def kind_name(kind: str) -> str:
    """Return how a kind of task is called on the page."""
    return KIND_NAMES.get(kind, kind.replace("_", " ").capitalize())


def metric_name(metric: str) -> str:
    """Return how a metric is called on the page."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def group_name(scores: Sequence[Score]) -> str:
    """Return the name of some scores of one kind: "MedicalQA nDCG@10", "Retrieval nDCG@10 (4 sets)"."""
    metrics = {metric_name(score.metric) for score in scores}
    name = scores[0].task if len(scores) == 1 else kind_name(scores[0].kind)
    name += f" {metrics.pop()}" if len(metrics) == 1 else ""
    return name if len(scores) == 1 else f"{name} ({len(scores)} sets)"


def by_kind(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Group scores by kind of task, in the order of `KIND_NAMES`, then by name."""
    order = {kind: number for number, kind in enumerate(KIND_NAMES)}
    groups: dict[str, list[Score]] = {}
    for score in sorted(scores, key=lambda s: (order.get(s.kind, len(order)), s.kind, s.task)):
        groups.setdefault(score.kind, []).append(score)
    return groups


def mean(scores: Iterable[Score]) -> float:
    """Return the plain mean over tasks at the full width."""
    return statistics.fmean(score.value for score in scores)


# --- one run ------------------------------------------------------------------------------------


def headline(run: RunFiles) -> str:
    """Say the gain in one sentence: that of the first kind of task, and of the second if there is one."""
    spent, before, after = _spent(run), run.before, run.after
    common = [key for key in before.scores if key in after.scores] if before and after else []
    if before and after and common:
        clauses, last_verb = [], ""
        for group in list(by_kind(after.scores[key] for key in common).values())[:2]:
            start, stop = mean(before.scores[score.key] for score in group), mean(group)
            change = round(stop, 1) - round(start, 1)
            verb = "rose" if change > 0 else "fell" if change < 0 else "stayed"
            figures = f"from {number(start)} to {number(stop)}" if change else f"at {number(stop)}"
            clauses.append(" ".join([group_name(group), *([verb] if verb != last_verb else []), figures]))
            last_verb = verb
        return comma_list(clauses) + (f" in {spent}" if spent else "") + "."
    if spent:
        return f"Trained for {spent}" + ("." if after else ", without evaluation before and after.")
    return "No step has been taken yet."


def _spent(run: RunFiles) -> str:
    if not run.num_steps:
        return ""
    seconds = run.total("seconds")
    return plural(run.num_steps, "step") + ("" if math.isnan(seconds) else f" / {duration(seconds)}")


def recipe(run: RunFiles) -> str:
    """Say what was trained on what, what a step holds, what the loss is and what becomes of the negatives."""
    if run.recipe is None:
        return ""
    return " ".join(part(run) for part in (_start, _step, _loss, _replacement)).strip()


def _start(run: RunFiles) -> str:
    assert run.recipe is not None
    model, data = run.recipe.model, run.recipe.data
    traits = [f"{model.pooling} pooling"] if model.pooling else []
    traits += [f"dense layer to {model.dense_width}"] if model.dense_width else []
    traits += [f"widths {comma_list(map(str, model.widths))}"] if model.widths else []
    traits += [f"texts of up to {model.max_length} tokens"] if model.max_length else []
    base = Path(model.base).name if Path(model.base).is_absolute() else model.base
    base += f" ({'; '.join(traits)})" if traits else ""
    tasks = {
        "retrieval": [part.name for part in data.retrieval],
        "classification": [part.name for part in data.classification],
        "STS": [part.name for part in data.sts],
    }
    named = [
        f"{task} ({', '.join(_sized(name, run) for name in names)})" for task, names in tasks.items() if names
    ]
    return f"Started from {base} and trained on {comma_list(named)}."


def _step(run: RunFiles) -> str:
    assert run.recipe is not None
    step = run.recipe.step
    against = [plural(step.num_negatives, "hard negative")] if step.num_negatives else []
    against += {
        "step": ["all candidates of the step"],
        "dataset": ["all candidates from its data set"],
        "none": [],
    }[step.in_batch]
    queries = plural(step.queries, "query") + (f", each against {comma_list(against)}" if against else "")
    parts = [queries] if step.queries else []
    parts += [plural(step.sts_pairs, "STS pair")] if step.sts_pairs else []
    return f"A step holds {', or '.join(parts) if step.mixing == 'sequential' else ', and '.join(parts)}."


def _loss(run: RunFiles) -> str:
    assert run.recipe is not None
    step, loss = run.recipe.step, run.recipe.loss
    infonce = f"InfoNCE (τ {loss.temperature:g})"
    cosent = f"CoSENT (τ {loss.sts_temperature:g})"
    if not step.sts_pairs:
        return f"The loss is {infonce}."
    return f"The loss is {infonce} + {loss.beta:g} × {cosent}." if step.queries else f"The loss is {cosent}."


def _replacement(run: RunFiles) -> str:
    assert run.recipe is not None
    step, rule = run.recipe.step, run.recipe.hard_negatives
    if not step.queries or not step.num_negatives:
        return ""
    if rule.source == "static":
        return "Hard negatives are static."
    new = {
        "ranking": "the next ones of their ranking replace them",
        "bank": "new ones are ranked from a bank of passage embeddings",
        "remine": "new ones are mined",
    }[rule.source]
    fallen = f"{rule.decay:g} S < S₀ and |S| < {rule.max_score:g}"
    condition = {
        "mean": f"the means of a query have {fallen}",
        "each": f"one has {fallen}" + ("" if rule.too_easy is None else f" or S₀ < {rule.too_easy:g}"),
        "share": f"one's share of the softmax over it and the positive is below {rule.min_share:g}",
    }[rule.rule]
    return f"Hard negatives are checked every {rule.interval} steps; where {condition}, {new}."


def _sized(name: str, run: RunFiles) -> str:
    return f"{name} {run.rows[name]:,}" if name in run.rows else name


def negatives(run: RunFiles) -> str:
    """Say what the checks of the hard negatives did and what they cost."""
    replaced_N = known(run.checks, "replaced")[1]
    if not len(replaced_N):
        return ""
    queries = plural(replaced_N.sum(), "query") if replaced_N.any() else "no query"
    text = f"{plural(len(replaced_N), 'check')} replaced the negatives of {queries} in total"
    if replaced_N.any() and (observed := run.last_check("observed")):
        text += f", the last one those of {replaced_N[-1] / observed:.0%} of the {observed:,.0f} observed"
    text += "."
    if (rank := run.last_check("mean_rank")) is not None:
        text += f" The negatives now in use have a mean rank of {rank:.0f}"
        exhausted = run.last_check("exhausted_share")
        text += "." if exhausted is None else f", and {exhausted:.1%} of the rankings are exhausted."
    spent = sum(float(known(run.checks, key)[1].sum()) for key in ("seconds", "seconds_between"))
    if spent and (training := run.total("seconds")) > 0:
        text += (
            f" Checks and bank took {duration(spent)}, {100 * spent / training:.2g}% of the training time."
        )
    return text


def speed(run: RunFiles) -> str:
    """Say how fast the run was, against the measured floor of its device if run.json has it."""
    rate, seconds = run.median("tokens_per_second"), run.median("seconds")
    if math.isnan(rate):
        return ""
    text = f"The median step processed {short(rate)} real (non-padding) tokens per second"
    if floor := run.record.get("matmul_peak_tokens_per_second"):
        text += f", {rate / floor:.0%} of the {short(floor)} that its bf16 matrix products alone would allow"
    return text + ("." if math.isnan(seconds) else f", and took {duration(seconds)}.")


# --- several runs -------------------------------------------------------------------------------


def comparison(runs: Sequence[RunFiles]) -> str:
    """Say which run ended highest, on the mean of the tasks that all of them were evaluated on."""
    ended = [(run.name, run.after.scores) for run in runs if run.after]
    common = [key for key in ended[0][1] if all(key in scores for _, scores in ended)] if ended else []
    if len(ended) < 2 or not common:
        return f"{len(runs)} runs side by side."
    means = {name: round(mean(scores[key] for key in common), 1) for name, scores in ended}
    what = f"mean of {len(common)} tasks" if len(common) > 1 else group_name([ended[0][1][common[0]]])
    best = max(means.values())
    first = comma_list(name for name, value in means.items() if value == best)
    behind = sorted(((value, name) for name, value in means.items() if value < best), reverse=True)
    if not behind:
        return f"{first} ended level: {what} {number(best)}."
    against = comma_list(f"{number(value)} ({name})" for value, name in behind)
    return f"{first} ended highest: {what} {number(best)}, against {against}."
