"""The report's scores: means, differences and places on the line, against plain sums over the same numbers."""

import statistics
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conan_embed.recipes.schema import Recipe
from conan_embed.reporting.runs import FULL_WIDTH, Evaluation, RunFiles, Score
from conan_embed.reporting.scores import common_start, results, union, widths
from tests.support.fake_run import RECIPE

METRICS = {"retrieval": "ndcg_at_10", "sts": "cosine_spearman", "classification": "accuracy"}
BEFORE = {"retrieval/医疗": 33.14, "retrieval/<b>": 50.0, "sts/STSB": 71.0}
AFTER = {"retrieval/医疗": 41.26, "retrieval/<b>": 49.0, "sts/STSB": 71.04}


def an_evaluation(
    step: int, values: dict[str, float], average: float | None = None, **by_width: float
) -> Evaluation:
    """Scores at the full width; `by_width` are factors at narrower ones (w64=0.5)."""
    scores = {}
    for key, value in values.items():
        kind, _, task = key.partition("/")
        at = {FULL_WIDTH: value} | {int(name[1:]): value * factor for name, factor in by_width.items()}
        scores[key] = Score(key, task, kind, METRICS.get(kind, "m"), at)
    mean = statistics.fmean(values.values()) if values else float("nan")
    return Evaluation(step, scores, mean if average is None else average)


def a_run(*evaluations: Evaluation, name: str = "run", keep_best: bool = False, steps: int = 0) -> RunFiles:
    recipe = Recipe.model_validate(RECIPE | {"evaluation": {"folder": "eval", "keep_best": keep_best}})
    metrics = pl.DataFrame({"step": [steps]}) if steps else pl.DataFrame()
    return RunFiles(path=Path(), name=name, recipe=recipe, metrics=metrics, evaluations=evaluations)


def texts(table: Any) -> dict[str, list[str]]:
    return {row.name: [cell.text for cell in row.cells] for group in table.groups for row in group.rows}


def test_before_and_after_stand_beside_their_difference_and_on_one_line():
    table = results([a_run(an_evaluation(0, BEFORE), an_evaluation(100, AFTER))])
    assert table.columns == ["before", "after", "difference"]
    assert [group.title for group in table.groups] == ["Retrieval · nDCG@10", "STS · Spearman", "All tasks"]
    rows = texts(table)
    assert rows["医疗"] == ["33.1", "41.3", "+8.1"]
    assert rows["<b>"] == ["50.0", "49.0", "−1.0"]
    assert rows["STSB"] == ["71.0", "71.0", "0.0"]
    assert rows["Mean of 2"] == ["41.6", "45.1", "+3.6"]
    kinds = [(statistics.fmean([33.14, 50.0]) + 71.0) / 2, (statistics.fmean([41.26, 49.0]) + 71.04) / 2]
    assert rows["Mean of 2 kinds"][:2] == [f"{value:.1f}" for value in kinds]
    tasks = [statistics.fmean(values.values()) for values in (BEFORE, AFTER)]
    assert rows["Mean of 3 tasks"][:2] == [f"{value:.1f}" for value in tasks]
    tones = {row.name: row.cells[2].tone for group in table.groups for row in group.rows}
    assert (tones["医疗"], tones["<b>"], tones["STSB"]) == ("good", "bad", "")
    low, middle, high = table.scale
    assert (low, middle, high) == (30, 55, 80)
    for group in table.groups:
        for row in group.rows:
            start, stop = row.track["start"], row.track["stop"]
            for place, cell in zip((start, stop), row.cells, strict=False):
                assert place == pytest.approx(100 * (float(cell.text) - low) / (high - low), abs=0.11)
            assert (row.track["low"], row.track["high"]) == (min(start, stop), max(start, stop))


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.0], [-10, -5, 0]),
        ([30.0], [20, 25, 30]),
        ([-3.0, 12.0], [-10, 5, 20]),
        ([99.9, 100.0], [90, 95, 100]),
    ],
)
def test_the_line_runs_from_ten_to_ten_around_all_scores(values, scale):
    scores = {f"sts/{n}": value for n, value in enumerate(values)}
    table = results([a_run(an_evaluation(0, scores), an_evaluation(1, scores))])
    low, _, high = table.scale
    assert low <= min(values) and high >= max(values) and low % 10 == high % 10 == 0
    assert high - low >= 10
    assert table.scale == scale


def test_a_task_that_one_side_lacks_has_a_dash_and_is_in_no_mean():
    table = results(
        [
            a_run(
                an_evaluation(0, {"sts/a": 10.0, "sts/b": 20.0}),
                an_evaluation(1, {"sts/b": 30.0, "sts/c": 90.0}),
            )
        ]
    )
    rows = texts(table)
    assert rows == {"a": ["10.0", "–", ""], "b": ["20.0", "30.0", "+10.0"], "c": ["–", "90.0", ""]}
    assert [row.track is None for group in table.groups for row in group.rows] == [True, False, True]


