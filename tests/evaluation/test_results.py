"""Results are mappings of keys to scores, have their means, and come back from JSON as they were."""

import json

import pytest

from conan_embed.errors import NotFinite, UserError
from conan_embed.evaluation import EvaluationResult, TaskResult, evaluate, summarise
from conan_embed.evaluation.results import check_finite, read_result
from tests.support.evaluation_fakes import BagOfWords, small_tables, write_tables


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = write_tables(tmp_path_factory.mktemp("sets"), small_tables())
    return evaluate(BagOfWords(), folder, widths=[32, 8], items=True, name="bag")


def test_a_result_is_a_mapping_of_tasks(result):
    assert list(result) == list(result.tasks) and len(result) == 8
    assert result["sts/Small"].main == result["sts/Small"].scores["cosine_spearman"]
    assert result.by_type == {name: result.summary[name] for name in result.by_type}
    assert result.average == pytest.approx(sum(result.by_type.values()) / 7)
    assert result.summary_at(32) == result.summary


def test_a_result_comes_back_from_its_file(result, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(result.to_json(), allow_nan=False))
    again = read_result(path)
    assert again == result
    assert again.to_json() == json.loads(path.read_text())


def test_a_result_knows_its_data_and_an_older_file_does_not(result, tmp_path):
    assert len({task.content for task in result.values()} - {None}) == len(result)
    folder = write_tables(tmp_path / "sets", small_tables())
    same = evaluate(BagOfWords(), folder, tasks=["sts"], limit={"sts": 1000})
    part = evaluate(BagOfWords(), folder, tasks=["sts"], limit={"sts": 20})
    for key in same:
        assert part[key].content != result[key].content == same[key].content
    old = result.to_json()
    for task in old["tasks"].values():
        del task["content"]
    (tmp_path / "scores.json").write_text(json.dumps(old))
    assert {task.content for task in read_result(tmp_path / "scores.json").values()} == {None}


def test_the_form_of_files(result):
    """What reports, cards and earlier results rely on."""
    value = result.to_json()
    assert set(value) == {"model", "width", "prompts", "tasks", "summary", "widths"}
    task = value["tasks"]["retrieval/Small"]
    assert list(task)[:2] == ["main_score", "metric"]
    assert set(task) >= {"ndcg_at_10", "recall_at_10", "mrr_at_10", "rows", "widths", "items", "seconds"}
    assert set(task["widths"]) == set(value["widths"]) == {"32", "8"}
    of_mteb = EvaluationResult(
        "m", 8, {}, {"sts/A": TaskResult(0.5, "x", {})}, precision="float32", missing=[]
    )
    assert of_mteb.to_json()["missing"] == [] and of_mteb.to_json()["benchmark"] is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": "m", "width": 3, "tasks": {"sts/A": {}}}', '"x"'])
def test_a_file_that_holds_something_else_is_named(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x.json: found no results of an evaluation"):
        read_result(tmp_path / "x.json")
    with pytest.raises(UserError, match="no such file"):
        read_result(tmp_path / "y.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_must_be_finite(value):
    check_finite("sts/A", {"spearman": 0.0})
    with pytest.raises(NotFinite, match=r"sts/A: pearson is .*, expected a finite number"):
        check_finite("sts/A", {"spearman": 0.0, "pearson": value})


def test_averages_count_types_or_tasks_the_same():
    summary = summarise({"sts/A": 0.5, "sts/B": 0.7, "retrieval/C": 0.2})
    assert summary == pytest.approx(
        {"retrieval": 0.2, "sts": 0.6, "average": 0.4, "average_of_tasks": 1.4 / 3}, abs=1e-12
    )
    assert list(summary)[:2] == ["retrieval", "sts"]
