"""Which arms there are, what each changes, and what is refused."""

import numpy as np
import pytest

from conan_embed.ablation.arms import grid, table_4
from conan_embed.errors import UserError
from conan_embed.recipes.schema import Recipe

# What the paper's arms differ in: the scope of a query's negatives, and whether a step holds all tasks.
JOINT = ("step.mixing=joint", "step.in_batch=step_hard")
ONE_TASK = ("step.mixing=sequential", "step.in_batch=none")


def recipe(**sections):
    values = {
        "model": {"base": "b"},
        "data": {"retrieval": [{"name": "r", "path": "r"}], "sts": [{"name": "s", "path": "s"}]},
        "training": {"steps": 100},
    }
    return Recipe.model_validate(values | sections)


def test_the_arms_of_table_4_see_as_many_examples():
    arms = {arm.name: set(arm.overrides) for arm in table_4(recipe())}
    assert list(arms) == ["base", "vanilla", "CBB", "DHNM", "CBB + DHNM"]
    assert arms["vanilla"] == {
        *ONE_TASK,
        "hard_negatives.source=static",
        "training.steps=200",
        "hard_negatives.interval=200",
    }
    assert arms["CBB"] == {*JOINT, "hard_negatives.source=static"}
    assert arms["DHNM"] == arms["vanilla"] - {"hard_negatives.source=static"} | {
        "hard_negatives.source=ranking"
    }
    assert arms["CBB + DHNM"] == {*JOINT, "hard_negatives.source=ranking"}


def test_table_4_takes_the_recipe_at_its_word():
    bank = table_4(recipe(hard_negatives={"source": "bank"}))[-1]
    assert "hard_negatives.source=bank" in bank.overrides
    vanilla = table_4(recipe(), "updates")[1]
    assert set(vanilla.overrides) == {*ONE_TASK, "hard_negatives.source=static"}
    by_epochs = table_4(recipe(training={"epochs": 3}), "updates")[1]
    assert "training.epochs=1.5" in by_epochs.overrides


def test_a_grid_is_every_combination_first_values_first():
    arms = grid(
        [
            "hard_negatives.decay=1.05,1.15",
            "model.widths=[16,8],[16]",
            "loss.beta=0.5",
            "step.queries+step.sts_pairs=4+8,6+2",
        ]
    )
    assert len(arms) == 8
    assert arms[0].name == "decay=1.05, widths=[16,8], queries+sts_pairs=4+8"
    assert arms[0].overrides == (
        "loss.beta=0.5",
        "hard_negatives.decay=1.05",
        "model.widths=[16,8]",
        "step.queries=4",
        "step.sts_pairs=8",
    )
    assert len({arm.folder for arm in arms}) == 8


def test_one_at_a_time_is_a_line_through_the_first_values_for_each_key():
    settings = [
        "hard_negatives.decay=1.15,1.02,1.3",
        "loss.beta=0.8,0.4",
        "step.num_negatives=3",
        "a+b=1+2,3+4",
    ]
    arms = grid(settings, one_at_a_time=True)
    assert [arm.name for arm in arms] == ["first values", "decay=1.02", "decay=1.3", "beta=0.4", "a+b=3+4"]
    assert arms[0].overrides == (
        "step.num_negatives=3",
        "hard_negatives.decay=1.15",
        "loss.beta=0.8",
        "a=1",
        "b=2",
    )
    assert arms[3].overrides == (
        "step.num_negatives=3",
        "hard_negatives.decay=1.15",
        "loss.beta=0.4",
        "a=1",
        "b=2",
    )
    assert dict(arms[2].values) == {"hard_negatives.decay": "1.3", "loss.beta": "0.8", "a+b": "1+2"}
    assert grid(settings[:1], one_at_a_time=True) == grid(
        settings[:1]
    )  # one key: the same arms, names and all


def test_names_are_as_long_as_needed():
    assert [arm.name for arm in grid(["model.base=x/small,x/large"])] == ["base=small", "base=large"]
    assert [arm.name for arm in grid(["model.base=x/small,y/small"])] == ["base=x/small", "base=y/small"]
    names = grid(["data.retrieval.0.weight=1,2", "data.sts.0.weight=1,2"])
    assert names[0].name == "data.retrieval.0.weight=1, data.sts.0.weight=1"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["hard_negatives.decay"], "key=value"),
        (["hard_negatives.decay=1,,2"], "key=value"),
        (["hard_negatives.decay=1,1"], "twice"),
        (["a+b=1+2,3"], "2, one for each key"),
        (["hard_negatives.decay=1.15"], "nothing varies"),
    ],
)
def test_a_wrong_grid_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        grid(settings)


@pytest.mark.parametrize("step", [{"sts_pairs": 0}, {"num_negatives": 0}])
def test_table_4_needs_both_tasks_and_negatives(step):
    with pytest.raises(UserError, match=r"step\.(sts_pairs|num_negatives)"):
        table_4(recipe(step=step))


def test_numbers_of_a_grid_reach_the_recipe_as_numbers(tmp_path):
    from conan_embed.recipes.loading import load_recipe

    (tmp_path / "r.yaml").write_text(recipe().as_yaml())
    arm = grid(["optimizer.learning_rate=1e-5,2e-5"])[1]
    assert np.isclose(load_recipe(tmp_path / "r.yaml", list(arm.overrides)).optimizer.learning_rate, 2e-5)
