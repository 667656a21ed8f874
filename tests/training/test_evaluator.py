"""Evaluation during a run: results logged, the sets told apart by their content, examples before and after."""

import json
import shutil

import pytest

from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.named import evaluation_tasks
from conan_embed.files import read_json
from conan_embed.recipes.sections import Evaluation
from conan_embed.training.evaluator import Evaluator
from conan_embed.training.run_folder import RunFolder
from tests.support.evaluation_fakes import small_tables, write_tables
from tests.tiny_models import make_tiny_model


@pytest.fixture
def sets(tmp_path):
    tables = {key: rows for key, rows in small_tables().items() if key.startswith(("sts", "retrieval"))}
    return write_tables(tmp_path / "sets", tables)


def make_evaluator(sets, tmp_path, precision="float32", **settings):
    (tmp_path / "run").mkdir(exist_ok=True)
    tasks = evaluation_tasks(Evaluation(folder=str(sets), **settings), tmp_path / "cache")
    return Evaluator(tasks, RunFolder(tmp_path / "run"), precision)


class Rows(list):
    def write(self, name, row):
        self.append((name, row))


def test_the_sets_are_known_by_name_and_content_wherever_they_lie(sets, tmp_path):
    before = make_evaluator(sets, tmp_path).identity()
    shutil.copytree(sets, tmp_path / "copy")
    assert make_evaluator(tmp_path / "copy", tmp_path).identity() == before
    file = next(path for path in sorted((tmp_path / "copy").rglob("*")) if path.is_file())
    file.write_bytes(file.read_bytes() + b"\n")
    assert make_evaluator(tmp_path / "copy", tmp_path).identity() != before
    assert make_evaluator(sets, tmp_path, tasks=["sts"]).identity() != before


def test_results_are_logged_and_the_average_is_what_decides(sets, tmp_path, capsys):
    evaluator, rows = make_evaluator(sets, tmp_path), Rows()
    average = evaluator.evaluate(make_tiny_model("bert", widths=(8,)), 4, rows, examples=False)
    ((name, row),) = rows
    assert (name, row["step"], row["summary"]["average"]) == ("evaluation", 4, average)
    assert {task.key for task in evaluator.tasks} == set(row["results"])
    assert all(set(result["widths"]) == {"32", "8"} for result in row["results"].values())
    assert f"average {100 * average:.2f}" in capsys.readouterr().err
    assert not evaluator.folder.examples.exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_texts_are_encoded_in_the_precision_of_the_run(sets, tmp_path, precision):
    rows, model = Rows(), make_tiny_model("bert")
    make_evaluator(sets, tmp_path, precision).evaluate(model, 4, rows, examples=False)
    expected = evaluate(model, sets, precision=precision)
    found = {key: result["main_score"] for key, result in rows[0][1]["results"].items()}
    assert found == {key: result.main for key, result in expected.items()}
    other = evaluate(model, sets, precision="bfloat16" if precision == "float32" else "float32")
    assert found != {key: result.main for key, result in other.items()}


def test_examples_show_the_same_queries_before_and_after(sets, tmp_path):
    evaluator = make_evaluator(sets, tmp_path)
    evaluator.evaluate(make_tiny_model("bert"), 0, Rows(), examples=True)
    before = read_json(evaluator.folder.examples)
    evaluator.evaluate(make_tiny_model("bert", seed=1), 8, Rows(), examples=True)
    after = read_json(evaluator.folder.examples)
    assert json.dumps(before) != json.dumps(after)
    assert sorted(query["query"] for query in after["queries"]) == sorted(
        q["query"] for q in before["neighbours"]
    )


def test_later_looks_compare_each_query_with_what_it_found_before_training(sets, tmp_path):
    """With `evaluation.patience`, the examples are written at every evaluation."""
    evaluator = make_evaluator(sets, tmp_path)
    evaluator.evaluate(make_tiny_model("bert"), 0, Rows(), examples=True)
    before = {query["query"]: query["found"] for query in read_json(evaluator.folder.examples)["neighbours"]}
    for step in (4, 8):
        evaluator.evaluate(make_tiny_model("bert", seed=step), step, Rows(), examples=True)
    (tmp_path / "new").mkdir()
    last = make_evaluator(sets, tmp_path / "new")
    last.evaluate(make_tiny_model("bert", seed=8), 0, Rows(), examples=True)
    after = {query["query"]: query["found"] for query in read_json(last.folder.examples)["neighbours"]}
    queries = read_json(evaluator.folder.examples)["queries"]
    assert {query["query"]: query["before"] for query in queries} == before
    assert {query["query"]: query["after"] for query in queries} == after
