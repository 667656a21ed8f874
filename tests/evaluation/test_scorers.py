"""Each type of task from its file to its scores, against slow references on the same vectors; sets at their edges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from conan_embed.errors import UserError
from conan_embed.evaluation.discovery import LocalTask, discover
from conan_embed.evaluation.scorers import gains, scorer_of
from conan_embed.evaluation.sets import RetrievalSet
from conan_embed.evaluation.stored import Stored
from tests.support.evaluation_fakes import BagOfWords, small_tables, write_tables

Write = Callable[..., LocalTask]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the tables of one set, by path without suffix; return its task."""

    def write_set(tables: dict[str, list[dict[str, Any]]]) -> LocalTask:
        [task] = discover(write_tables(tmp_path, tables))
        return task

    return write_set


def vectors(texts: list[str], prompt: str, width: int | None = None) -> NDArray[np.float64]:
    """What the model says of each text, one after the other; a width is a prefix, normalised anew."""
    model = BagOfWords()
    rows = [model.encode([text], prompt=model.prompts[prompt])[0, :width].astype(float) for text in texts]
    return np.array([row / np.sqrt((row**2).sum()) for row in rows])


# ------------------------------------------------------------------------------------------------ retrieval


def retrieval(corpus: dict[str, str], queries: dict[str, str], qrels: list[tuple[str, str, float]]) -> dict:
    return {
        "retrieval/小集/corpus": [{"doc_id": name, "text": text} for name, text in corpus.items()],
        "retrieval/小集/queries": [{"query_id": name, "text": text} for name, text in queries.items()],
        "retrieval/小集/qrels": [{"query_id": q, "doc_id": d, "score": s} for q, d, s in qrels],
    }


@pytest.mark.parametrize("width", [None, 3])
def test_retrieval_ranks_by_cosine_and_equal_texts_by_falling_id(write: Write, width: int | None) -> None:
    corpus = {"a": "猫 狗", "b": "river stone", "c": "猫 狗", "d": "猫 bread", "e": "river 狗", "f": "猫 狗"}
    queries = {"x": "猫 狗", "y": "stone river bread"}
    scorer = scorer_of(BagOfWords(), write(retrieval(corpus, queries, [("x", "a", 1), ("y", "b", 1)])), None)
    names = sorted(corpus, reverse=True)
    for query, found_K in zip(queries.values(), scorer.found(width), strict=True):
        cosine = dict(
            zip(
                corpus,
                vectors(list(corpus.values()), "passage", width) @ vectors([query], "query", width)[0],
                strict=True,
            )
        )
        expected = sorted(names, key=lambda name: -cosine[name].round(6))  # stable: the larger id first
        assert [names[number] for number in found_K[: len(names)]] == expected
        assert (found_K[len(names) :] == -1).all()


def test_gains_are_looked_up_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    num_queries, num_documents = 7, 11
    pairs = rng.permutation(num_queries * num_documents)[:30]
    query_J, document_J = np.divmod(pairs, num_documents)
    document_J[:5] = -1  # judged, but not in the corpus
    data = RetrievalSet(
        queries=[""] * num_queries,
        documents=[""] * num_documents,
        judged_query=query_J,
        judged_document=document_J,
        judged_gain=rng.integers(-1, 4, 30).astype(float),
        excluded_document=np.full(num_queries, -1),
    )
    found_QK = rng.integers(-1, num_documents, (num_queries, 20))
    gain = dict(zip(zip(query_J, document_J, strict=True), data.judged_gain, strict=True))
    expected = [
        [gain.get((query, document), 0.0) if document >= 0 else 0.0 for document in row]
        for query, row in enumerate(found_QK)
    ]
    np.testing.assert_array_equal(gains(found_QK, data), expected)