def test_without_any_score_there_is_no_table():
    assert results([a_run()]) is None
    assert widths([a_run()]) is None
    nothing = an_evaluation(0, {}), an_evaluation(1, {})
    assert results([a_run(*nothing)]) is None
    assert results([a_run(*nothing), a_run(*nothing)]) is None


def test_a_run_that_was_evaluated_once_has_one_column():
    assert results([a_run(an_evaluation(0, BEFORE))]).columns == ["before"]
    table = results([a_run(an_evaluation(5, AFTER))])
    assert table.columns == ["after"] and table.scale is None
    assert texts(table)["医疗"] == ["41.3"]


def test_runs_of_one_start_share_its_column_and_are_compared_with_the_first_run():
    start, values = an_evaluation(0, BEFORE), {"a": 70.0, "b": 72.0, "c": 72.0}
    runs = [
        a_run(start, an_evaluation(9, {**AFTER, "sts/STSB": value}), name=name)
        for name, value in values.items()
    ]
    table = results(runs)
    assert table.columns == ["before", "a", "b", "c"] and table.scale is None
    (row,) = [row for group in table.groups for row in group.rows if row.name == "STSB"]
    assert [cell.text for cell in row.cells] == ["71.0", "70.0", "72.0", "72.0"]
    notes = [(cell.note, cell.note_tone) for cell in row.cells]
    assert notes == [("", ""), ("", ""), ("+2.0", "good"), ("+2.0", "good")]
    assert [cell.best for cell in row.cells] == [False, False, True, True]


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (an_evaluation(0, BEFORE), True),
        (an_evaluation(0, {key: value + 0.04 for key, value in BEFORE.items()}), True),
        (an_evaluation(0, {key: value + 0.06 for key, value in BEFORE.items()}), False),
        (an_evaluation(0, {"sts/STSB": 71.0}), False),
        (an_evaluation(3, BEFORE), False),
    ],
)
def test_a_start_is_common_where_all_scores_are_within_rounding(other, shared):
    first = an_evaluation(0, BEFORE)
    assert common_start([a_run(first), a_run(other)]) is (first if shared else None)
    assert common_start([a_run(other), a_run(first)]) is (other if shared else None)
    assert common_start([a_run(first)]) is first


def test_each_task_of_any_evaluation_is_there_once():
    found = union([an_evaluation(0, BEFORE), an_evaluation(1, {"sts/new": 1.0}), an_evaluation(2, AFTER)])
    assert [score.key for score in found] == [*BEFORE, "sts/new"]
    assert found[0].value == AFTER["retrieval/医疗"]
    assert union([]) == []


def test_widths_of_one_run_stand_beside_the_same_prefix_before_training():
    factors = {"w128": 0.9, "w64": 0.5}
    table = widths([a_run(an_evaluation(0, BEFORE, **factors), an_evaluation(9, AFTER, **factors))])
    assert table.columns == ["full", "128", "64"] and table.corner == "Task"
    rows = {row.name: row for row in table.rows}
    for key, value in AFTER.items():
        cells = rows[key.partition("/")[2]].cells
        assert [cell.text for cell in cells] == [f"{value * factor:.1f}" for factor in (1, 0.9, 0.5)]
    assert [cell.note for cell in rows["医疗"].cells] == ["+8.1", "+7.3", "+4.1"]
    mean = statistics.fmean(AFTER.values())
    assert [cell.text for cell in rows["Mean of 3 tasks"].cells] == [f"{mean * f:.1f}" for f in (1, 0.9, 0.5)]
    assert "before training" in table.note


def test_widths_of_several_runs_are_means_and_a_width_that_some_task_lacks_a_dash():
    uneven = an_evaluation(9, {"sts/a": 40.0, "sts/b": 60.0}, w64=0.5)
    uneven.scores["sts/b"].by_width.pop(64)
    even = an_evaluation(9, {"sts/a": 20.0, "sts/b": 40.0}, w64=0.5)
    table = widths([a_run(uneven, name="uneven"), a_run(even, name="even"), a_run(name="none")])
    assert table.corner == "Run"
    assert [(row.name, [cell.text for cell in row.cells]) for row in table.rows] == [
        ("uneven", ["50.0", "–"]),
        ("even", ["30.0", "15.0"]),
    ]
    assert widths([a_run(an_evaluation(9, AFTER))]) is None, "one width alone is the other table"


@pytest.mark.parametrize(
    ("average", "step", "keep_best", "words"),
    [
        (60.0, 100, False, "● after training."),
        (60.0, 40, False, "● after 40 of 100 steps, the best by average."),
        (40.0, 100, True, "so model/ is the model from before training."),
        (50.0, 100, True, "so model/ is the model from before training."),
        (60.0, 100, True, "● after training."),
    ],
)
def test_the_note_says_which_step_the_scores_are_of(average, step, keep_best, words):
    evaluations = an_evaluation(0, BEFORE, 50.0), an_evaluation(step, AFTER, average)
    table = results([a_run(*evaluations, keep_best=keep_best, steps=100)])
    assert table.note.endswith(words)
