"""A run directory: one process writes, a killed run leaves nothing behind, the best model is that of its step."""

import contextlib
import json
import multiprocessing
import shutil

import pytest

from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_json
from conan_embed.training.run_folder import RunFolder
from tests.tiny_models import make_tiny_model


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def model():
    return make_tiny_model("bert")


def step_of(path):
    return read_json(path / "conan_embed.json")["step"]


def test_other_processes_write_nothing(tmp_path, monkeypatch, model, capsys):
    monkeypatch.setattr(collectives, "is_main_process", lambda: False)
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.write_recipe("a: 1")
        folder.write_lines(folder.false_negatives, [{"a": 1}])
        folder.write_hard_negatives([])
        folder.save_best(model, 3)
        folder.finish_with(model, 3)
        folder.clear()
        folder.log("nobody reads this")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


def test_what_a_killed_write_left_is_removed_when_the_folder_is_entered(folder):
    for inside in (folder.path, folder.checkpoints, folder.mining, folder.best):
        (inside / ".step-00000006.4194399.tmp").mkdir(parents=True)  # no process has such a number
    with folder.locked():
        assert not list(folder.path.rglob("*.tmp"))


def hold(path, entered, leave):
    with RunFolder(path).locked():
        entered.set()
        leave.wait(60)


def test_two_runs_do_not_share_a_folder(folder):
    context = multiprocessing.get_context("fork")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder.path, entered, leave))
    other.start()
    try:
        assert entered.wait(60)
        with pytest.raises(UserError, match=str(folder.path)), folder.locked():
            pass
    finally:
        leave.set()
        other.join()
    with folder.locked():
        pass


def test_a_new_run_finds_nothing_of_the_old_one_but_files_of_others_stay(folder, model):
    folder.save_best(model, 1)
    folder.finish_with(model, 2)
    for name in ("metrics.jsonl", "hard_negatives.jsonl", "run.json", "examples.json", "notes.txt"):
        (folder.path / name).write_text("x")
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_the_split_of_an_earlier_run_comes_back_unless_the_new_one_begins(folder):
    def write(text):
        folder.held_out.mkdir()
        (folder.held_out / "split.json").write_text(text)

    with folder.locked():
        write("earlier")
    with contextlib.suppress(UserError), folder.locked():
        folder.set_held_out_aside()
        write("new")
        raise UserError("the data cannot be read")
    assert [path.read_text() for path in folder.held_out.iterdir()] == ["earlier"]
    with folder.locked():
        folder.set_held_out_aside()
        write("new")
        shutil.copytree(folder.path, folder.path.with_name("killed"))  # at this moment
        folder.clear()
    assert [path.read_text() for path in folder.held_out.iterdir()] == ["new"]
    killed = RunFolder(folder.path.with_name("killed"))
    with killed.locked():
        assert [path.read_text() for path in killed.held_out.iterdir()] == ["earlier"]


def test_the_best_model_before_stays_until_the_next_is_safe(folder, model):
    folder.save_best(model, 1)
    folder.save_best(model, 5)
    assert folder.has_best(1) and folder.has_best(5) and not folder.has_best(2)
    folder.keep_best(5)
    assert not folder.has_best(1) and folder.has_best(5)
    folder.finish_with_best(5)
    assert step_of(folder.model) == 5 and not folder.best.exists()


def test_a_finished_run_that_goes_on_gets_its_best_model_back(folder, model):
    folder.save_best(model, 5)
    folder.finish_with_best(5)
    assert not folder.has_best(4) and folder.model.exists()
    assert folder.has_best(5) and not folder.model.exists()


def test_the_last_model_replaces_an_older_result(folder, model):
    folder.finish_with(model, 3)
    folder.save_best(model, 4)
    folder.finish_with(model, 8)
    assert step_of(folder.model) == 8 and not folder.best.exists()


def test_the_first_start_is_that_of_the_record(folder):
    assert folder.first_start() is None
    write_json(folder.record, {"started": "2026-01-01T00:00:00+00:00"})
    assert folder.first_start() == "2026-01-01T00:00:00+00:00"


def test_only_whole_checkpoints_count(folder):
    assert folder.newest_checkpoint() is None
    for number in (3, 20, 100):
        (folder.checkpoints / f"step-{number:08d}").mkdir(parents=True)
    for number in (3, 20):
        (folder.checkpoints / f"step-{number:08d}" / "state.json").write_text(json.dumps({}))
    assert folder.newest_checkpoint().name == "step-00000020"


@pytest.mark.parametrize("name", ["model", "best", "checkpoints", "tensorboard"])
def test_what_no_run_has_written_is_not_replaced(folder, name):
    """With `output: .` these may be folders of a project of its own."""
    mine = folder.path / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(UserError, match=rf"{folder.path}: holds {name}/ and no run\.json"), folder.locked():
        pass
    assert mine.read_text() == "precious"
    write_json(folder.record, {"started": "then", "finished": None})
    with folder.locked():
        pass
