"""Every metric against a slow, obvious reference, ties included."""

import math
from collections import defaultdict

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from conan_embed.evaluation import metrics


def test_retrieval_metrics_equal_a_query_by_query_reference() -> None:
    rng = np.random.default_rng(0)
    num_queries, num_documents = 40, 150
    judged = [
        {int(d): float(rng.choice([-1, 0, 1, 2, 3])) for d in rng.choice(num_documents, size=1 + q % 30)}
        for q in range(num_queries)
    ]
    found = np.array([rng.permutation(num_documents)[:100] for _ in range(num_queries)])
    expected = defaultdict(list)
    for ranking, gains in zip(found.tolist(), judged, strict=True):
        relevant = {d for d, gain in gains.items() if gain > 0}
        dcg = sum(max(gains.get(d, 0), 0) / math.log2(rank + 1) for rank, d in enumerate(ranking[:10], 1))
        best = sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:10]
        ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, 1))
        expected["ndcg_at_10"].append(dcg / ideal if ideal else 0)
        for k in (10, 100):
            hits = len(relevant & set(ranking[:k]))
            expected[f"recall_at_{k}"].append(hits / len(relevant) if relevant else 0)
        ranks = [rank for rank, d in enumerate(ranking[:10], 1) if d in relevant]
        expected["mrr_at_10"].append(1 / ranks[0] if ranks else 0)
    assert any(
        not any(gain > 0 for gain in gains.values()) for gains in judged
    )  # a query with nothing relevant

    gains = np.array([[judged[q].get(d, 0) for d in found[q].tolist()] for q in range(num_queries)])
    query_of, gain_of = zip(*[(q, g) for q in range(num_queries) for g in judged[q].values()], strict=True)
    shuffled = rng.permutation(len(query_of))
    result = metrics.retrieval_metrics(gains, np.array(query_of)[shuffled], np.array(gain_of)[shuffled])
    assert result == pytest.approx({name: np.mean(values) for name, values in expected.items()}, abs=1e-12)


def reranking_reference(scores, relevant) -> tuple[float, float]:
    # False sorts before True: among equal scores the irrelevant candidate is first.
    ranking = [hit for _, hit in sorted(zip(-scores, relevant, strict=True))]
    precisions = [sum(ranking[: i + 1]) / (i + 1) for i, hit in enumerate(ranking) if hit]
    first = ranking.index(True) + 1
    return sum(precisions) / sum(ranking), 1 / first if first <= 10 else 0


@pytest.mark.parametrize("levels", [3, 10**6])  # many ties, or none
def test_reranking_metrics_equal_a_query_by_query_reference(levels: int) -> None:
    rng = np.random.default_rng(1)
    groups = []
    for size in range(2, 60):
        relevant = rng.permutation(size) < 1 + size // 10
        groups.append((rng.integers(levels, size=size) / levels, relevant))
    query = np.repeat(np.arange(len(groups)), [len(scores) for scores, _ in groups])
    scores, relevant = (np.concatenate(part) for part in zip(*groups, strict=True))
    result = metrics.reranking_metrics(query, scores, relevant)
    expected = np.mean([reranking_reference(*group) for group in groups], axis=0)
    assert list(result) == ["map_at_1000", "mrr_at_10"]
    np.testing.assert_allclose(list(result.values()), expected, atol=1e-12)
    if levels > 3:
        by_sklearn = np.mean([average_precision_score(relevant, scores) for scores, relevant in groups])
        assert result["map_at_1000"] == pytest.approx(by_sklearn, abs=1e-12)


def test_relevant_candidates_beyond_the_cut_find_no_credit() -> None:
    scores, relevant = -np.arange(1500.0), np.zeros(1500, dtype=bool)
    relevant[[0, 999, 1000]] = True
    result = metrics.reranking_metrics(np.zeros(1500, dtype=int), scores, relevant)
    assert result["map_at_1000"] == pytest.approx((1 / 1 + 2 / 1000) / 3, abs=1e-12)


def test_pair_cosines_are_cosines_and_equal_texts_are_exactly_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_PAIRS_BLOCK", 7)
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((30, 48)).astype(np.float32)
    first, second = rng.integers(30, size=(2, 50))
    exact = vectors.astype(float)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    cosines = metrics.pair_cosines(vectors, first, second)
    np.testing.assert_allclose(cosines, (exact[first] * exact[second]).sum(axis=1), atol=1e-6)
    assert set(metrics.pair_cosines(vectors, np.arange(30), np.arange(30)).tolist()) == {1.0}


def test_spearman_sees_only_the_order() -> None:
    rng = np.random.default_rng(3)
    cosine, score = rng.random(100), rng.integers(0, 6, size=100)
    result = metrics.sts_metrics(cosine, score)
    ranks_a = np.argsort(np.argsort(cosine))
    ranks_b = np.array([(score < s).sum() + ((score == s).sum() - 1) / 2 for s in score])  # ties: mean rank
    assert result["cosine_spearman"] == pytest.approx(np.corrcoef(ranks_a, ranks_b)[0, 1], abs=1e-12)
    assert result["cosine_pearson"] == pytest.approx(np.corrcoef(cosine, score)[0, 1], abs=1e-12)
    assert metrics.sts_metrics(np.exp(5 * cosine), score)["cosine_spearman"] == pytest.approx(
        result["cosine_spearman"], abs=1e-12
    )


