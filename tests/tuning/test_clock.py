"""Times by part, and the estimate said again."""

from conan_embed.recipes.schema import Recipe
from conan_embed.tuning.clock import Clock
from conan_embed.tuning.plan import CHOOSING, LOOKING, SCORING, STEPS, Plan

RECIPE = Recipe.small(model="base", retrieval="faq.jsonl")


def test_after_the_first_steps_what_is_left_is_said_by_what_they_took(capsys) -> None:
    planned = {SCORING: 200.0, LOOKING: 10.0, CHOOSING: 50.0, STEPS: 1000.0}
    clock = Clock(Plan(RECIPE, 100, planned))
    clock.seconds[SCORING] = 50.0  # of the base, of which 100 were expected
    for step in range(1, 12):
        clock.after_step(step, 4.0)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "estimated again" in line]
    left = 90 * 4.0 + 0.5 * (100 + 50)
    assert f"{left / 60:.1f} min left" in line
    assert "a step takes 4 s (10 expected)" in line


def test_steps_within_a_part_count_as_steps() -> None:
    clock = Clock(Plan(RECIPE, 2, {STEPS: 1.0}))
    with clock.part(LOOKING):
        clock.after_step(1, 3.0)
        clock.after_step(2, 4.0)
    assert clock.seconds[STEPS] == 7.0
    assert clock.seconds[LOOKING] < 0
