"""Settings that follow from model, data and time."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from conan_embed.errors import UserError
from conan_embed.recipes.loading import load_recipe
from conan_embed.tuning.plan import LOOKING, MIN_STEPS, STEPS, Facts, Files, make_plan
from conan_embed.tuning.speed import Speed

FACTS = Facts(
    base="base",
    parameters=33_000_000,
    background=0.2,
    device="cpu",
    max_length=272,
    queries=5_000,
    corpus=9_000,
    passages=10_000,
    test=300,
    development=130,
    development_passages=3_000,
    other_passages=1_500,
    speed=Speed(encode=20_000, train=6_000, passage_tokens=150, query_tokens=15),
)


def _files(folder: Path) -> Files:
    files = Files(folder)
    for path in (files.clean, files.corpus):
        path.write_text("")
    return files


def test_the_plan_is_a_recipe_that_can_be_read_again(tmp_path: Path) -> None:
    plan = make_plan(FACTS, _files(tmp_path))
    assert load_recipe(tmp_path / "recipe.yaml") == plan.recipe
    assert plan.recipe.step.sts_pairs == 0
    assert plan.recipe.mining.max_positive_ratio == 0.95
    assert (
        plan.recipe.mining.min_usable >= 2 * plan.recipe.step.num_negatives
    )  # a second window to replace with


def test_more_queries_get_fewer_passes_and_larger_models_smaller_steps(tmp_path: Path) -> None:
    files = _files(tmp_path)

    def passes(queries: int) -> float:
        recipe = make_plan(replace(FACTS, queries=queries), files).recipe
        assert recipe.training.steps is not None
        return recipe.training.steps * recipe.step.queries / queries

    assert passes(1_000) > passes(5_000) > passes(50_000) >= 1
    rates = [
        make_plan(replace(FACTS, parameters=size), files).recipe.optimizer.learning_rate
        for size in (20_000_000, 110_000_000, 560_000_000)
    ]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 3


def test_models_whose_cosines_all_lie_high_get_a_low_temperature(tmp_path: Path) -> None:
    files = _files(tmp_path)
    wide, narrow = make_plan(FACTS, files).recipe, make_plan(replace(FACTS, background=0.8), files).recipe
    assert narrow.loss.temperature < wide.loss.temperature
    assert narrow.mining.subtract_background and not wide.mining.subtract_background


def test_minutes_bound_the_steps_and_the_estimate_keeps_to_them(tmp_path: Path) -> None:
    files = _files(tmp_path)
    free = make_plan(FACTS, files)
    bound = make_plan(FACTS, files, minutes=free.minutes * 0.7)
    assert bound.minutes <= free.minutes * 0.7
    assert bound.recipe.training.steps < free.recipe.training.steps
    assert "instead of" in "\n".join(bound.lines())
    assert make_plan(FACTS, files, minutes=1e6).recipe == free.recipe


def test_too_little_time_is_refused_with_what_would_do(tmp_path: Path) -> None:
    files = _files(tmp_path)
    with pytest.raises(UserError, match=r"--minutes: found 1, but .* expected (\d+) or more") as caught:
        make_plan(FACTS, files, minutes=1)
    enough = int(str(caught.value).split("expected ")[1].split()[0])
    assert make_plan(FACTS, files, minutes=enough).recipe.training.steps >= MIN_STEPS


def test_the_estimate_adds_up_what_is_encoded_and_trained(tmp_path: Path) -> None:
    plan = make_plan(FACTS, _files(tmp_path))
    steps, queries = plan.recipe.training.steps, plan.recipe.step.queries
    per_query = 15 + (1 + plan.recipe.step.num_negatives) * 150
    assert plan.steps == steps
    assert plan.seconds[STEPS] == pytest.approx(steps * queries * per_query / 6_000)
    looks = math.ceil(steps / plan.recipe.evaluation.every)
    look = (3_000 * 150 + 130 * 15) / 20_000
    mining = (9_000 * 150 + 5_000 * 15) / 20_000
    assert plan.seconds[LOOKING] == pytest.approx(mining + (looks + 1) * look)
    assert looks * look < 0.15 * plan.seconds[STEPS]
    assert plan.minutes * 60 == pytest.approx(sum(plan.seconds.values()))


def test_settings_of_the_user_come_last(tmp_path: Path) -> None:
    plan = make_plan(FACTS, _files(tmp_path), overrides=["optimizer.learning_rate=1e-6", "training.steps=33"])
    assert plan.recipe.optimizer.learning_rate == 1e-6
    assert plan.steps == 33
    with pytest.raises(UserError, match="learning_rat"):
        make_plan(FACTS, _files(tmp_path), overrides=["optimizer.learning_rat=1e-6"])


def test_a_shorter_length_makes_steps_shorter(tmp_path: Path) -> None:
    facts = replace(FACTS, speed=replace(FACTS.speed, lengths=(50, 250)))
    short = make_plan(facts, _files(tmp_path), overrides=["model.max_length=64"])
    assert short.seconds[STEPS] == pytest.approx(
        short.steps * short.recipe.step.queries * (15 + (1 + short.recipe.step.num_negatives) * 57) / 6_000
    )


def test_other_programs_are_named(tmp_path: Path) -> None:
    busy = replace(FACTS, speed=replace(FACTS.speed, busy=0.8))
    assert "other programs use 80%" in "\n".join(make_plan(busy, _files(tmp_path)).lines())
    assert "other programs" not in "\n".join(make_plan(FACTS, _files(tmp_path)).lines())