def test_a_limit_may_leave_a_query_whose_documents_are_all_missing(write: Write) -> None:
    """It scores 0, as among others, wherever it stands."""
    queries = {f"q{number}": "猫" for number in range(8)}
    judged = [(name, "d" if name == "q7" else "gone", 1) for name in queries]
    task = write(retrieval({"d": "猫", "e": "狗"}, queries, judged))
    whole = scorer_of(BagOfWords(), task, None)
    assert whole.scores(None)["ndcg_at_10"] == pytest.approx(1 / 8)
    np.testing.assert_array_equal(whole.items(), [0.0] * 7 + [1.0])
    one = scorer_of(BagOfWords(), task, 1)
    assert one.rows == 1 and set(one.data.judged_document) == {-1}, "the case that is tested here"
    assert set(one.scores(None).values()) == {0.0}


# ------------------------------------------------------------------------------- reranking and pairs


def average_precision(relevant: list[bool]) -> float:
    ranks = [rank for rank, is_relevant in enumerate(relevant, 1) if is_relevant]
    return sum(found / rank for found, rank in enumerate(ranks, 1)) / len(ranks)


@pytest.mark.parametrize("width", [None, 5])
def test_reranking_orders_each_list_by_itself_and_ties_count_against_the_model(
    write: Write, width: int | None
) -> None:
    rows = [
        *small_tables()["reranking/Small"],
        {"query": "猫", "positive": ["猫"], "negative": ["猫", "狗"]},  # a tie at the top
        {"query": "猫", "positive": ["鱼", "狗"], "negative": ["猫"]},  # an equal query, another list
        {"query": "left out", "positive": [], "negative": ["猫"]},
    ]
    scorer = scorer_of(BagOfWords(), write({"reranking/Small": rows}), None)
    expected = []
    for row in rows[:-1]:
        query = vectors([row["query"]], "query", width)[0]
        candidates = [(text, True) for text in row["positive"]] + [(text, False) for text in row["negative"]]
        cosines = vectors([text for text, _ in candidates], "passage", width) @ query
        relevant = (is_relevant for _, is_relevant in candidates)
        ranked = sorted(zip(-cosines.round(5), relevant, strict=True))
        expected.append(average_precision([is_relevant for _, is_relevant in ranked]))
    assert scorer.rows == len(expected) == len(rows) - 1
    assert scorer.scores(width)["map_at_1000"] == pytest.approx(np.mean(expected))
    if width is None:
        np.testing.assert_allclose(scorer.items(), expected)


@pytest.mark.parametrize("form", [None, 6, Stored("binary", 32)])
def test_sts_correlates_the_cosines_of_the_pairs_with_their_scores(write: Write, form: Any) -> None:
    rows = small_tables()["sts/Small"]
    rows += [{"text_a": "猫", "text_b": "猫", "score": 9.0}, {"text_a": "狗", "text_b": "狗", "score": 3.0}]
    scores = scorer_of(BagOfWords(), write({"sts/Small": rows}), None).scores(form)
    width = None if isinstance(form, Stored) else form
    first, second = (vectors([row[side] for row in rows], "sts", width) for side in ("text_a", "text_b"))
    if isinstance(form, Stored):  # bits: how many agree, of 32
        first, second = (np.where(side > 0, 1, -1) for side in (first, second))
    gold = [row["score"] for row in rows]
    expected = stats.spearmanr((first * second).sum(axis=1).round(9), gold).statistic
    assert scores["cosine_spearman"] == pytest.approx(expected, abs=1e-6)


def pairs(*labels: int) -> list[dict[str, Any]]:
    """The farther down, the less the two texts have in common."""
    texts = [
        "猫 狗 鱼 树",
        "猫 狗 鱼 stone",
        "猫 狗 river stone",
        "猫 river stone bread",
        "light river stone bread",
    ]
    return [
        {"text_a": "猫 狗 鱼 树", "text_b": text, "score": label}
        for text, label in zip(texts, labels, strict=False)
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [(1, 0, 1, 0, 0), (0, 1), (1, 0, 0, 0, 0), (0, 0, 0, 0, 1)])
def test_items_of_pairs_have_the_score_as_their_mean_though_a_part_may_hold_all_positives(
    write: Write, labels: tuple[int, ...]
) -> None:
    scorer = scorer_of(BagOfWords(), write({"pair_classification/Few": pairs(*labels)}), None)
    cosines = [
        float(vectors([row["text_a"]], "sts")[0] @ vectors([row["text_b"]], "sts")[0])
        for row in pairs(*labels)
    ]
    ranked = [bool(label) for _, label in sorted(zip(cosines, labels, strict=True), reverse=True)]
    score = scorer.scores(None)["cosine_ap"]
    assert score == pytest.approx(average_precision(ranked))
    assert len(scorer.items()) == len(labels)
    assert scorer.items().mean() == pytest.approx(score)


