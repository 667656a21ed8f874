"""The metrics of mteb, as functions of arrays.

Definitions, constants and treatment of ties are those of mteb 2 (and of pytrec_eval, scipy and
scikit-learn below it), so figures can be put beside a leaderboard: same names, fractions of one, nothing
rounded. What mteb computes query by query is computed here over all queries at once.

Shapes: Q queries, K ranks, J judgements, T candidates of all queries, P pairs, N texts, D width.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, v_measure_score
from sklearn.metrics.pairwise import paired_cosine_distances

from conan_embed.search.exact import search_vectors

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

RETRIEVAL_DEPTH = 100  # ranks that the retrieval metrics look at
RERANKING_DEPTH = 1000  # mteb's cut of a reranked list
NUM_EXPERIMENTS = 10  # few-shot classifiers whose accuracies are averaged
SEED = 42  # of mteb: which training texts an experiment draws, where the cluster centres start
_PAIRS_BLOCK = 1 << 16  # pairs compared at once


def retrieval_metrics(gains_QK: Floats, judged_query_J: Integers, judged_gain_J: Floats) -> dict[str, float]:
    """Return nDCG@10, recall@10, recall@100 and MRR@10, as pytrec_eval (and mteb for MRR) define them.

    nDCG has linear gains and the discount 1 / log2(rank + 1); recall divides by all relevant documents,
    also where there are more than the cut. A query without a relevant document counts as 0.

    Args:
        gains_QK: relevance of the document found at each rank, 0 where it was not judged; ranks fall with
            similarity, ties with the larger document id first.
        judged_query_J, judged_gain_J: query (index below Q) and relevance of every judgement.
    """
    num_relevant_Q = np.bincount(judged_query_J, judged_gain_J > 0, minlength=len(gains_QK))
    relevant_QK = gains_QK > 0
    rank_Q = np.where(relevant_QK[:, :10].any(axis=1), relevant_QK[:, :10].argmax(axis=1) + 1, np.inf)
    return {
        "ndcg_at_10": float(np.mean(ndcg_by_query(gains_QK, judged_query_J, judged_gain_J))),
        "recall_at_10": _mean_ratio(relevant_QK[:, :10].sum(axis=1), num_relevant_Q),
        "recall_at_100": _mean_ratio(relevant_QK[:, :100].sum(axis=1), num_relevant_Q),
        "mrr_at_10": float(np.mean(1 / rank_Q)),
    }


def ndcg_by_query(gains_QK: Floats, judged_query_J: Integers, judged_gain_J: Floats) -> Floats:
    """Return nDCG@10 of every query, float64 `[Q]`; arguments and definition as for `retrieval_metrics`."""
    gains_QK, judged_gain_J = np.maximum(gains_QK, 0), np.maximum(judged_gain_J, 0)
    discount_K = 1 / np.log2(np.arange(2, 12))
    order = np.lexsort((-judged_gain_J, judged_query_J))
    query_J, gain_J = judged_query_J[order], judged_gain_J[order]
    rank_J = _position_in_group(query_J)
    first = rank_J < 10
    ideal_Q = np.bincount(query_J[first], gain_J[first] * discount_K[rank_J[first]], minlength=len(gains_QK))
    return _ratio(gains_QK[:, :10] @ discount_K[: gains_QK.shape[1]], ideal_Q)


def reranking_metrics(query_T: Integers, scores_T: Floats, relevant_T: NDArray[np.bool_]) -> dict[str, float]:
    """Return MAP and MRR@10 of lists of candidates, each put in order by its scores.

    Among equal scores the irrelevant candidate goes first: this is what pytrec_eval makes of mteb's
    candidate ids.

    Args:
        query_T: query of each candidate, from 0 without gaps; each has at least one relevant candidate.
        scores_T, relevant_T: similarity to the query, and whether it is relevant.
    """
    precision_Q = map_by_query(query_T, scores_T, relevant_T)
    query_T, relevant_T, rank_T, found_T = _ranked(query_T, scores_T, relevant_T)
    first_T = relevant_T & (found_T == 1) & (rank_T <= 10)
    return {
        f"map_at_{RERANKING_DEPTH}": float(np.mean(precision_Q)),
        "mrr_at_10": float(np.bincount(query_T, np.where(first_T, 1 / rank_T, 0)).mean()),
    }


def map_by_query(query_T: Integers, scores_T: Floats, relevant_T: NDArray[np.bool_]) -> Floats:
    """Return the average precision of every query, float64 `[Q]`; arguments as for `reranking_metrics`."""
    query_T, relevant_T, rank_T, found_T = _ranked(query_T, scores_T, relevant_T)
    counted_T = relevant_T & (rank_T <= RERANKING_DEPTH)
    precision_Q = np.bincount(query_T, np.where(counted_T, found_T / rank_T, 0))
    return _ratio(precision_Q, np.bincount(query_T, relevant_T))


def _ranked(
    query_T: Integers, scores_T: Floats, relevant_T: NDArray[np.bool_]
) -> tuple[Integers, NDArray[np.bool_], Integers, Integers]:
    """The candidates in order: query, relevance, rank from 1, and how many relevant ones stand so far."""
    order = np.lexsort((relevant_T, -scores_T, query_T))
    query_T, relevant_T = query_T[order], relevant_T[order]
    num_relevant_Q = np.bincount(query_T, relevant_T)
    before_Q = np.cumsum(num_relevant_Q) - num_relevant_Q
    found_T = np.cumsum(relevant_T) - before_Q[query_T]
    return query_T, relevant_T, _position_in_group(query_T) + 1, found_T.astype(np.int64)


def pair_cosines(vectors_ND: Floats, first_P: Integers, second_P: Integers) -> Floats:
    """Return the cosine of rows `first_P` and `second_P` of `vectors_ND`, float32 `[P]`.

    Through scikit-learn's distance, as mteb does: a text is then exactly as near to itself as any other
    text to itself, and rank correlations depend on such ties.
    """
    blocks = range(0, len(first_P), _PAIRS_BLOCK)
    distances = [
        paired_cosine_distances(
            vectors_ND[first_P[i : i + _PAIRS_BLOCK]], vectors_ND[second_P[i : i + _PAIRS_BLOCK]]
        )
        for i in blocks
    ]
    return 1 - np.concatenate(distances)


def sts_metrics(cosine_P: Floats, score_P: Floats) -> dict[str, float]:
    """Return Spearman's and Pearson's correlation of cosines and gold scores; 0 where one is constant."""
    if np.ptp(cosine_P) == 0 or np.ptp(score_P) == 0:
        return {"cosine_spearman": 0.0, "cosine_pearson": 0.0}
    return {
        "cosine_spearman": float(stats.spearmanr(score_P, cosine_P).statistic),
        "cosine_pearson": float(stats.pearsonr(score_P, cosine_P).statistic),
    }


def pair_classification_metrics(cosine_P: Floats, positive_P: NDArray[np.bool_]) -> dict[str, float]:
    """Return average precision, and the accuracy at the best threshold (which lies between two pairs).

    Without a positive pair the average precision is 0.
    """
    order = np.argsort(-cosine_P, kind="stable")
    cosine, positive = cosine_P[order], positive_P[order]
    num_right_P = np.cumsum(positive) + np.count_nonzero(~positive) - np.cumsum(~positive)
    between = cosine[:-1] != cosine[1:]  # a threshold cannot part equal cosines
    best = num_right_P[:-1][between].max(initial=0)
    return {
        "cosine_ap": float(average_precision_score(positive_P, cosine_P)) if positive_P.any() else 0.0,
        "cosine_accuracy": float(best / len(cosine_P)),
    }


def pseudo_values(metric: Callable[[Integers], float], num_rows: int) -> Floats:
    """Return numbers whose mean is the metric of all rows, and which vary as its parts do, `[at most 100]`.

    For what is not a mean over rows (a rank correlation, an average precision): the rows are dealt into 100 parts, and
    each part is given what the metric loses without it (the jackknife's pseudo-values, centred).

    Args:
        metric: of the rows with these numbers.
    """
    num_parts = min(100, num_rows)
    rows = np.arange(num_rows)
    whole = metric(rows)
    without = np.array([metric(rows[rows % num_parts != part]) for part in range(num_parts)])
    return whole + (num_parts - 1) * (without.mean() - without)


def few_shot_metrics(
    train_ND: Floats, train_labels: ArrayLike, test_ND: Floats, test_labels: ArrayLike, samples_per_label: int
) -> dict[str, float]:
    """Return mteb's accuracy and macro F1: means over ten logistic regressions on a few texts a label."""
    scores = []
    train_labels = np.asarray(train_labels)
    for sample in few_shot_samples(train_labels, samples_per_label):
        predicted = _logistic_regression(train_ND[sample], train_labels[sample]).predict(test_ND)
        scores.append(
            (accuracy_score(test_labels, predicted), f1_score(test_labels, predicted, average="macro"))
        )
    accuracy, f1 = np.mean(scores, axis=0)
    return {"accuracy": float(accuracy), "f1": float(f1)}


def few_shot_samples(labels: ArrayLike, samples_per_label: int) -> list[Integers]:
    """Return the training rows of each experiment, drawn as mteb draws them.

    The list of row numbers is shuffled again before every experiment, each time with the same fresh
    generator; the first `samples_per_label` rows of each label are taken (all of them where there are
    fewer).
    """
    _, label_N = np.unique(np.asarray(labels), return_inverse=True)
    rows = np.arange(len(label_N))
    samples: list[Integers] = []
    for _ in range(NUM_EXPERIMENTS):
        np.random.RandomState(SEED).shuffle(rows)
        by_label = np.argsort(label_N[rows], kind="stable")
        chosen = by_label[_position_in_group(label_N[rows][by_label]) < samples_per_label]
        samples.append(rows[np.sort(chosen)])
    return samples


def full_train_accuracy(
    train_ND: Floats, train_labels: ArrayLike, test_ND: Floats, test_labels: ArrayLike
) -> float:
    """Return the accuracy of the same logistic regression fitted on every training text."""
    predicted = _logistic_regression(train_ND, np.asarray(train_labels)).predict(test_ND)
    return float(accuracy_score(test_labels, predicted))


def _logistic_regression(vectors_ND: Floats, labels: NDArray[Any]) -> LogisticRegression:
    with warnings.catch_warnings():
        # Stopping after 100 iterations is part of the protocol.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=100, random_state=SEED).fit(vectors_ND, labels)


def v_measure(vectors_ND: Floats, labels: ArrayLike, seed: int = SEED) -> float:
    """Return the V-measure of one mini-batch k-means with as many clusters as there are labels."""
    kmeans = MiniBatchKMeans(
        n_clusters=len(np.unique(np.asarray(labels))), batch_size=500, n_init="auto", random_state=seed
    )
    return float(v_measure_score(labels, kmeans.fit(vectors_ND).labels_))


def mean_v_measure(vectors_ND: Floats, labels: ArrayLike) -> float:
    """Return the mean V-measure of ten k-means, the first of which is mteb's.

    One k-means of 2,000 texts moves by 1.4 points (standard deviation) with its own seed, more than models differ.
    """
    return float(np.mean([v_measure(vectors_ND, labels, SEED + run) for run in range(10)]))


def bitext_metrics(first_ND: Floats, second_ND: Floats, names: tuple[str, str]) -> dict[str, float]:
    """Return F1 and accuracy of finding, for a text of one side, its own translation as the nearest of the other.

    `f1` and `accuracy` search the second side for each text of the first, as mteb does; `f1_B_A` and `accuracy_B_A`
    (sides named `names`) go the other way. Weighted F1, as in mteb.
    """
    first, second = torch.from_numpy(first_ND), torch.from_numpy(second_ND)
    back = _nearest_metrics(second, first)
    return _nearest_metrics(first, second) | {f"{m}_{names[1]}_{names[0]}": back[m] for m in back}


def _nearest_metrics(source: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    right = np.arange(len(source))
    nearest = search_vectors(source, target, 1)[1][:, 0].numpy()
    return {
        "f1": float(f1_score(right, nearest, average="weighted", zero_division=0)),
        "accuracy": float(accuracy_score(right, nearest)),
    }


def _position_in_group(sorted_groups: Integers) -> Integers:
    """Return how many equal elements precede each element of a sorted array."""
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))  # groups are numbered from 0
    lengths = np.diff(starts, append=len(sorted_groups))
    return np.arange(len(sorted_groups)) - np.repeat(starts, lengths)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Return `part / whole`, 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def _mean_ratio(part: NDArray[Any], whole: NDArray[Any]) -> float:
    return float(np.mean(_ratio(part, whole)))
