"""Whole comparisons of a tiny model: what they leave, how they go on, and that how they run does not matter."""

import fcntl
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

import conan_embed.ablation.run as run_module
import conan_embed.training.loop as loop_module
from conan_embed.ablation import parallel
from conan_embed.ablation.arms import Arm
from conan_embed.ablation.experiment import ablate, run_and_compare, sweep
from conan_embed.errors import UserError
from conan_embed.files import read_json, read_json_lines
from tests.support.disturbed import run_world
from tests.tiny_models import make_tiny_model

WORDS = ["Python file", "read lines", "deep model", "training data", "hard negative", "nice park"]
ARMS = ["base", "vanilla", "CBB", "DHNM", "CBB-+-DHNM"]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    make_tiny_model("bert").save(folder / "base")
    phrases = [f"{a} {b}" for a, b in itertools.permutations(WORDS, 2)]
    pairs = [{"query": f"{phrase}?", "positive": f"{phrase}."} for phrase in phrases[:12]]
    write(folder / "pairs.jsonl", pairs)
    graded = [
        {"text_a": a, "text_b": b, "score": i * 7 % 11}
        for i, (a, b) in enumerate(zip(phrases, phrases[7:], strict=False))
    ]
    write(folder / "sts.jsonl", graded[:12])
    write(folder / "eval/sts/Graded.jsonl", graded[12:])
    found = folder / "eval/retrieval/Found"
    write(found / "corpus.jsonl", [{"doc_id": f"d{i}", "text": text} for i, text in enumerate(phrases)])
    asked = list(enumerate(phrases[3:20]))  # the right one is another than the nearest
    write(found / "queries.jsonl", [{"query_id": f"q{i}", "text": f"{text}?"} for i, text in asked])
    write(found / "qrels.jsonl", [{"query_id": f"q{i}", "doc_id": f"d{i}", "score": 1} for i, _ in asked])
    recipe = {
        "model": {"base": str(folder / "base")},
        "data": {
            "retrieval": [{"name": "pairs", "path": str(folder / "pairs.jsonl")}],
            "sts": [{"name": "sts", "path": str(folder / "sts.jsonl")}],
        },
        "step": {"queries": 4, "num_negatives": 2, "sts_pairs": 4},
        "mining": {"depth": 10, "offset": 1, "precision": "float32"},
        "hard_negatives": {"interval": 2, "decay": 0.1, "max_score": 5.0, "on_exhausted": "restart"},
        "optimizer": {"learning_rate": 2e-3},
        "training": {"steps": 8, "checkpoint_every": 2, "precision": "float32"},
        "evaluation": {"folder": str(folder / "eval")},
        "tracking": {"tensorboard": False},
        "output": str(folder / "run"),
        "cache": str(folder / "cache"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def scores(output):
    return {
        str(path.relative_to(output)): read_json(path)["scores"]
        for path in sorted(output.glob("*/seed-*.json"))
    }


@pytest.fixture(scope="module")
def whole(project):
    """Table 4 with two seeds, interrupted once while its third arm trains, and its comparison."""
    output = project / "run-arms"
    with pytest.MonkeyPatch.context() as patch:
        original, count = loop_module.train_step, iter(range(1000))

        def stepping(*arguments, **settings):
            if next(count) == 19:  # vanilla takes 16 steps, and this is the fourth of CBB
                raise KeyboardInterrupt
            return original(*arguments, **settings)

        patch.setattr(loop_module, "train_step", stepping)
        with pytest.raises(KeyboardInterrupt):
            ablate(project / "recipe.yaml", seeds=[0, 1])
        assert [path.parent.name for path in sorted(output.glob("*/seed-0.json"))] == ["base", "vanilla"]
        assert (output / "CBB/seed-0/checkpoints/step-00000002").exists()
        patch.setattr(loop_module, "train_step", original)
        steps = []
        patch.setattr(
            loop_module,
            "train_step",
            lambda *found, **settings: (steps.append(found[1].plan.step), original(*found, **settings))[1],
        )
        comparison = ablate(project / "recipe.yaml", seeds=[0, 1])
        # The steps of the interrupted arm from its checkpoint on, all of the others, and of none twice.
        assert steps[:7] == [2, 3, 4, 5, 6, 7, 0]
        assert len(steps) == 6 + 16 + 8 + (16 + 8 + 16 + 8)
    return output, comparison


def test_all_arms_end_with_a_table_and_a_page(whole):
    output, comparison = whole
    expected = {f"{arm}/seed-{seed}.json" for arm in ARMS for seed in (0, 1)} - {"base/seed-1.json"}
    assert set(scores(output)) == expected
    cells = comparison.rows["average"]
    assert len(cells) == len(ARMS)
    assert (cells[0].difference, cells[0].spread) == (0, None)
    assert all(len(cell.by_seed) == 2 and cell.low < cell.difference < cell.high for cell in cells[1:])
    assert list(comparison.rows) == ["retrieval", "sts", "average", "retrieval/Found", "sts/Graded"]
    for name in ("table.md", "arms.html"):
        text = (output / name).read_text()
        assert "CBB + DHNM" in text and "retrieval/Found" in text
    assert read_json(output / "results.json")["seeds"] == [0, 1]
    assert not list(output.glob("*/*/checkpoints"))


def test_arms_see_the_same_queries_and_only_dynamic_ones_replace(whole):
    output, comparison = whole
    seen = {arm.name: arm.seen for arm in comparison.arms}
    assert [seen[name]["updates"] for name in seen] == [0, 16, 8, 16, 8]
    assert seen["CBB"]["queries"] == seen["CBB + DHNM"]["queries"] == 32
    assert seen["vanilla"]["queries"] == seen["DHNM"]["queries"]
    assert seen["vanilla"]["replaced"] == seen["CBB"]["replaced"] == 0
    assert seen["DHNM"]["replaced"] > 0 and seen["CBB + DHNM"]["replaced"] > 0
    # One mining for all, and before the first replacement arms of one seed that differ in it alone are one run.
    assert len(list(output.glob("mining-*"))) == 1
    first = [read_json_lines(output / arm / "seed-1/metrics.jsonl")[0]["loss"] for arm in ("CBB", ARMS[-1])]
    assert first[0] == first[1]


def test_an_interrupted_arm_comes_to_the_same(whole, project, tmp_path):
    output, _ = whole
    ablate(project / "recipe.yaml", seeds=[0], output=tmp_path / "again")
    again = scores(tmp_path / "again")
    assert again == {key: value for key, value in scores(output).items() if key in again}


def test_finished_arms_are_not_run_again_and_changed_ones_are_refused(whole, project, monkeypatch):
    monkeypatch.setattr(run_module, "train", None)
    ablate(project / "recipe.yaml", ["cache=elsewhere"], seeds=[0, 1], against="vanilla")
    for change, words in (("loss.beta=0.5", "loss.beta"), ("evaluation.tasks=[sts]", "evaluation.tasks")):
        with pytest.raises(UserError, match=rf"changed since: {words} \(was"):
            ablate(project / "recipe.yaml", [change], seeds=[0, 1])
    with pytest.raises(UserError, match="did you mean 'vanilla'"):
        ablate(project / "recipe.yaml", seeds=[0], against="vanila")


def test_arms_of_other_files_are_refused_and_their_rankings_mined_anew(project, tmp_path, monkeypatch):
    """Data, evaluation sets and base model keep their paths and become others."""
    copy, output = tmp_path / "project", tmp_path / "arms"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("run-arms", "cache"))
    text = (project / "recipe.yaml").read_text().replace(str(project), str(copy))
    (copy / "recipe.yaml").write_text(text)
    settings = ["loss.temperature=0.02,0.2", "training.steps=2"]

    def run():
        return sweep(copy / "recipe.yaml", settings, seeds=[0], output=output)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # one arm finished, one interrupted
        original = run_module._score
        patch.setattr(
            run_module,
            "_score",
            lambda job, *rest: ("0.2" in job.arm.name and crash()) or original(job, *rest),
        )
        with pytest.raises(KeyboardInterrupt):
            run()
    changes = {
        "pairs.jsonl": "data 'pairs'",
        "sts.jsonl": "data 'sts'",
        "eval/sts/Graded.jsonl": "evaluation set sts/Graded",
        "eval/retrieval/Found/queries.jsonl": "evaluation set retrieval/Found",
        "base/model.safetensors": r"model\.base",
    }
    for file, name in changes.items():
        before = (copy / file).read_bytes()
        make_tiny_model("bert", seed=3).save(tmp_path / "other")
        (copy / file).write_bytes(
            before.replace(b"park", b"pool")
            if "jsonl" in file
            else (tmp_path / "other/model.safetensors").read_bytes()
        )
        assert (copy / file).read_bytes() != before
        with pytest.raises(UserError, match=rf"0\.02, seed 0 changed since it began: {name}\. Put back"):
            run()
        (output / "temperature=0.02/seed-0.json").rename(
            tmp_path / "kept.json"
        )  # what is interrupted is refused too
        with pytest.raises(UserError, match=rf"0\.02, seed 0 changed since it began: {name}\. Put back"):
            run()
        (tmp_path / "kept.json").rename(output / "temperature=0.02/seed-0.json")
        (copy / file).write_bytes(before)
    (copy / "base/model.safetensors").write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    for arm in output.glob("temperature*"):
        shutil.rmtree(arm)
    run()
    sweep(copy / "recipe.yaml", settings, seeds=[0], output=tmp_path / "fresh")
    assert scores(output) == scores(tmp_path / "fresh")
    rankings, fresh = (
        next(folder.glob("mining-*/pairs.safetensors")) for folder in (output, tmp_path / "fresh")
    )
    assert rankings.read_bytes() == fresh.read_bytes()


@pytest.fixture
def forking(monkeypatch):
    """Processes side by side that come from a server which has made the slow imports."""
    monkeypatch.setattr(parallel, "_context", multiprocessing.get_context("forkserver"))


@pytest.mark.usefixtures("forking")
def test_side_by_side_comes_to_the_same_and_a_failure_is_said(project, tmp_path):
    settings = ["loss.temperature=0.02,0.2", "training.steps=2"]
    both = [
        sweep(project / "recipe.yaml", settings, seeds=[0], output=tmp_path / name, jobs=jobs)
        for name, jobs in (("one", 1), ("two", 2))
    ]
    assert scores(tmp_path / "one") == scores(tmp_path / "two")
    assert both[0].rows == both[1].rows
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "two", broken)
    for arm in broken.glob("temperature*"):  # rankings of other texts
        shutil.rmtree(arm)
    for ranking in broken.glob("mining-*/*.safetensors"):
        ranking.write_bytes(b"")
    with pytest.raises(UserError, match=r"temperature=0\.(02|2), seed 0: failed; .*log ends: "):
        sweep(project / "recipe.yaml", settings, seeds=[0], output=broken, jobs=2)


