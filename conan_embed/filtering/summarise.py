"""Add the results of all shards up to the `Summary` of a filter run."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from conan_embed.filtering.duplicates import JoinResult
from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES
from conan_embed.filtering.readers import merge_bad_rows
from conan_embed.filtering.rules import RULES
from conan_embed.filtering.steps import SCORE_BINS, Run, ShardResult, read_result
from conan_embed.filtering.summary import (
    Comparisons,
    Funnel,
    Reason,
    Rows,
    Sample,
    Scores,
    SourceCounts,
    Speed,
    StageSpeed,
    Summary,
)

STAGES = (  # as in the paper
    "normalise",
    "language",
    "rules",
    "prompt_response",
    "duplicates",
    "safety",
    "quality",
    "decontamination",
    "teacher",
)
ABOUT = {
    "empty": "a side with no text once normalised",
    "query_language": "the query is in a language that is not kept",
    "positive_language": "the positive is in a language that is not kept",
    "same_language": "the sides are in two languages",
    "exact_duplicate": "an earlier pair has the same query and positive",
    "near_duplicate": "an earlier pair has nearly the same query and positive (Jaccard similarity)",
    "query_repeats": "as many earlier pairs as allowed have this query (pairs that share it)",
    "positive_repeats": "as many earlier pairs as allowed have this positive (pairs that share it)",
    "unsafe_words": "different words of the default block lists",
    "blocked_words": "different words of the user's block lists",
    "blocked_domains": "links to blocked domains",
    "low_quality": "probability that the positive is good, by the classifier",
    "evaluation_text": "a side equals an evaluation text",
    "near_evaluation_text": "a side nearly equals an evaluation text (Jaccard similarity)",
    "teacher_score": "cosine of query and positive under the teacher",
    "teacher_rank": "rank of the positive among the passages of its shard, by the teacher",
    **{rule.name: rule.about for rule in (*RULES, *PROMPT_RESPONSE_RULES)},
}


def summarise(run: Run, *, seconds: float, workers: int, join: JoinResult | None) -> Summary:
    """Add up the results of all shards."""
    shards = [read_result(run, shard.number) for shard in run.shards]
    funnel = _funnel(shards)
    read, kept = funnel.total["read"], funnel.total[funnel.stages[-1]]
    teacher = run.recipe.teacher
    return Summary(
        rows=Rows(read, kept, read - kept),
        speed=_speed(shards, read, seconds, workers, join),
        funnel=funnel,
        sources=_sources(shards),
        reasons=_reasons(shards, run.recipe.engine.samples),
        bad_rows=merge_bad_rows(bad for shard in shards for step in shard.counts for bad in step.bad_rows),
        duplicates=None if join is None else Comparisons(join.compared, join.similar, join.undecided),
        scores=None if teacher.model is None else _scores(shards, teacher.min_score),
    )


def _sum(counts: Iterable[dict[str, Any]]) -> Any:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _funnel(shards: list[ShardResult]) -> Funnel:
    left: dict[str, Counter[str]] = defaultdict(Counter)
    for shard in shards:
        for step in shard.counts:
            for stage, counts in step.left.items():
                left[stage].update(counts)
    stages = ["read", *(stage for stage in STAGES if stage in left)]
    # A category that a stage emptied is not in its counts, and is 0 there.
    categories = {name: {stage: left[stage][name] for stage in stages} for name in sorted(left["read"])}
    return Funnel(stages, {stage: left[stage].total() for stage in stages}, categories)


def _speed(
    shards: list[ShardResult], read: int, seconds: float, workers: int, join: JoinResult | None
) -> Speed:
    spent = _sum(step.seconds for shard in shards for step in shard.counts)
    spent.update({"duplicates": join.seconds if join else 0.0})
    stages = {
        stage: StageSpeed(round(taken, 3), round(read / taken) if taken else None)
        for stage, taken in spent.items()
    }
    return Speed(round(seconds, 2), round(read / seconds, 1) if seconds else None, workers, stages)


def _sources(shards: list[ShardResult]) -> dict[str, SourceCounts]:
    read = _sum(step.sources for shard in shards for step in shard.counts)
    kept = _sum(shard.kept_sources for shard in shards)
    languages: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for shard in shards:
        for step in shard.counts:
            for side, counts in step.languages.items():
                for name, count in counts.items():
                    source, code = name.rsplit("\t", 1)  # the name of a source may hold a tab
                    languages[source][side][code] += count
    return {
        source: SourceCounts(read[source], kept[source], _shares(languages[source]))
        for source in sorted(read)
    }


def _shares(languages: dict[str, Counter[str]]) -> dict[str, dict[str, float]]:
    return {
        side: {code: round(count / counts.total(), 4) for code, count in counts.most_common()}
        for side, counts in languages.items()
    }


def _reasons(shards: list[ShardResult], max_samples: int) -> list[Reason]:
    dropped: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for shard in shards:
        for stage, reason, category, count in shard.dropped:
            dropped[stage, reason][category] += count
        for sample in shard.samples:
            samples[str(sample["dropped_by"])].append(sample)
    applied = _sum(step.applied for shard in shards for step in shard.counts)
    order = {reason: number for number, reason in enumerate(ABOUT)}
    return [
        Reason(
            stage=stage,
            reason=reason,
            about=ABOUT[reason],
            dropped=counts.total(),
            applied=max(applied[reason], counts.total()),
            categories=dict(counts.most_common()),
            samples=_first_samples(samples[reason], max_samples),
        )
        for (stage, reason), counts in sorted(
            dropped.items(), key=lambda item: (STAGES.index(item[0][0]), order[item[0][1]])
        )
    ]


def _first_samples(samples: list[dict[str, Any]], count: int) -> list[Sample]:
    first = sorted(samples, key=lambda sample: sample["order"])[:count]
    return [Sample(**{key.name: sample[key.name] for key in fields(Sample)}) for sample in first]


def _scores(shards: list[ShardResult], minimum: float) -> Scores:
    bins: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(SCORE_BINS, int))
    for shard in shards:
        for category, counts in shard.scores.items():
            bins[category] += np.array(counts)
    edges = np.linspace(-1, 1, SCORE_BINS + 1).round(3).tolist()
    return Scores(edges, minimum, {category: bins[category].tolist() for category in sorted(bins)})
