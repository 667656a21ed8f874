"""The hardest negatives of a run with their scores, and those among them that a person should label.

At its end, `train` writes them into `hard_negatives.jsonl`, for the report; `conan-embed false-negatives RUN`
(training/false_negatives.py) checks more pairs of a finished run, and writes the suspect ones for a person to label.
Both embed only the texts of the likeliest pairs (used_pairs.py).

Shapes: P pairs of a query and a negative, X pairs of a query and a positive, D width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conan_embed.negatives.embedding import Embed
from conan_embed.negatives.rankings import load_ranking
from conan_embed.negatives.table import NegativeTable
from conan_embed.negatives.used_pairs import UsedPairs, highest, likeliest
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset

# A cosine; at a temperature of 0.02 such a negative weighs 8 % of the positive, exp(-0.05 / 0.02).
MARGIN = 0.05
_MAX_POSITIVES = 20  # of a query that are compared; where a class is the positive, there are thousands


@dataclass(frozen=True)
class HardNegative:
    """A negative that a run used, beside the best positive of its query: a line of hard_negatives.jsonl.

    Attributes:
        data_set: name of the data set.
        query, positive, negative: the texts.
        positive_score, negative_score: cosines with the query under the trained model.
        mined_positive_score, mined_negative_score: the same under the model that mined; None where it was not mined.
        rank: when it was mined, from 0; None where it was not.
        in_use: was it in use at the end?
        suspect: may it be an answer that nobody labelled?
        label: "positive" where it answers the query, "negative" where it does not; empty: for a person or a judge.
        judge_gap: the score of the negative less that of the positive, of a cross-encoder that judged.
    """

    data_set: str
    query: str
    positive: str
    negative: str
    positive_score: float
    negative_score: float
    mined_positive_score: float | None
    mined_negative_score: float | None
    rank: int | None
    in_use: bool
    suspect: bool
    label: str = ""
    judge_gap: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def hard_negatives(
    sets: Sequence[RetrievalDataset],
    store: TextStore,
    table: NegativeTable,
    rankings: Path,
    embed: Embed,
    *,
    limit: int = 200,
    margin: float = MARGIN,
) -> list[HardNegative]:
    """Return the hardest negatives that a run used, those nearest to their positive first.

    Classification is left out: texts of other classes are no answers that nobody labelled.

    Args:
        sets: the data sets, in the order of the table's rows.
        rankings: the run's folder of mined rankings.
        embed: with the trained model; every process must call this, and gets the same result.
        limit: pairs to look at, half of them found by the model that mined, half by the scores that training saw.
        margin: a negative is suspect that the trained model puts at most this far below its positive (cosine), or that
            the model that mined put above it.
    """
    candidates: list[UsedPairs] = []
    first = 0
    for data in sets:
        if data.has_labels:  # texts of other classes are no answers
            first += len(data)
            continue
        mined = data.negative_source == "mined"
        progress = f"{data.name}: hardest negatives"
        ranking = load_ranking(rankings, data, store) if mined else None
        candidates.append(likeliest(table, first, data.query_Q, ranking, limit, progress=progress))
        first += len(data)
    hardest = []
    unlabelled = [data for data in sets if not data.has_labels]
    for data, pairs, chosen in zip(unlabelled, candidates, _choose(candidates, limit), strict=True):
        if chosen.any():
            hardest += _score(data, store, pairs.take(chosen), embed, margin)
    return sorted(hardest, key=lambda pair: pair.positive_score - pair.negative_score)


def _choose(sets: list[UsedPairs], limit: int) -> list[np.ndarray]:
    """Return masks over the pairs of each set: the likeliest over all sets, half by mining and half by training."""
    if not sets:
        return []
    pairs = UsedPairs.joined(sets)
    chosen_P = np.zeros(len(pairs), bool)
    chosen_P[highest(pairs.nearness_P, limit // 2)] = True
    others_P = np.where(chosen_P, np.nan, pairs.observed_P)
    chosen_P[highest(others_P, limit - int(chosen_P.sum()))] = True
    return np.split(chosen_P, np.cumsum([len(each) for each in sets])[:-1])


def _score(
    data: RetrievalDataset, store: TextStore, pairs: UsedPairs, embed: Embed, margin: float
) -> list[HardNegative]:
    """Embed the texts of these pairs, and put each negative beside the best positive of its query."""
    query_P = data.query_Q[pairs.row_P]
    pair_X, positive_X = first_positives(data, store, pairs.row_P)
    texts, inverse = np.unique(np.concatenate([query_P, pairs.negative_P, positive_X]), return_inverse=True)
    vectors = embed(texts, f"{data.name}: hard negatives").cpu().numpy()[inverse]
    query_PD, negative_PD, positive_XD = np.split(vectors, [len(pairs), 2 * len(pairs)])
    negative_score_P, score_X, best_P = beside_best_positive(query_PD, negative_PD, positive_XD, pair_X)
    hardest = []
    for p in range(len(pairs)):
        positive, negative = round(float(score_X[best_P[p]]), 4), round(float(negative_score_P[p]), 4)
        mined_positive, mined_negative = _number(pairs.mined_positive_P[p]), _number(pairs.mined_P[p])
        hardest.append(
            HardNegative(
                data_set=data.name,
                query=store.text(int(query_P[p])),
                positive=store.text(int(positive_X[best_P[p]])),
                negative=store.text(int(pairs.negative_P[p])),
                positive_score=positive,
                negative_score=negative,
                mined_positive_score=mined_positive,
                mined_negative_score=mined_negative,
                rank=int(pairs.rank_P[p]) if pairs.rank_P[p] >= 0 else None,
                in_use=bool(pairs.in_use_P[p]),
                suspect=_is_near(negative, positive, margin) or _is_near(mined_negative, mined_positive, 0.0),
            )
        )
    return hardest


def first_positives(
    data: RetrievalDataset, store: TextStore, row_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positives that the queries `row_P` are compared with: int64 [X] pair, int64 [X] text id.

    (A text of a class is in its own list of positives, and nearest to itself: it is left out.)
    """
    pair_X, positive_X = data.positives.rows(data.list_Q[row_P])
    other_X = store.content[positive_X] != store.content[data.query_Q[row_P][pair_X]]
    pair_X, positive_X = pair_X[other_X], positive_X[other_X]
    first_X = np.arange(len(pair_X)) - np.searchsorted(pair_X, pair_X) < _MAX_POSITIVES
    return pair_X[first_X], positive_X[first_X]


def beside_best_positive(
    query_PD: np.ndarray, negative_PD: np.ndarray, positive_XD: np.ndarray, pair_X: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cosine of each negative [P], of each positive [X], and the position of each pair's best positive [P].

    Args:
        query_PD, negative_PD, positive_XD: float, rows of length 1.
        pair_X: the pair of each positive, ascending (`first_positives`).
    """
    score_X = (query_PD[pair_X] * positive_XD).sum(axis=1)
    return (query_PD * negative_PD).sum(axis=1), score_X, best_of_pairs(pair_X, score_X, len(query_PD))


def best_of_pairs(pair_X: np.ndarray, score_X: np.ndarray, num_pairs: int) -> np.ndarray:
    """Return for each pair the position of its highest score, int64 [P]; `pair_X` is in ascending order."""
    order_X = np.lexsort((score_X, pair_X))
    return order_X[np.searchsorted(pair_X[order_X], np.arange(num_pairs), side="right") - 1]


def _is_near(negative: float | None, positive: float | None, margin: float) -> bool:
    return negative is not None and positive is not None and negative >= positive - margin


def _number(score: float) -> float | None:
    return None if np.isnan(score) else round(float(score), 4)
