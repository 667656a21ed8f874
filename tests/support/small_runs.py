"""Runs of a tiny model that last eight steps: what they wrote, and how they are interrupted."""

import json

import pytest
import torch
from safetensors.torch import load_file

import conan_embed.training.loop as loop_module
from conan_embed.files import read_json_lines
from conan_embed.training.run import train

NUM_STEPS = 8
SHARD = "shard-00001-model-00001-of-00001.safetensors"  # of a run on one process
TIMES = (
    "seconds",
    "seconds_between",
    "tokens_per_second",
)  # the only figures that two equal runs do not share


def lines(run, name):
    """The lines of a log without the times of this machine."""
    return [
        {k: v for k, v in line.items() if k not in TIMES} for line in read_json_lines(run / f"{name}.jsonl")
    ]


def scores(run):
    """Step and scores of each evaluation."""
    return [
        (
            line["step"],
            {
                task: {k: v for k, v in result.items() if k not in TIMES}
                for task, result in line["results"].items()
            },
        )
        for line in read_json_lines(run / "evaluation.jsonl")
    ]


def weights(run):
    return {
        str(path.relative_to(run)): load_file(path) for path in sorted((run / "model").rglob("*.safetensors"))
    }


def assert_same_run(one, two):
    for name in ("metrics", "negatives"):
        assert lines(one, name) == lines(two, name)
    assert scores(one) == scores(two)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for path, tensors in first.items():
        assert all(torch.equal(second[path][name], tensor) for name, tensor in tensors.items()), path


def interrupt_at(monkeypatch, step, interruption):
    """Call `interruption` after the optimizer's work of step `step` (counted from 1)."""
    original = loop_module.train_step

    def stepping(*arguments, **settings):
        result = original(*arguments, **settings)
        if arguments[1].plan.step + 1 == step:
            interruption()
        return result

    monkeypatch.setattr(loop_module, "train_step", stepping)


def killed():
    raise KeyboardInterrupt


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def assert_resumes_bit_for_bit(recipe, settings, monkeypatch):
    """Train once, and once more killed at step 5 and resumed: the same run. Return the folder of the first."""
    whole = train(recipe("whole", **settings))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("cut", **settings))
    assert_same_run(whole, train(recipe("cut", **settings)))
    return whole