def test_processes_of_one_group_train_every_arm_together(whole, project, tmp_path):
    """Killed in the midst of an arm and started again, two processes come to what one came to."""
    output, said = tmp_path / "arms", tmp_path / "stderr.txt"
    command = ["ablate", str(project / "recipe.yaml"), "--seeds", "0", "--output", str(output)]
    assert run_world(2, command, said, (1, 5, "kill")) == [1, -9], said.read_text()
    assert set(scores(output)) == {"base/seed-0.json"}
    files = [output / "base/seed-0.json", *output.glob("mining-*/*")]
    times = [path.stat().st_mtime_ns for path in files]
    assert run_world(2, command, said) == [0, 0], said.read_text()
    text = said.read_text()
    for words in (
        "0 of 5 runs are there already",
        "1 of 5 runs are there already",
        "resumed at step 4 of 16",
    ):
        assert text.count(words) == 1
    assert [path.stat().st_mtime_ns for path in files] == times and len(files) > 2
    assert set(scores(output)) == {name for name in scores(whole[0]) if "seed-0" in name}
    for arm in ARMS[1:]:
        assert read_json(output / arm / "seed-0/run.json")["processes"] == 2
        here, there = (
            [line["loss"] for line in read_json_lines(folder / arm / "seed-0/metrics.jsonl")]
            for folder in (output, whole[0])
        )
        assert here == pytest.approx(there, rel=1e-4)
    assert read_json(output / "results.json")["rows"].keys() == whole[1].rows.keys()
    assert not list(output.glob("*/*/checkpoints"))
    assert run_world(2, [*command, "--jobs", "2"], said) == [2, 2]
    assert said.read_text().count("under torchrun") == 1


