"""`summary.json` of a filter run: the funnel, the reasons, the languages, the scores, and samples to read.

The shape (what `conan_embed.reporting` draws):

    rows        {"read", "kept", "dropped"}
    speed       {"seconds", "rows_per_second", "workers", "stages": {stage: {"seconds", "rows_per_second"}}};
                the seconds of a stage are of processor time, so its rate is per core
    funnel      {"stages": ["read", ...], "total": {stage: pairs left},
                 "categories": {category: {stage: pairs left}}}
    sources     {source: {"read", "kept", "languages": {"query": {code: share}, "positive": {code: share}}}}
    reasons     [{"stage", "reason", "about", "dropped", "applied", "categories": {category: pairs},
                 "samples": [...]}], in the order of the stages; `applied` also counts pairs that an earlier
                reason took
    scores      {"edges": [...], "minimum", "categories": {category: [pairs a bin]}}, where there is a teacher
    duplicates  {"compared", "similar", "undecided"}
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conan_embed.files import read_json
from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES
from conan_embed.filtering.rules import RULES
from conan_embed.filtering.steps import SCORE_BINS, STAGES, Run

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
    "evaluation_text": "a side equals an evaluation text",
    "near_evaluation_text": "a side nearly equals an evaluation text (Jaccard similarity)",
    "teacher_score": "cosine of query and positive under the teacher",
    "teacher_rank": "rank of the positive among the passages of its shard, by the teacher",
    **{rule.name: rule.about for rule in (*RULES, *PROMPT_RESPONSE_RULES)},
}


@dataclass(frozen=True)
class Summary:
    """Attributes:
    read, kept: pairs.
    path: `summary.json`.
    content: what it holds.
    """

    read: int
    kept: int
    path: Path
    content: dict[str, Any]


def summarise(run: Run, *, seconds: float, workers: int, join: dict[str, Any]) -> dict[str, Any]:
    """Add up the parts of all shards."""
    shards = [read_json(run.place("finish", shard.number) / "counts.json") for shard in run.shards]
    parts = [part for shard in shards for part in shard["parts"]]
    left: dict[str, Counter[str]] = defaultdict(Counter)
    for part in parts:
        for stage, counts in part.get("left", {}).items():
            left[stage].update(counts)
    stages = ["read", *(stage for stage in STAGES if stage in left)]
    # A category that a stage emptied is not in its counts, and is 0 there.
    categories = sorted(left["read"])
    total = {stage: left[stage].total() for stage in stages}
    spent: Counter[str] = Counter()
    for part in parts:
        spent.update(part.get("seconds", {}))
    spent["duplicates"] += join.get("seconds", 0.0)
    read, kept = total["read"], total[stages[-1]]
    summary = {
        "rows": {"read": read, "kept": kept, "dropped": read - kept},
        "speed": {
            "seconds": round(seconds, 2),
            "rows_per_second": round(read / seconds, 1) if seconds else None,
            "workers": workers,
            "stages": {
                stage: {"seconds": round(taken, 3), "rows_per_second": round(read / taken) if taken else None}
                for stage, taken in spent.items()
            },
        },
        "funnel": {
            "stages": stages,
            "total": total,
            "categories": {name: {stage: left[stage][name] for stage in stages} for name in categories},
        },
        "sources": _sources(shards),
        "reasons": _reasons(shards, parts, run.recipe.engine.samples),
        "duplicates": {name: join[name] for name in ("compared", "similar", "undecided") if name in join},
    }
    if run.recipe.teacher.model is not None:
        bins: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(SCORE_BINS, int))
        for shard in shards:
            for category, counts in shard["scores"].items():
                bins[category] += np.array(counts)
        summary["scores"] = {
            "edges": np.linspace(-1, 1, SCORE_BINS + 1).round(3).tolist(),
            "minimum": run.recipe.teacher.minimum,
            "categories": {category: bins[category].tolist() for category in sorted(bins)},
        }
    return summary


def _sources(shards: list[dict[str, Any]]) -> dict[str, Any]:
    read: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    languages: dict[str, dict[str, Counter[str]]] = {}
    for shard in shards:
        read.update(shard["parts"][0]["sources"])
        kept.update(shard["kept_sources"])
        for side, counts in shard["parts"][0]["languages"].items():
            for name, number in counts.items():
                source, code = name.split("\t")
                languages.setdefault(source, {}).setdefault(side, Counter())[code] += number
    return {
        source: {
            "read": read[source],
            "kept": kept[source],
            "languages": {
                side: {code: round(number / counts.total(), 4) for code, number in counts.most_common()}
                for side, counts in languages.get(source, {}).items()
            },
        }
        for source in sorted(read)
    }


def _reasons(
    shards: list[dict[str, Any]], parts: Iterable[dict[str, Any]], samples: int
) -> list[dict[str, Any]]:
    dropped: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for shard in shards:
        for stage, reason, category, _, number in shard["dropped"]:
            dropped[stage, reason][category] += number
    applied: Counter[str] = Counter()
    for part in parts:
        applied.update(part.get("applied", {}))
    shown: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for shard in shards:
        for sample in shard["samples"]:
            shown[sample["dropped_by"]].append(sample)
    order = list(ABOUT)
    place = {stage: number for number, stage in enumerate(STAGES)}
    return [
        {
            "stage": stage,
            "reason": reason,
            "about": ABOUT[reason],
            "dropped": counts.total(),
            "applied": max(applied[reason], counts.total()),
            "categories": dict(counts.most_common()),
            "samples": [
                {
                    key: sample[key]
                    for key in ("query", "positive", "category", "source", "value", "duplicate_of", "id")
                }
                for sample in sorted(shown[reason], key=lambda sample: sample["order"])[:samples]
            ],
        }
        for (stage, reason), counts in sorted(
            dropped.items(), key=lambda item: (place[item[0][0]], order.index(item[0][1]))
        )
    ]
