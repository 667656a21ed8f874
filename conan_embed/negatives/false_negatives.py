"""The hardest negatives of a run with their scores, and those among them that a person should label.

At its end, `train` writes them into `hard_negatives.jsonl`, for the report; `conan-embed suspects RUN` looks at more
pairs of a finished run, and writes the suspects for a person to label (run.py). Both embed only the texts of the
likeliest pairs (negatives/suspects.py).

A line of either file: data_set, query, positive, negative (the texts), positive_score and negative_score (cosines under
the trained model), mined_positive_score and mined_negative_score (under the one that mined; null where the negative
was not mined), rank when mined, in_use, suspect, label (empty, for a person).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conan_embed.files import write_text
from conan_embed.negatives import mining
from conan_embed.negatives.mining import Embed
from conan_embed.negatives.table import NegativeTable
from conan_embed.negatives.used_pairs import UsedPairs, highest, likeliest
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset

MARGIN = (
    0.05  # a cosine; at a temperature of 0.02 such a negative weighs 8 % of the positive, exp(-0.05 / 0.02)
)
_POSITIVES = 20  # of a query that are compared; where a class is the positive, there are thousands

Line = dict[str, Any]


def hard_negatives(
    sets: Sequence[RetrievalDataset],
    store: TextStore,
    table: NegativeTable,
    rankings: Path,
    embed: Embed,
    *,
    limit: int = 200,
    margin: float = MARGIN,
) -> list[Line]:
    """Return the hardest negatives that a run used, those nearest to their positive first; for a line see the module.

    Args:
        sets: the data sets, in the order of the table's rows.
        rankings: the run's folder of mined rankings.
        embed: with the trained model; every process must call this, and gets the same lines.
        limit: pairs to look at, half of them found by the model that mined, half by the scores that training saw.
        margin: a negative is suspect that the trained model puts at most this far below its positive (cosine), or that
            the model that mined put above it.
    """
    found: list[tuple[RetrievalDataset, UsedPairs]] = []
    first = 0
    for data in sets:
        mined = data.negative_source == "mined"
        progress = f"{data.name}: hardest negatives"
        ranking = mining.load_ranking(rankings, data, store) if mined else None
        found.append((data, likeliest(table, first, len(data), ranking, limit, progress=progress)))
        first += len(data)
    lines = []
    for (data, pairs), chosen in zip(found, _chosen([pairs for _, pairs in found], limit), strict=True):
        if chosen.any():
            lines += _lines(data, store, pairs.take(chosen), embed, margin)
    return sorted(lines, key=lambda line: line["positive_score"] - line["negative_score"])


def _chosen(sets: list[UsedPairs], limit: int) -> list[np.ndarray]:
    """Masks over the pairs of each set: the likeliest over all sets, half by mining and half by training."""
    pairs = UsedPairs.joined(sets)
    chosen_P = np.zeros(len(pairs), bool)
    chosen_P[highest(pairs.nearness_P, limit // 2)] = True
    others_P = np.where(chosen_P, np.nan, pairs.observed_P)
    chosen_P[highest(others_P, limit - int(chosen_P.sum()))] = True
    return np.split(chosen_P, np.cumsum([len(each) for each in sets])[:-1])


def _lines(
    data: RetrievalDataset, store: TextStore, pairs: UsedPairs, embed: Embed, margin: float
) -> list[Line]:
    query_P = data.query_Q[pairs.row_P]
    place, positives = data.positives.rows(data.list_Q[pairs.row_P])
    # A text of a class is in its own list of positives, and nearest to itself.
    keep = store.content[positives] != store.content[query_P[place]]
    keep &= np.arange(len(place)) - np.searchsorted(place, place) <= _POSITIVES
    place, positives = place[keep], positives[keep]
    texts, inverse = np.unique(np.concatenate([query_P, pairs.negative_P, positives]), return_inverse=True)
    rows = embed(texts, f"{data.name}: hard negatives").cpu().numpy()[inverse]
    num = len(pairs)
    query_PD, negative_PD, positive_XD = rows[:num], rows[num : 2 * num], rows[2 * num :]
    negative_P = (query_PD * negative_PD).sum(axis=1)
    score_X = (query_PD[place] * positive_XD).sum(axis=1)
    # The best positive of each pair: the last of its stretch once sorted by score within it.
    order = np.lexsort((score_X, place))
    best_P = order[np.searchsorted(place[order], np.arange(num), side="right") - 1]
    lines = []
    for p in range(num):
        scores = (score_X[best_P[p]], negative_P[p], pairs.mined_positive_P[p], pairs.mined_P[p])
        positive, negative, mined_positive, mined_negative = (_number(score) for score in scores)
        lines.append(
            {
                "data_set": data.name,
                "query": store.text(int(query_P[p])),
                "positive": store.text(int(positives[best_P[p]])),
                "negative": store.text(int(pairs.negative_P[p])),
                "positive_score": positive,
                "negative_score": negative,
                "mined_positive_score": mined_positive,
                "mined_negative_score": mined_negative,
                "rank": int(pairs.rank_P[p]) if pairs.rank_P[p] >= 0 else None,
                "in_use": bool(pairs.in_use_P[p]),
                "suspect": _is_near(negative, positive, margin)
                or _is_near(mined_negative, mined_positive, 0.0),
                "label": "",
            }
        )
    return lines


def _is_near(negative: float | None, positive: float | None, margin: float) -> bool:
    return negative is not None and positive is not None and negative >= positive - margin


def _number(score: float) -> float | None:
    return None if np.isnan(score) else round(float(score), 4)


def write_lines(path: Path, lines: list[Line]) -> None:
    """Write lines as JSON."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
