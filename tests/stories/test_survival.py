"""Runs on several processes that are killed, or of which one fails: nothing is lost, and nothing hangs."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conan_embed.recipes.schema import Recipe
from conan_embed.training.checkpoint import checkpoints
from tests.support.disturbed import MESSAGE, run_world
from tests.support.small_runs import assert_same_run, lines, write
from tests.tiny_models import SENTENCES, make_tiny_model

STEPS_PER_EPOCH, NUM_STEPS, SAVE_EVERY = 5, 20, 3
# Where runs are killed: other steps every time; to repeat a failure, set SURVIVAL_SEED to the number that it prints.
SEED = int(os.environ.get("SURVIVAL_SEED", random.SystemRandom().randrange(1 << 32)))
DRAW = random.Random(SEED)


@pytest.fixture(autouse=True)
def printed_seed():
    """pytest shows what a failing test has printed."""
    print(f"SURVIVAL_SEED={SEED}")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny base model and training files."""
    folder = tmp_path_factory.mktemp("world")
    make_tiny_model("bert", dense_width=12, widths=(4,)).save(folder / "model")
    drawn = random.Random(0)
    phrase = lambda: " ".join(drawn.choices(SENTENCES, k=2))  # noqa: E731
    queries = STEPS_PER_EPOCH * 4
    write(
        folder / "pairs.jsonl", [{"query": f"{phrase()} {i}", "positive": phrase()} for i in range(queries)]
    )
    write(folder / "sts.jsonl", [{"text_a": phrase(), "text_b": phrase(), "score": i % 4} for i in range(10)])
    return folder


def command(world, name, sharding="none"):
    """The command that trains the run `name` of this world."""
    values = {
        "model": {"base": str(world / "model")},
        "data": {
            "retrieval": [{"name": "pairs", "path": str(world / "pairs.jsonl")}],
            "sts": [{"name": "sts", "path": str(world / "sts.jsonl")}],
        },
        "step": {"queries": 4, "num_negatives": 2, "sts_pairs": 4},
        "mining": {"depth": 12, "offset": 1, "precision": "float32"},
        "hard_negatives": {"source": "bank", "refresh": 2, "interval": 4, "decay": 0.5, "max_score": 5.0},
        "optimizer": {"learning_rate": 1e-3, "epsilon": 1e-4},
        "training": {
            "epochs": NUM_STEPS / STEPS_PER_EPOCH,
            "checkpoint_every": SAVE_EVERY,
            "precision": "float32",
            "sharding": sharding,
        },
        "tracking": {"tensorboard": False},
        "output": str(world / name),
        "cache": str(world / f"cache-{name}"),
    }
    path = world / f"{name}.yaml"
    path.write_text(Recipe.model_validate(values).as_yaml(), encoding="utf-8")
    return ["train", str(path)]


@pytest.fixture(scope="module")
def undisturbed(world):
    """{sharding: a whole run on two processes}."""
    for sharding in ("none", "full"):
        name = f"undisturbed-{sharding}"
        assert run_world(2, command(world, name, sharding), world / f"{name}.txt") == [0, 0]
        run = world / name
        assert [line["step"] for line in lines(run, "metrics")] == list(range(1, NUM_STEPS + 1))
        assert sum(line["replaced"] for line in lines(run, "negatives")) > 0
    return {sharding: world / f"undisturbed-{sharding}" for sharding in ("none", "full")}


def in_epoch(epoch):
    """A step of that epoch, counted from 1, at random: whichever it is, nothing may be lost."""
    return DRAW.randint((epoch - 1) * STEPS_PER_EPOCH + 2, epoch * STEPS_PER_EPOCH)


