"""Whole runs of a tiny model: what they leave behind, which kinds there are, and how they end."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import read_json_lines
from conan_embed.recipes.schema import Recipe
from conan_embed.training.checkpoint import checkpoints
from conan_embed.training.run import mine, train
from conan_embed.training.run_folder import RunFolder
from tests.support.small_runs import NUM_STEPS, SHARD, assert_same_run, lines, scores, weights
from tests.tiny_models import SENTENCES


def test_a_run_leaves_everything_behind(recipe, base):
    wanted = recipe(
        evaluation={"folder": str(base / "eval"), "every": 3},
        tracking={"tensorboard": True},
        model={"widths": [4, 6]},
    )
    run = train(wanted)
    assert Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text())) == wanted
    facts = json.loads((run / "run.json").read_text())
    assert facts["steps"] == NUM_STEPS
    assert facts["widths"] == [12, 6, 4]
    assert facts["finished"] >= facts["started"]
    assert facts["datasets"] == [
        {"task": "retrieval", "name": "pairs", "rows": 20},
        {"task": "sts", "name": "sts", "rows": 10},
    ]
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "| pairs | retrieval | 20 |" in card and "## Results" in card and "model-index" in card
    metrics = lines(run, "metrics")
    assert [line["step"] for line in metrics] == list(range(1, NUM_STEPS + 1))
    for line in metrics:
        assert set(line) == {
            *("step", "epoch", "learning_rate", "loss", "loss/retrieval", "loss/sts"),
            *("score/positive", "score/negative", "score/background", "gradient_norm", "texts", "tokens"),
            *("share/positive", "share/hard", "share/in_batch"),
        }
        assert line["loss"] == pytest.approx(line["loss/retrieval"] + 0.8 * line["loss/sts"], rel=1e-5)
        assert -1 <= line["score/negative"] <= 1
        shares = [line[f"share/{name}"] for name in ("positive", "hard", "in_batch")]
        assert min(shares) >= -1e-6 and sum(shares) == pytest.approx(1)
        assert line["texts"] <= 4 + 4 * 3 + 8
        assert line["tokens"] >= 3 * line["texts"]
    rates = [line["learning_rate"] for line in metrics]
    assert rates == pytest.approx(
        [2e-3 * (1 - i / NUM_STEPS) for i in range(NUM_STEPS)]
    )  # warm-up rounds to 0
    checks = lines(run, "negatives")
    assert [line["step"] for line in checks] == [2, 4, 6]  # no step would see what a last one changed
    assert sum(line["replaced"] for line in checks) > 0
    assert [step for step, _ in scores(run)] == [0, 3, 6, 8]
    assert [path.name for path in checkpoints(run / "checkpoints")] == [f"step-{i:08d}" for i in (3, 6, 8)]
    assert "pairs" in json.loads((run / "mining" / "mining.json").read_text())["datasets"]
    assert list((run / "tensorboard").iterdir())
    assert not list(run.rglob("*.tmp"))
    model = EmbeddingModel.load(run / "model")
    assert model.widths == (12, 6, 4)
    assert np.isfinite(model.encode(SENTENCES)).all()


def test_training_lowers_the_loss(recipe):
    run = train(
        recipe(
            training={"steps": 30, "checkpoint_every": 0},
            step={"queries": 20, "sts_pairs": 10},
            optimizer={"learning_rate": 1e-2},
        )
    )
    losses = [line["loss"] for line in lines(run, "metrics")]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_the_model_kept_is_that_of_the_best_evaluation(recipe, base):
    run = train(
        recipe(evaluation={"folder": str(base / "eval"), "every": 1}, optimizer={"learning_rate": 0.3})
    )
    average = {line["step"]: line["summary"]["average"] for line in read_json_lines(run / "evaluation.jsonl")}
    best = max(average, key=lambda step: (average[step], -step))
    assert best < NUM_STEPS  # at such a learning rate, or the test says nothing
    assert json.loads((run / "model" / "conan_embed.json").read_text())["step"] == best
    assert not (run / "best").exists()


def test_without_evaluation_or_keep_best_the_last_model_is_kept(recipe, base):
    evaluation = {"folder": str(base / "eval"), "every": 1, "keep_best": False}
    run = train(recipe(evaluation=evaluation, optimizer={"learning_rate": 0.3}))
    assert json.loads((run / "model" / "conan_embed.json").read_text())["step"] == NUM_STEPS
    final = load_file(run / "checkpoints" / f"step-{NUM_STEPS:08d}" / "model" / SHARD)
    assert torch.equal(
        load_file(run / "model" / "2_Dense" / "model.safetensors")["linear.weight"], final["dense.weight"]
    )


@pytest.mark.parametrize(
    "sections",
    [
        {"step": {"queries": 0}},
        {"step": {"sts_pairs": 0, "num_negatives": 0, "in_batch": "step"}},
        {"step": {"mixing": "sequential"}},
        {"step": {"one_dataset": True}},
        {"training": {"precision": "bfloat16", "activation_checkpointing": True, "chunk_tokens": 40}},
        {"hard_negatives": {"source": "static"}},
        {"hard_negatives": {"source": "bank", "bank_width": 4, "refresh": 2}},
        {"hard_negatives": {"source": "remine"}},
    ],
    ids=str,
)
def test_kinds_of_runs(recipe, base, sections):
    retrieval = [
        {"name": "pairs", "path": str(base / "pairs.jsonl")},
        {"name": "given", "path": str(base / "given.jsonl"), "negative_source": "given"},
        {"name": "none", "path": str(base / "given.jsonl"), "negative_source": "none"},
    ]
    classes = [{"name": "classes", "path": str(base / "classes.jsonl")}]
    data = {"retrieval": retrieval, "classification": classes}
    step = {"queries": 4, "sts_pairs": 4, "num_negatives": 1} | sections.get("step", {})
    run = train(recipe(**(sections | {"data": data, "step": step})))
    metrics = lines(run, "metrics")
    assert len(metrics) == NUM_STEPS
    assert any("loss/retrieval" in line for line in metrics) == (step["queries"] > 0)
    assert any("loss/sts" in line for line in metrics) == (step["sts_pairs"] > 0)


def test_rankings_made_before_are_used(recipe, base, tmp_path, monkeypatch):
    folder = mine(recipe(), tmp_path / "rankings")
    data = {"retrieval": [{"name": "pairs", "path": str(base / "pairs.jsonl"), "ranking": str(folder)}]}
    expected = train(recipe("one"))
    monkeypatch.setattr("conan_embed.negatives.prepare.mine", None)
    assert_same_run(train(recipe("two", data=data)), expected)


def test_a_finished_run_is_left_alone(recipe, base):
    wanted = recipe(evaluation={"folder": str(base / "eval"), "every": 2}, optimizer={"learning_rate": 0.3})
    run = train(wanted)
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    assert train(wanted) == run
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_a_new_start_forgets_the_old_one(recipe):
    run = train(recipe())
    expected = weights(run)
    train(recipe(loss={"temperature": 0.5}), resume=False)
    assert [line["step"] for line in lines(run, "metrics")] == list(range(1, NUM_STEPS + 1))
    other = weights(run)
    assert any(not torch.equal(other[p][n], t) for p, tensors in expected.items() for n, t in tensors.items())


@pytest.mark.parametrize(
    "mistake",
    [
        {"data": {"retrieval": [{"name": "pairs", "path": "absent.jsonl"}]}},
        {"model": {"base": "./absent"}},
        {"evaluation": {"folder": "absent"}},
    ],
    ids=str,
)
def test_a_new_start_that_cannot_begin_leaves_the_old_run(recipe, mistake):
    run = train(recipe())
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    with pytest.raises(UserError, match="absent"):
        train(recipe(**mistake), resume=False)
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_a_new_start_that_is_killed_while_mining_is_no_finished_run(recipe, monkeypatch):
    run = train(recipe())

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("conan_embed.training.run.make_table", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), resume=False)
    assert not (run / "run.json").exists() and not RunFolder(run).is_finished()


def test_a_loss_that_is_not_finite_stops_the_run(recipe, base, tmp_path):
    shutil.copytree(base / "model", tmp_path / "broken")
    file = tmp_path / "broken" / "2_Dense" / "model.safetensors"
    tensors = load_file(file)
    tensors["linear.weight"][:] = 3e38  # finite, but what it makes of an embedding is not
    save_file(tensors, file)
    wanted = recipe(model={"base": str(tmp_path / "broken")}, step={"num_negatives": 0})
    with pytest.raises(UserError) as error:
        train(wanted)
    for words in ("step 1: the loss is nan", "text ids of the step: ", "No checkpoint was written yet"):
        assert words in str(error.value)


def test_the_last_good_checkpoint_is_named_and_the_weights_in_it_are_finite(recipe, tmp_path):
    wanted = recipe(
        optimizer={"learning_rate": 1e30, "warmup_ratio": 0.0}, training={"checkpoint_every": 1, "steps": 8}
    )
    with pytest.raises(UserError, match=r"step \d+: the (loss|gradient norm) is (nan|inf)") as error:
        train(wanted)
    last = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert f"The last good checkpoint is {last}" in str(error.value)
    assert all(torch.isfinite(t).all() for t in load_file(last / "model" / SHARD).values())
