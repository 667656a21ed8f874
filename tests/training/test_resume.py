"""A resumed run is the run that was never interrupted, and one that would be another is refused."""

import json
from pathlib import Path

import pytest
import yaml

from conan_embed.errors import UserError
from conan_embed.training.checkpoint import checkpoints
from conan_embed.training.resume import ResumePoint
from conan_embed.training.run import train
from tests.support.small_runs import NUM_STEPS, assert_same_run, interrupt_at, killed, lines, write


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"hard_negatives": {"source": "bank", "refresh": 2}},
        {
            "step": {"mixing": "sequential", "queries": 16},
            "model": {"dropout": 0.2},
            "training": {"precision": "bfloat16"},
        },
        {
            "step": {"in_batch": "step_hard"},
            "loss": {"ignore_above_positive": 0.0},
            "hard_negatives": {"source": "remine", "rule": "each", "interval": 1, "decay": 0.9},
        },
        {"hard_negatives": {"rule": "share", "min_share": 0.5, "interval": 2}},
    ],
    ids=["ranking", "bank", "sequential, dropout, bfloat16", "each, remine, guard", "share"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(recipe, base, monkeypatch, sections):
    sections = sections | {"evaluation": {"folder": str(base / "eval"), "every": 2}}
    undisturbed = train(recipe("undisturbed", **sections))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("killed", **sections))
    assert [path.name for path in checkpoints(undisturbed.parent / "killed" / "checkpoints")] == [
        "step-00000003"
    ]
    run = train(recipe("killed", **sections))
    assert sum(line["replaced"] for line in lines(run, "negatives")) > 0
    assert_same_run(run, undisturbed)


def test_a_run_that_finds_more_or_less_memory_than_before_is_the_same_run(recipe, monkeypatch):
    """Where memory decides how large chunks are, it does so once."""

    def fitting(tokens):
        monkeypatch.setattr("conan_embed.training.run.measure_fitting_tokens", lambda *_: tokens)

    monkeypatch.setattr("conan_embed.training.memory._SMALLEST", 1)
    fitting(50)
    undisturbed = train(recipe("undisturbed"))
    for name, tokens in (("less", 42), ("more", 10**6)):
        fitting(50)
        with monkeypatch.context() as patch:
            interrupt_at(patch, 5, killed)
            with pytest.raises(KeyboardInterrupt):
                train(recipe(name))
        fitting(tokens)
        assert_same_run(train(recipe(name)), undisturbed)


def test_killed_before_the_first_checkpoint_and_inside_the_last_line(recipe, monkeypatch):
    undisturbed = train(recipe("undisturbed"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("killed"))
    with (undisturbed.parent / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert_same_run(train(recipe("killed")), undisturbed)


def test_a_changed_recipe_is_refused_with_the_difference(half, tmp_path):
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    changed = half(loss={"temperature": 0.5}, step={"queries": 4, "sts_pairs": 2})
    with pytest.raises(UserError) as error:
        train(changed)
    for words in (
        "loss.temperature (was 0.02, is 0.5)",
        "step.sts_pairs (was 4, is 2)",
        "--allow-changes",
        "step-00000005",
    ):
        assert words in str(error.value)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before
    run = train(changed, allow_changes=True)
    assert len(lines(run, "metrics")) == NUM_STEPS
    assert yaml.safe_load((run / "recipe.yaml").read_text())["loss"]["temperature"] == 0.5


def test_settings_that_change_nothing_may_change(half, base):
    train(half(tracking={"tensorboard": True}, evaluation={"folder": str(base / "eval")}))


def test_what_an_out_of_memory_error_advises_may_change_unless_dropout_would_draw_other_masks(half):
    point = ResumePoint(checkpoints(Path(half().output) / "checkpoints")[-1])
    advised = {"activation_checkpointing": True, "placement": "dedicated", "sts_share": 0.5}
    point.check_recipe(half(training={**advised, "chunk_tokens": 64}).as_dict())
    with pytest.raises(
        UserError, match=r"changed since: model\.dropout .*; training\.chunk_tokens \(was .*, is 64\)\."
    ):
        point.check_recipe(half(model={"dropout": 0.1}, training={"chunk_tokens": 64}).as_dict())
    with pytest.raises(UserError, match=r"training\.chunk_tokens"):
        point.check_recipe(half(model={"lora": {"dropout": 0.1}}, training={"chunk_tokens": 64}).as_dict())


def test_a_run_resumed_with_other_chunks_is_the_same_run_to_rounding(half, recipe):
    undisturbed = train(recipe("undisturbed"))
    run = train(half(training={"chunk_tokens": 64, "activation_checkpointing": True}))
    losses = [[line["loss"] for line in lines(each, "metrics")] for each in (run, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_sets_of_mteb_may_be_others(half):
    """As all evaluation settings but what is held out; the sets themselves are compared by their hash."""
    point = ResumePoint(checkpoints(Path(half().output) / "checkpoints")[-1])
    point.check_recipe(half(evaluation={"mteb": ["NanoBEIR"], "every": 2}).as_dict())
    with pytest.raises(UserError, match=r"the recipe changed since: evaluation.hold_out"):
        point.check_recipe(half(evaluation={"hold_out": 0.2}).as_dict())


def test_other_texts_under_a_checkpoint_are_refused(half, base, tmp_path):
    data = tmp_path / "pairs.jsonl"
    write(data, [{"query": "new", "positive": ["text"]}])
    rows = (base / "pairs.jsonl").read_text(encoding="utf-8")
    data.write_text(rows + data.read_text(encoding="utf-8"), encoding="utf-8")
    changed = half(data={"retrieval": [{"name": "pairs", "path": str(data)}]})
    with pytest.raises(UserError, match="step-00000005: the data changed since: texts, queries of 'pairs'"):
        train(changed, allow_changes=True)


def test_an_interrupted_start_does_not_leave_rankings_to_other_settings(recipe, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(mining={"offset": 4}))
    run = train(recipe())
    assert json.loads((run / "mining" / "mining.json").read_text())["settings"]["mining"]["offset"] == 1
    assert_same_run(run, train(recipe("fresh")))


def test_rankings_of_an_interrupted_start_are_used_again(recipe, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe())
    monkeypatch.setattr("conan_embed.negatives.prepare.mine", None)
    train(recipe())


@pytest.mark.parametrize("source", ["ranking", "bank", "remine"])
def test_a_longer_run_makes_up_for_the_check_that_its_end_left_out(recipe, source):
    """A run of four steps does not check after the last; given four more, it is the run of eight steps."""
    same = {
        "hard_negatives": {"source": source},
        "optimizer": {"schedule": "constant", "warmup_ratio": 0, "learning_rate": 2e-3},
    }
    whole = train(recipe("whole", **same))
    short = train(recipe("longer", training={"steps": 4}, **same))
    assert [line["step"] for line in lines(short, "negatives")] == [2]
    longer = train(recipe("longer", **same), allow_changes=True)
    assert [line["step"] for line in lines(longer, "negatives")] == [2, 4, 6]
    assert sum(line["replaced"] for line in lines(longer, "negatives")[1:2]) > 0
    assert_same_run(longer, whole)