@pytest.mark.parametrize(
    ("what", "epoch", "sharding"),
    [
        ("kill", 1, "none"),
        ("kill", 3, "full"),
        ("kill while saving", 1, "full"),
        ("kill while saving", 3, "none"),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(world, undisturbed, what, epoch, sharding):
    name = f"{what}-{epoch}-{sharding}".replace(" ", "-")
    step, rank = in_epoch(epoch), DRAW.randrange(2)
    if what != "kill":
        step = -(-step // SAVE_EVERY) * SAVE_EVERY
    started = time.monotonic()
    said = world / f"{name}.txt"
    codes = run_world(2, command(world, name, sharding), said, (rank, step, what))
    assert codes[rank] == -9 and codes[1 - rank] == 1, (step, rank, said.read_text())
    assert time.monotonic() - started < 60
    assert said.read_text().count("lost another process of the run") == 1
    run = world / name
    last = (step - 1) // SAVE_EVERY * SAVE_EVERY  # nothing of a checkpoint that was being written counts
    assert [int(path.name[5:]) for path in checkpoints(run / "checkpoints")][-1:] == [last][: last > 0]
    shutil.copytree(run, world / f"{name}-alone")
    assert run_world(2, command(world, name, sharding), said) == [0, 0], said.read_text()
    assert_same_run(run, undisturbed[sharding])
    assert not list((run / "checkpoints").glob(".*"))
    if what == "kill":  # on another number of processes, and held otherwise: to rounding
        alone = command(world, f"{name}-alone", "optimizer")
        size = 1 if epoch == 1 else 3
        assert run_world(size, alone, said) == [0] * size, said.read_text()
        assert_same_to_rounding(world / f"{name}-alone", undisturbed[sharding])


def assert_same_to_rounding(one, two):
    for now, then in zip(lines(one, "metrics"), lines(two, "metrics"), strict=True):
        assert now["loss"] == pytest.approx(then["loss"], rel=1e-4)
        assert (now["step"], now["texts"], now["tokens"]) == (then["step"], then["texts"], then["tokens"])
    assert [line["replaced"] for line in lines(one, "negatives")] == [
        line["replaced"] for line in lines(two, "negatives")
    ]
    for path in ("model.safetensors", "2_Dense/model.safetensors"):
        first, second = load_file(one / "model" / path), load_file(two / "model" / path)
        for key, value in second.items():
            torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5)


def test_torchrun_restarts_the_group_from_the_last_checkpoint(world, undisturbed):
    script, marker = world / "disturbed.py", world / "killed-once"
    arguments = command(world, "restarted")
    disturbance = (1, in_epoch(3), "kill", str(marker))
    script.write_text(
        "from tests.support.disturbed import run_command\n"
        f"if __name__ == '__main__':\n    run_command({arguments!r}, {disturbance!r})\n"
    )
    tests = Path(__file__).parents[1]
    paths = {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = subprocess.run(
        [*torchrun, "--max-restarts", "1", str(script)],
        env=os.environ | paths,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    assert marker.exists()
    assert "resumed at step" in finished.stderr
    assert_same_run(world / "restarted", undisturbed["none"])


def test_the_time_before_a_resume_counts(world, undisturbed):
    """What a run took is the sum of its parts, and it began when it began."""
    name = "timed"
    run_world(1, command(world, name), world / "timed.txt", (0, 14, "kill"))
    facts = json.loads((world / name / "run.json").read_text())
    state = world / name / "checkpoints" / "step-00000012" / "state.json"
    saved = json.loads(state.read_text())
    assert 0 < saved["seconds"] < 60
    state.write_text(json.dumps(saved | {"seconds": 1000.0}))  # a part that took longer
    time.sleep(1.1)
    assert run_world(1, command(world, name), world / "timed.txt") == [0]
    resumed = json.loads((world / name / "run.json").read_text())
    assert resumed["started"] == facts["started"] < resumed["finished"]
    assert 1000 < resumed["seconds"] < 1060


# ------------------------------------------------------------------------------------------- one process fails alone


@pytest.mark.parametrize(
    ("collective", "rank"),
    [
        ("gathering rows", 1),
        ("the gradients", 0),
        ("the facts", 1),
        ("the stop exchange", 0),
        ("saving", 1),
        ("the barrier", 1),
    ],
)
def test_an_error_on_one_process_ends_all_with_its_message(world, tmp_path, collective, rank):
    said = tmp_path / "stderr.txt"
    arguments = command(world, f"failing-{collective}-{rank}".replace(" ", "-"))
    codes = run_world(2, arguments, said, (rank, SAVE_EVERY, f"fail before {collective}"), limit=60)
    text = said.read_text()
    assert codes == [2, 2], text
    assert text.count("error") == 1, text
    assert f"error{' on process 1' if rank else ''} {MESSAGE}" in text
    assert "Traceback" not in text


def test_a_mistake_of_ours_on_one_process_ends_all_with_its_traceback(world, tmp_path):
    said = tmp_path / "stderr.txt"
    codes = run_world(
        2, command(world, "broken"), said, (1, SAVE_EVERY, "break before gathering rows"), limit=60
    )
    assert codes == [1, 1]
    assert said.read_text().count("ZeroDivisionError: division by zero") == 1


@pytest.mark.parametrize("mistake", ["step.querys=3", "model.base=./nowhere"])
def test_a_mistake_that_all_find_is_said_once(world, tmp_path, mistake):
    said = tmp_path / "stderr.txt"
    assert run_world(2, [*command(world, "mistaken"), mistake], said, limit=60) == [2, 2]
    assert said.read_text().count("error") == 1
    assert "on process" not in said.read_text()
