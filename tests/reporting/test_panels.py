"""Drawings of the report: which there are, what they are called, and whose colour is whose."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conan_embed.recipes.schema import Recipe
from conan_embed.reporting import canvas, panels
from conan_embed.reporting.panels import Entry
from conan_embed.reporting.runs import Evaluation, RunFiles, Score
from tests.support.fake_run import RECIPE

EMPTY = RunFiles(path=Path(), name="empty")
STEPS = (10, 20, 30)


def a_run(name: str = "run", *, mixing: str | None = None, checks: Any = (), **columns: float) -> RunFiles:
    """A run of three steps, each with the same values."""
    recipe = None if mixing is None else Recipe.model_validate(RECIPE | {"step": {"mixing": mixing}})
    metrics = pl.DataFrame([{"step": step, **columns} for step in STEPS]) if columns else pl.DataFrame()
    return RunFiles(path=Path(), name=name, recipe=recipe, metrics=metrics, checks=pl.DataFrame(list(checks)))


def evaluated(name: str, **scores: list[float]) -> RunFiles:
    """A run whose STS tasks were scored at steps 0, 1, ...; a task ends where its list does."""
    evaluations = [
        Evaluation(
            step,
            {
                f"sts/{task}": Score(f"sts/{task}", task, "sts", "m", {8: values[step]})
                for task, values in scores.items()
                if step < len(values)
            },
            0.0,
        )
        for step in range(max(map(len, scores.values())))
    ]
    return RunFiles(path=Path(), name=name, evaluations=tuple(evaluations))


def titles(drawings: Any) -> list[str]:
    assert all(drawing.svg.startswith("<svg") for drawing in drawings)
    return [drawing.title for drawing in drawings]


@pytest.mark.parametrize("count", [1, 2, 30])
def test_each_run_has_its_colour_and_colours_come_again(count):
    legend = panels.run_legend([a_run(f"<{number}>") for number in range(count)])
    assert [entry.label for entry in legend] == [f"<{number}>" for number in range(count)]
    assert [entry.series for entry in legend] == [number % canvas.NUM_SERIES for number in range(count)]


@pytest.mark.parametrize("section", ["scores", "negatives", "mixing", "speed", "evaluation", "losses"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_section_without_data_is_left_out(section, count):
    assert not getattr(panels, section)([EMPTY] * count)


def test_a_task_that_was_evaluated_once_has_no_curve():
    drawings = panels.evaluation([evaluated("a", 中文=[31.04, 40.0, 35.06], once=[1.0], b=[2.0, 2.0])])
    assert titles(drawings) == ["b", "中文"]
    assert [drawing.latest for drawing in drawings] == ["2.0 → 2.0", "31.0 → 35.1"]


def test_tasks_of_any_run_are_drawn_for_all():
    drawings = panels.evaluation([evaluated("a", x=[1.0, 2.0]), evaluated("b", y=[1.0, 2.0])])
    assert titles(drawings) == ["x", "y"]
    assert [drawing.latest for drawing in drawings] == ["", ""]


CHECKS = [{"step": step, "observed": 10, "replaced": step // 10} for step in STEPS]


@pytest.mark.parametrize("checks", [[], [{"step": 10, "observed": 9, "replaced": 0}], CHECKS])
def test_marks_of_figure_2_are_explained_where_there_are_any(checks):
    runs = [a_run(name, checks=checks, **{"score/positive": 0.7, "score/negative": 0.4}) for name in "ab"]
    single, both = panels.scores(runs[:1]), panels.scores(runs)
    (drawing,) = single.drawings
    assert drawing.svg != drawing.narrow and drawing.narrow.startswith("<svg")
    labels = [entry.label for entry in drawing.legend]
    marked = checks is CHECKS
    assert labels[:2] == ["positives", "hard negatives"]
    assert ("a check replaced negatives (the darker, the more)" in labels) == marked
    assert both.drawings[0].legend == [
        *[Entry("a", 0), Entry("b", 1), Entry("positives"), Entry("hard negatives", None, "dashed")]
    ]
    assert ("The ticks at the foot are checks" in both.note) == marked


def test_checks_are_drawn_by_what_they_recorded():
    checks = [{**check, "mean_rank": 12.0, "bank_age": 5, "bank_age_max": 9} for check in CHECKS]
    single = panels.negatives([a_run(checks=checks)])
    assert titles(single.drawings) == [
        "Queries with new negatives",
        "Mean rank in use",
        "Age of the bank, steps",
    ]
    assert [(entry.label, entry.series) for entry in single.drawings[2].legend] == [
        ("mean", 0),
        ("oldest", 1),
    ]
    assert [name for name, _ in single.summaries] == [""]
    several = panels.negatives([a_run("a", checks=checks), a_run("static"), a_run("b", checks=CHECKS)])
    assert [name for name, _ in several.summaries] == ["a", "b"]
    assert [entry.style for entry in several.drawings[2].legend] == ["", "dashed"]


def test_losses_are_the_total_and_that_of_each_task_of_any_run():
    runs = [a_run(loss=1.0, **{"loss/sts": 0.5}), a_run(loss=1.0, **{"loss/retrieval": 0.5, "lossy": 3.0})]
    assert titles(panels.losses(runs)) == ["Total", "Retrieval", "STS"]
    assert titles(panels.losses(runs[:1])) == ["Total", "STS"]


def test_mixing_compares_runs_that_mix_differently():
    columns = {"loss/retrieval": 1.0, "loss/sts": 0.5}
    joint, sequential = a_run("<j>", mixing="joint", **columns), a_run("s", mixing="sequential", **columns)
    unknown = a_run("?", **columns)
    assert panels.mixing([joint, joint, unknown]) is None
    found = panels.mixing([sequential, unknown, joint])
    assert titles(found.drawings) == ["Retrieval", "STS", "Retrieval + STS"]
    assert [(entry.label, entry.series) for entry in found.legend] == [
        ("s: one task a step", 0),
        ("?", 1),
        ("<j>: all tasks in every step (Cross-GPU Batch Balance)", 2),
    ]
    of_one_task = [a_run(name, mixing=name, **{"loss/sts": 0.5}) for name in ("joint", "sequential")]
    assert titles(panels.mixing(of_one_task).drawings) == ["STS"]


def test_speed_says_a_sentence_of_one_run_alone():
    run = a_run(tokens_per_second=7_770.0, learning_rate=1e-5)
    found = panels.speed([run])
    assert titles(found.drawings) == ["Real tokens a second", "Learning rate"]
    assert re.search("7,770 real", found.note)
    assert panels.speed([run, run]).note == ""
