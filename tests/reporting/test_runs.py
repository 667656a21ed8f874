import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation.results import summarise
from conan_embed.reporting import sentences
from conan_embed.reporting.runs import FULL_WIDTH, known, read_runs
from tests.support.fake_run import WIDTHS


def _read(path: Path):
    return read_runs([path])[0]


@pytest.fixture
def copy(dynamic: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dynamic, tmp_path / "copy"))


def test_everything_of_a_run_is_read(dynamic):
    run = _read(dynamic)
    assert run.name == "dynamic"
    assert run.num_steps == run.last_step == 300
    assert [evaluation.step for evaluation in run.evaluations] == [0, 50, 100, 150, 200, 250, 300]
    assert run.before.scores["retrieval/MedicalQA"].value == pytest.approx(33.1)
    assert run.after.scores["retrieval/MedicalQA"].value == pytest.approx(41.2)
    assert list(run.after.scores["sts/AFQMC"].by_width) == sorted(WIDTHS, reverse=True)
    assert run.rows == {"drcd_dev": 3524, "法律条文": 1526, "stsb_zh": 4704}
    seconds = [json.loads(line)["seconds"] for line in (dynamic / "metrics.jsonl").read_text().splitlines()]
    assert run.total("seconds") == pytest.approx(sum(seconds))
    assert run.median("seconds") == pytest.approx(np.median(seconds))
    assert run.recipe.hard_negatives.source == "bank"


def test_means_are_those_of_the_evaluation(dynamic):
    after = _read(dynamic).after
    summary = summarise({key: score.value / 100 for key, score in after.scores.items()})
    groups = sentences.by_kind(after.scores.values())
    assert list(groups) == ["retrieval", "sts", "pair_classification"]
    for kind, scores in groups.items():
        assert sentences.mean(scores) == pytest.approx(100 * summary[kind])
    assert after.average == pytest.approx(100 * summary["average"])


def test_torn_lines_are_left_out_and_the_later_line_of_a_step_counts(copy):
    path = copy / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "loss": 1.0}\n{"step": 1, "lo\n{"step": 2, "loss": 3.0}\n{"step": 3, "loss": 4.'
    )
    assert _read(copy).metrics.to_dicts() == [{"step": 2, "loss": 3.0}]


def test_a_file_cut_inside_a_chinese_letter_is_read_up_to_there(copy):
    path = copy / "evaluation.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex("文".encode()) + 1])
    assert [evaluation.step for evaluation in _read(copy).evaluations] == [0, 50, 100, 150, 200, 250]


def test_absent_keys_and_nan_are_not_values(copy):
    lines = [
        '{"step": 1, "loss/sts": 2}',
        '{"step": 2}',
        '{"step": 3, "loss/sts": NaN}',
        '{"step": 4, "loss/sts": 0.5}',
    ]
    (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    steps_N, values_N = known(_read(copy).metrics, "loss/sts")
    assert steps_N.tolist() == [1, 4]
    assert values_N.tolist() == [2, 0.5]
    assert np.isnan(_read(copy).total("tokens"))


def _write_evaluations(run: Path, averages: dict[int, float]) -> None:
    lines = [
        {"step": s, "results": {"sts/A": {"main_score": a, "metric": "m"}}, "summary": {"average": a}}
        for s, a in averages.items()
    ]
    (run / "evaluation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_outcome_is_the_evaluation_whose_model_was_kept(copy):
    _write_evaluations(copy, {0: 0.1, 10: 0.3, 20: 0.4, 30: 0.4, 40: float("nan"), 50: 0.2})
    assert _read(copy).after.step == 20
    recipe = copy / "recipe.yaml"
    recipe.write_text(
        recipe.read_text(encoding="utf-8").replace("keep_best: true", "keep_best: false"), "utf-8"
    )
    assert _read(copy).after.step == 50


def test_a_score_that_is_not_a_number_is_left_out_and_a_width_may_be_unknown(copy):
    _write_evaluations(copy, {0: float("nan"), 10: 0.25})
    (copy / "run.json").unlink()
    run = _read(copy)
    assert not run.before.scores
    assert run.after.scores["sts/A"].by_width == {FULL_WIDTH: 25}


def test_runs_are_named_by_as_many_folders_as_tell_them_apart(dynamic, tmp_path):
    first, second = (shutil.copytree(dynamic, tmp_path / name / "run") for name in ("a", "b"))
    assert [run.name for run in read_runs([first, second])] == ["a/run", "b/run"]
    assert [run.name for run in read_runs([first, dynamic])] == ["run", "dynamic"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such run directory"):
        read_runs([tmp_path / "nowhere"])


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not a run directory: expected one of recipe\.yaml"):
        read_runs([tmp_path])