def test_a_model_that_gives_one_cosine_to_all_pairs_scores_zero() -> None:
    assert metrics.sts_metrics(np.ones(5), np.arange(5.0))["cosine_spearman"] == 0


@pytest.mark.parametrize("levels", [4, 10**6])
def test_best_accuracy_is_that_of_the_best_threshold(levels: int) -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        cosine, positive = rng.integers(levels, size=12) / levels, rng.random(12) < 0.5
        if positive.all() or not positive.any():
            continue
        # Thresholds between two different cosines: taking all pairs, or none, is not a choice.
        thresholds = sorted(set(cosine))[1:]
        expected = max((np.mean((cosine >= threshold) == positive) for threshold in thresholds), default=0)
        result = metrics.pair_classification_metrics(cosine, positive)
        assert result["cosine_accuracy"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("samples_per_label", [1, 8, 100])
def test_few_shot_samples_are_those_of_one_list_shuffled_again_and_again(samples_per_label: int) -> None:
    rng = np.random.default_rng(5)
    labels = rng.choice(["猫", "a", "b", "rare"], p=[0.5, 0.3, 0.17, 0.03], size=200).tolist()
    rows = list(range(len(labels)))
    samples = metrics.few_shot_samples(labels, samples_per_label)
    assert len(samples) == 10
    for sample in samples:
        np.random.RandomState(42).shuffle(rows)
        taken, counts = [], defaultdict(int)
        for row in rows:
            if counts[labels[row]] < samples_per_label:
                counts[labels[row]] += 1
                taken.append(row)
        assert sample.tolist() == taken


def clusters(num: int, spread: float, seed: int):
    rng = np.random.default_rng(seed)
    centres = np.eye(8, dtype=np.float32)[:4]
    labels = rng.integers(4, size=num)
    return centres[labels] + spread * rng.standard_normal((num, 8)).astype(np.float32), labels.astype(str)


def test_separate_classes_are_classified_and_clustered_without_error() -> None:
    (train, train_labels), (test, test_labels) = clusters(200, 0.01, seed=6), clusters(100, 0.01, seed=7)
    assert metrics.few_shot_metrics(train, train_labels, test, test_labels, 8) == {"accuracy": 1.0, "f1": 1.0}
    assert metrics.full_train_accuracy(train, train_labels, test, test_labels) == 1.0
    assert metrics.v_measure(test, test_labels) == pytest.approx(1.0)


def test_classes_that_overlap_gain_from_more_labelled_texts() -> None:
    (train, train_labels), (test, test_labels) = clusters(2000, 0.6, seed=8), clusters(1000, 0.6, seed=9)
    few = metrics.few_shot_metrics(train, train_labels, test, test_labels, 4)["accuracy"]
    more = metrics.few_shot_metrics(train, train_labels, test, test_labels, 32)["accuracy"]
    full = metrics.full_train_accuracy(train, train_labels, test, test_labels)
    assert few < more < full < 1
    assert metrics.v_measure(test, test_labels) < 1
    single = [metrics.v_measure(test, test_labels, metrics.SEED + run) for run in range(10)]
    assert (
        metrics.mean_v_measure(test, test_labels) == pytest.approx(np.mean(single)) and len(set(single)) > 1
    )


def test_bitext_metrics_look_both_ways() -> None:
    first = np.eye(4, dtype=np.float32)
    second = np.eye(4, dtype=np.float32)
    second[2] = [0, 0.6, 0.8, 0]  # still nearest to row 2, and row 2 to it
    second[3] = [0, 0.9, 0, 0.1]  # row 3 finds it all the same, but its own nearest is row 1
    result = metrics.bitext_metrics(first, second, ("zh", "en"))
    assert (result["accuracy"], result["f1"]) == (1, 1)
    assert result["accuracy_en_zh"] == 0.75
    # Predicted rows 0, 1, 2, 1: row 1 has precision 1/2, row 3 is never predicted.
    assert result["f1_en_zh"] == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)


def test_pseudo_values_of_a_mean_are_its_rows_and_of_a_correlation_vary_as_it_does():
    generator = np.random.default_rng(0)
    values = generator.normal(size=60)
    np.testing.assert_allclose(metrics.pseudo_values(lambda rows: values[rows].mean(), 60), values)

    def correlation(pairs):
        return lambda rows: metrics.sts_metrics(pairs[rows, 0], pairs[rows, 1])["cosine_spearman"]

    def draw():
        common = generator.normal(size=(400, 1))
        return common + generator.normal(size=(400, 2))

    repeated = [correlation(draw())(np.arange(400)) for _ in range(300)]
    errors = [np.std(metrics.pseudo_values(correlation(draw()), 400), ddof=1) / 10 for _ in range(20)]
    assert np.mean(errors) == pytest.approx(np.std(repeated), rel=0.15)
