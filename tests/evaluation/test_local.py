"""The evaluation of a model: what it encodes, what it scores, and what does not matter."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conan_embed.errors import NotFinite, UserError
from conan_embed.evaluation import evaluate, metrics
from conan_embed.evaluation.scorers import MAIN_SCORES
from tests.support.evaluation_fakes import BagOfWords, small_tables, write_tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("sets"), small_tables())


def scores(results) -> dict[str, float]:
    return {key: result.main for key, result in results.items()}


def test_every_type_is_scored_by_its_main_metric(folder: Path) -> None:
    result = evaluate(BagOfWords(), folder, name="bag")
    assert {key.split("/")[0] for key in result} == set(MAIN_SCORES)
    for key, task in result.items():
        assert task.metric == MAIN_SCORES[key.split("/")[0]]
        assert 0.2 < task.main <= 1, key  # words in common are found by a bag of words
        assert task.main == task.scores[task.metric]
    assert result["retrieval/Small"].rows == 20
    assert (result.model, result.width) == ("bag", 32)


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
    result = evaluate(model, folder, tasks=["retrieval"])["retrieval/Small"]
    assert result.scores["ndcg_at_10"] == pytest.approx(np.mean(ndcg), abs=1e-9)


def test_a_query_does_not_find_itself_in_tasks_that_say_so(tmp_path: Path) -> None:
    words = ["猫 狗 鱼", "猫 狗 树", "river stone bread", "river stone light"]
    for name in ("ArguAna", "Twins"):
        tables = {
            "corpus": [{"doc_id": f"t{i}", "text": text} for i, text in enumerate(words)],
            "queries": [{"query_id": f"t{i}", "text": text} for i, text in enumerate(words)],
            "qrels": [{"query_id": f"t{i}", "doc_id": f"t{i ^ 1}", "score": 1} for i in range(4)],
        }
        write_tables(tmp_path / "retrieval" / name, tables)
    result = evaluate(BagOfWords(), tmp_path)
    assert result["retrieval/ArguAna"].main == 1
    assert result["retrieval/Twins"].main == pytest.approx(1 / np.log2(3))


def test_a_width_scores_as_a_model_of_that_width(folder: Path) -> None:
    results = evaluate(BagOfWords(), folder, widths=[32, 8, 3])
    for width in (32, 8, 3):
        alone = evaluate(BagOfWords(keep=width), folder)
        of_width = {key: task.by_width[width] for key, task in results.items()}
        assert of_width == pytest.approx(scores(alone), abs=1e-6)
        assert results.summary_at(width) == pytest.approx(alone.summary, abs=1e-6)
    assert results.summary_at(32) == results.summary != results.summary_at(3)


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
    chosen = evaluate(BagOfWords(), folder, tasks=["sts/Other", "bitext"])
    assert list(chosen) == ["sts/Other", "bitext/Small"]


def test_limit_takes_fewer_rows_of_the_types_named(folder: Path) -> None:
    tasks = ["retrieval", "sts/Small", "bitext"]
    limited = evaluate(BagOfWords(), folder, tasks=tasks, limit={"retrieval": 7, "sts": 9})
    rows = [result.rows for result in limited.values()]
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
    results = evaluate(BagOfWords(), folder, items=True)
    with_items = {key: result for key, result in results.items() if result.items is not None}
    assert {key.split("/")[0] for key in with_items} == {
        "retrieval",
        "reranking",
        "sts",
        "pair_classification",
    }
    for key, result in with_items.items():
        assert np.mean(result.items) == pytest.approx(result.main, abs=1e-6), key
    assert len(results["retrieval/Small"].items) == 20
    assert len(results["reranking/Small"].items) == 15


class Broken(BagOfWords):
    """Some of its numbers are none."""

    def __init__(self, value: float, word: str) -> None:
        super().__init__()
        self.value, self.word = value, word

    def encode(self, texts, *, prompt=""):
        vectors = super().encode(texts, prompt=prompt)
        vectors[[self.word in text for text in texts], 3] = self.value
        return vectors


@pytest.mark.parametrize("task", list(MAIN_SCORES))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_embedding_that_is_no_number_ends_the_evaluation(folder: Path, task: str, value: float) -> None:
    with pytest.raises(
        NotFinite, match="hold NaN or infinity, expected finite numbers; the first is that of '"
    ):
        evaluate(Broken(value, "狗"), folder, tasks=[task])


def test_a_score_that_is_no_number_ends_the_evaluation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "v_measure", lambda *_: float("nan"))
    with pytest.raises(NotFinite, match=r"clustering/Small: v_measure is nan, expected a finite number"):
        evaluate(BagOfWords(), folder, tasks=["clustering"])


def test_the_precision_is_the_models_to_use(folder: Path) -> None:
    class Precise(BagOfWords):
        def encode(self, texts, *, prompt="", precision="bfloat16"):
            asked.add(precision)
            return super().encode(texts, prompt=prompt)

    for precision in ("float32", "bfloat16"):
        asked: set[str] = set()
        assert evaluate(Precise(), folder, precision=precision).precision == precision
        assert asked == {precision}


def test_pairs_of_one_score_are_refused_and_those_of_one_cosine_told(tmp_path: Path, capsys) -> None:
    class Blind(BagOfWords):
        def encode(self, texts, *, prompt=""):
            return np.repeat(super().encode(["one"], prompt=""), len(texts), axis=0)

    rows = [{"text_a": f"a {i}", "text_b": "b", "score": i} for i in range(3)]
    write_tables(tmp_path, {"sts/x": rows})
    assert evaluate(Blind(), tmp_path)["sts/x"].main == 0
    assert "all 3 pairs have one cosine, which tells nothing apart" in capsys.readouterr().err
    write_tables(tmp_path, {"sts/x": [{**row, "score": 2} for row in rows]})
    with pytest.raises(
        UserError, match="every pair has 2, expected different scores: with one there is no correlation"
    ):
        evaluate(BagOfWords(), tmp_path)