STEPS = 150
LONG = ["optimizer.learning_rate=1e-3,2e-3", f"training.steps={STEPS}", "training.checkpoint_every=0"]


def until(condition, what, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_who_loses_the_parent_saves_and_leaves_and_the_command_goes_on(project, tmp_path, forking):
    """The parent of two arms side by side is killed outright, then asked to stop; the third start comes to the end."""
    output = tmp_path / "disturbed"
    runs = [output / f"learning_rate={rate}/seed-0" for rate in ("1e-3", "2e-3")]

    def steps():
        return [len(read_json_lines(run / "metrics.jsonl")) for run in runs]

    def saved():
        return [sorted(int(path.name[5:]) for path in run.glob("checkpoints/step-*"))[-1:] for run in runs]

    command = ["sweep", str(project / "recipe.yaml"), *LONG, "--seeds", "0", "--jobs", "2", "-o", str(output)]
    parent = subprocess.Popen([sys.executable, "-m", "conan_embed", *command])
    until(lambda: all(steps()), "both arms have begun")
    left = children(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "no child goes on alone", 30)
    assert len(left) >= 2
    assert not scores(output)
    first = saved()
    assert first == [[count] for count in steps()] and all(count < STEPS for (count,) in first)

    def ask():
        until(lambda: all(now > then for now, (then,) in zip(steps(), first, strict=True)), "both go on")
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(UserError, match="stopped on request"):
        sweep(project / "recipe.yaml", LONG, seeds=[0], output=output, jobs=2)
    asking.join()
    assert not multiprocessing.active_children()
    assert saved() == [[count] for count in steps()]
    assert not scores(output)

    sweep(project / "recipe.yaml", LONG, seeds=[0], output=output, jobs=2)
    for (count,), run in zip(first, runs, strict=True):
        assert f"resumed at step {count} of {STEPS}" in run.with_suffix(".log").read_text()
    sweep(project / "recipe.yaml", LONG, seeds=[0], output=tmp_path / "undisturbed")
    assert scores(output) == scores(tmp_path / "undisturbed")


def test_nobody_works_in_a_run_directory_that_another_process_still_works_in(whole, project, tmp_path):
    output = tmp_path / "held"
    shutil.copytree(whole[0], output)
    result = output / "CBB/seed-0.json"
    result.rename(tmp_path / "result.json")
    lock = os.open(output / "CBB/seed-0/.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    trained = (output / "CBB/seed-0/model/model.safetensors").stat().st_mtime_ns
    second = threading.Thread(
        target=ablate, args=(project / "recipe.yaml",), kwargs={"seeds": [0, 1], "output": output}
    )
    second.start()
    second.join(1.0)
    assert second.is_alive()
    (tmp_path / "result.json").rename(result)  # the first comes to its end
    os.close(lock)
    second.join(60)
    assert not second.is_alive()
    assert (output / "CBB/seed-0/model/model.safetensors").stat().st_mtime_ns == trained


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.usefixtures("forking")
def test_an_arm_starts_from_what_another_came_to(project, tmp_path, jobs):
    """Stages of training as arms: a recipe of its own for one, and the model of one as base of the next."""
    first = yaml.safe_load((project / "recipe.yaml").read_text())
    first["step"] = {"queries": 4, "num_negatives": 0, "sts_pairs": 0}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))
    two, four = ("training.steps=2",), ("training.steps=4",)
    arms = [
        Arm("second only", two),
        Arm("first", four, recipe=tmp_path / "first.yaml"),
        Arm("both", two, after="first"),
    ]
    output = tmp_path / "stages"
    source = project / "recipe.yaml"
    found = run_and_compare(source, (), arms, [0, 1], output, against=None, jobs=jobs)
    assert [arm.seen["updates"] for arm in found.arms] == [2, 4, 2]
    assert [arm.seen["pairs"] for arm in found.arms] == [8, 0, 8]
    for seed in ("seed-0", "seed-1"):
        base = yaml.safe_load((output / f"both/{seed}.yaml").read_text())["model"]["base"]
        assert base == str(output / "first" / seed / "model")
        # A ranking by the model it starts from, not the one that others share.
        assert (output / "both" / seed / "mining/mining.json").exists()
    alone = [f"model.base={base}", "training.steps=2,3", "training.seed=1"]
    sweep(source, alone, seeds=[1], output=tmp_path / "alone")
    assert scores(tmp_path / "alone")["steps=2/seed-1.json"] == scores(output)["both/seed-1.json"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["loss.beta=0.1,0.2", "evaluation.folder=null"], r"evaluation\.folder: not set"),
        (["evaluation.tasks=[sts],[retrieval]"], r"found \['sts'\] for .* and \['retrieval'\] for"),
    ],
)
def test_no_or_different_evaluation_sets_are_said_before_anything_runs(project, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        sweep(project / "recipe.yaml", settings, seeds=[0], output=tmp_path / "none")
    assert not (tmp_path / "none").exists()