@pytest.mark.parametrize("type_", ["sts", "pair_classification"])
def test_pairs_that_a_limit_leaves_with_one_score_are_refused(write: Write, type_: str) -> None:
    task = write({f"{type_}/Few": pairs(1, 0, 1, 0, 0)})
    with pytest.raises(UserError, match=r"Few\.parquet: column 'score': every pair has [01], expected"):
        scorer_of(BagOfWords(), task, 1)


# --------------------------------------------------------------------- classification, clustering, bitext


def labelled(texts_by_label: dict[str, list[str]]) -> list[dict[str, str]]:
    return [{"text": text, "label": label} for label, texts in texts_by_label.items() for text in texts]


def test_texts_that_a_limit_leaves_with_one_label_are_not_clustered(write: Write) -> None:
    """Any clustering of them is perfect."""
    task = write({"clustering/Few": labelled({"猫": ["a b"] * 30, "狗": ["c d"]})})
    message = (
        r"Few\.parquet: the limit leaves 3 texts, which all have the label '猫', expected two labels or more"
    )
    with pytest.raises(UserError, match=message):
        scorer_of(BagOfWords(), task, 3)
    assert scorer_of(BagOfWords(), task, None).rows == 31


def test_a_classifier_learns_from_the_training_texts_alone(write: Write) -> None:
    """Test labels that contradict the training's are all wrong, and labels that it lacks are too."""
    train = labelled({"猫": ["猫", "猫 猫 狗"], "river": ["river", "river river stone"]})
    test = labelled({"猫": ["猫", "river"], "river": ["river"], "unseen": ["猫"]})
    task = write({"classification/Two/train": train, "classification/Two/test": test})
    scorer = scorer_of(BagOfWords(), task, None)
    assert scorer.scores(None)["accuracy"] == scorer.scores(None)["accuracy_full_train"] == 0.5
    assert "accuracy_full_train" not in scorer.scores(8), "not for every width: it is slow"


def test_clusters_are_found_whatever_their_labels_are_called(write: Write) -> None:
    rows = labelled({"1": ["猫"] * 9, "甲": ["river"] * 9, "b c": ["bread"] * 9})
    assert scorer_of(BagOfWords(), write({"clustering/Three": rows}), None).scores(None) == {
        "v_measure": pytest.approx(1),
        "mean_v_measure": pytest.approx(1),
    }


def test_bitext_is_searched_both_ways_and_the_first_of_equal_texts_is_found(write: Write) -> None:
    rows = [("猫", "猫"), ("狗", "鱼"), ("鱼", "鱼"), ("树", "树")]
    task = write({"bitext/Pairs": [{"zh": first, "en": second} for first, second in rows]})
    scores = scorer_of(BagOfWords(), task, None).scores(None)
    zh, en = (vectors([row[side] for row in rows], "sts") for side in (0, 1))
    for name, cosine in (("accuracy", zh @ en.T), ("accuracy_en_zh", en @ zh.T)):
        nearest = [int(np.argmax(row.round(6))) for row in cosine]  # argmax takes the first of equal ones
        assert scores[name] == np.mean([found == row for row, found in enumerate(nearest)]) < 1


# ------------------------------------------------------------------------------------------- every type


def test_each_distinct_text_is_encoded_once_under_a_prompt(write: Write) -> None:
    model = BagOfWords()
    rows = [{"text_a": "猫", "text_b": "狗", "score": 1.0}, {"text_a": "狗", "text_b": "猫", "score": 2.0}]
    scorer = scorer_of(model, write({"sts/Twice": rows}), None)
    scorer.scores(None), scorer.scores(4), scorer.items()
    assert [(prompt, sorted(texts)) for prompt, texts in model.calls] == [("", ["狗", "猫"])]
