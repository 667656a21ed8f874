"""The evaluation of a model: what it encodes, what it scores, and what does not matter."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation import evaluate, metrics, summarise
from conan_embed.evaluation.local import MAIN_SCORES
from tests.support.evaluation_fakes import BagOfWords, small_tables, write_tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("sets"), small_tables())


def scores(results) -> dict[str, float]:
    return {key: result["main_score"] for key, result in results["tasks"].items()}


def test_every_type_is_scored_by_its_main_metric_and_results_fit_json(folder: Path) -> None:
    seen = []
    results = evaluate(
        BagOfWords(), folder, on_task=lambda key, result: seen.append((key, result)), name="bag"
    )
    assert {key.split("/")[0] for key in results["tasks"]} == set(MAIN_SCORES)
    assert seen == list(results["tasks"].items())
    for key, result in results["tasks"].items():
        assert result["metric"] == MAIN_SCORES[key.split("/")[0]]
        assert 0.2 < result["main_score"] <= 1, key  # words in common are found by a bag of words
        assert result["main_score"] == result[result["metric"]]
    assert results["tasks"]["retrieval/Small"]["rows"] == 20
    assert (results["model"], results["width"]) == ("bag", 32)
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_each_text_is_encoded_once_a_task_with_its_prompt(folder: Path) -> None:
    tables = small_tables()
    corpus = {f"{row['title']} {row['text']}".strip() for row in tables["retrieval/Small/corpus"]}
    judged = {row["text"] for row in tables["retrieval/Small/queries"][:-1]}
    reranking = tables["reranking/Small"]
    expected = {
        "retrieval": [("ask: ", judged), ("tell: ", corpus)],
        "reranking": [
            ("ask: ", {row["query"] for row in reranking}),
            ("tell: ", {text for row in reranking for text in (*row["positive"], *row["negative"])}),
        ],
        "sts/Small": [("", {text for row in tables["sts/Small"] for text in (row["text_a"], row["text_b"])})],
        "clustering": [("", {row["text"] for row in tables["clustering/Small"]})],
    }
    for task, calls in expected.items():
        model = BagOfWords()
        evaluate(model, folder, tasks=[task], widths=[8, 16])
        assert [(prompt, set(texts)) for prompt, texts in model.calls] == calls
        assert all(max(Counter(texts).values()) == 1 for _, texts in model.calls)


def test_retrieval_equals_ranking_by_score_and_falling_id(folder: Path) -> None:
    tables, model = small_tables(), BagOfWords()
    corpus, qrels = tables["retrieval/Small/corpus"], tables["retrieval/Small/qrels"]
    documents = [f"{row['title']} {row['text']}".strip() for row in corpus]
    vectors = model.encode(documents, prompt="tell: ").astype(float)
    ndcg = []
    for query in tables["retrieval/Small/queries"][:-1]:
        similarity = (vectors @ model.encode([query["text"]], prompt="ask: ")[0].astype(float)).round(6)
        ranking = sorted(zip(similarity, (row["doc_id"] for row in corpus), strict=True), reverse=True)
        gains = {row["doc_id"]: row["score"] for row in qrels if row["query_id"] == query["query_id"]}
        dcg = sum(gains.get(name, 0) / np.log2(rank + 1) for rank, (_, name) in enumerate(ranking[:10], 1))
        best = sorted(gains.values(), reverse=True)
        ndcg.append(dcg / sum(gain / np.log2(rank + 1) for rank, gain in enumerate(best, 1)))
    result = evaluate(model, folder, tasks=["retrieval"])["tasks"]["retrieval/Small"]
    assert result["ndcg_at_10"] == pytest.approx(np.mean(ndcg), abs=1e-9)


def test_a_query_does_not_find_itself(tmp_path: Path) -> None:
    words = ["猫 狗 鱼", "猫 狗 树", "river stone bread", "river stone light"]
    write_tables(
        tmp_path,
        {
            "retrieval/Twins/corpus": [{"doc_id": f"t{i}", "text": text} for i, text in enumerate(words)],
            "retrieval/Twins/queries": [{"query_id": f"t{i}", "text": text} for i, text in enumerate(words)],
            "retrieval/Twins/qrels": [
                {"query_id": f"t{i}", "doc_id": f"t{i ^ 1}", "score": 1} for i in range(4)
            ],
        },
    )
    assert evaluate(BagOfWords(), tmp_path)["tasks"]["retrieval/Twins"]["ndcg_at_10"] == 1


def test_a_width_scores_as_a_model_of_that_width(folder: Path) -> None:
    results = evaluate(BagOfWords(), folder, widths=[32, 8, 3])
    for width in (32, 8, 3):
        alone = evaluate(BagOfWords(keep=width), folder)
        of_width = {key: result["widths"][str(width)] for key, result in results["tasks"].items()}
        assert of_width == pytest.approx(scores(alone), abs=1e-6)
        assert results["widths"][str(width)] == pytest.approx(alone["summary"], abs=1e-6)
    assert results["widths"]["32"] == results["summary"] != results["widths"]["3"]


def test_the_order_of_rows_does_not_matter(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ordered = (
        "retrieval",
        "reranking",
        "sts",
        "pair_classification",
        "bitext",
    )  # the others draw samples of rows
    tables = {
        name: [table[i] for i in rng.permutation(len(table))]
        for name, table in small_tables().items()
        if name.startswith(ordered)
    }
    shuffled = evaluate(BagOfWords(), write_tables(tmp_path, tables))
    assert scores(shuffled) == pytest.approx(scores(evaluate(BagOfWords(), folder, tasks=ordered)), abs=1e-9)


def test_tasks_are_chosen_by_type_or_name(folder: Path) -> None:
    chosen = evaluate(BagOfWords(), folder, tasks=["sts/Other", "bitext"])["tasks"]
    assert list(chosen) == ["sts/Other", "bitext/Small"]


def test_limit_takes_fewer_rows_of_the_types_named(folder: Path) -> None:
    tasks = ["retrieval", "sts/Small", "bitext"]
    rows = [
        r["rows"]
        for r in evaluate(BagOfWords(), folder, tasks=tasks, limit={"retrieval": 7, "sts": 9})[
            "tasks"
        ].values()
    ]
    assert rows[:2] == [7, 9]
    assert rows[2] > 9


def test_massive_and_banking_take_fewer_samples_than_the_tasks_of_cmteb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {
        f"classification/{name}/{split}": small_tables()[f"classification/Small/{split}"]
        for name in ("Waimai", "MassiveIntent-zh", "Banking77-en")
        for split in ("train", "test")
    }
    counts = []
    sample = metrics.few_shot_samples
    monkeypatch.setattr(metrics, "few_shot_samples", lambda labels, n: counts.append(n) or sample(labels, n))
    evaluate(BagOfWords(), write_tables(tmp_path, tables))
    assert counts == [8, 8, 32]


def test_averages_count_types_or_tasks_the_same() -> None:
    summary = summarise({"sts/A": 0.5, "sts/B": 0.7, "retrieval/C": 0.2})
    assert summary == pytest.approx(
        {"retrieval": 0.2, "sts": 0.6, "average": 0.4, "average_of_tasks": 1.4 / 3}, abs=1e-12
    )
    assert list(summary)[:2] == ["retrieval", "sts"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tasks": ["retrieval/Smal"]},
            r"'retrieval/Smal' is not in the folder \(did you mean 'retrieval/Small'\?\)",
        ),
        ({"widths": [16, 64]}, "width 64: the model has 32"),
        ({"widths": [0]}, "width 0"),
        ({"limit": {"sts": 0}}, "limit of sts: found 0"),
        ({"limit": {"st": 5}}, r"limit 'st': no such type of task \(did you mean 'sts'\?\)"),
    ],
)
def test_what_is_asked_for_wrongly_is_named(folder: Path, options, message: str) -> None:
    model = BagOfWords()
    with pytest.raises(UserError, match=message):
        evaluate(model, folder, **options)
    assert model.calls == []  # before any work


def test_items_are_what_the_main_score_is_the_mean_of(tmp_path):
    folder = write_tables(tmp_path, small_tables())
    results = evaluate(BagOfWords(), folder, items=True)["tasks"]
    with_items = {key: result for key, result in results.items() if "items" in result}
    assert {key.split("/")[0] for key in with_items} == {
        "retrieval",
        "reranking",
        "sts",
        "pair_classification",
    }
    for key, result in with_items.items():
        assert np.mean(result["items"]) == pytest.approx(result["main_score"], abs=1e-6), key
    assert len(results["retrieval/Small"]["items"]) == 20
    assert len(results["reranking/Small"]["items"]) == 15
