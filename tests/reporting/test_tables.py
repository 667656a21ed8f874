"""The report's tables: key numbers, what run.json says, and where recipes differ; values as a person writes them."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conan_embed.recipes.schema import Recipe
from conan_embed.reporting.runs import RunFiles, read_runs
from conan_embed.reporting.tables import DetailRow, details, flat, format_value, overview, tiles
from tests.support.fake_run import RECIPE

EMPTY = RunFiles(path=Path(), name="empty")


def a_run(
    name: str = "run", *, steps: int = 0, record: dict[str, Any] | None = None, **columns: Any
) -> RunFiles:
    """A run of so many steps, each with the same values."""
    metrics = pl.DataFrame([{"step": step, **columns} for step in range(1, steps + 1)])
    return RunFiles(path=Path(), name=name, record=record or {}, metrics=metrics)


def shown(run: RunFiles) -> dict[str, tuple[str, str]]:
    return {tile.label: (tile.value, tile.note) for tile in tiles(run)}


def test_tiles_are_sums_and_medians_of_what_was_recorded(dynamic):
    (run,) = read_runs([dynamic])
    metrics, checks = run.metrics, run.checks
    found = shown(run)
    assert list(found) == ["Steps", "Tokens a second", "Tokens trained on", "Negatives replaced"]
    assert found["Steps"][0] == "300"
    rate = metrics["tokens_per_second"].median()
    assert float(found["Tokens a second"][0].replace(",", "")) == pytest.approx(rate, rel=0.005)
    assert found["Tokens a second"][1] == f"{rate / 35_400:.0%} of the measured floor"
    assert found["Tokens trained on"] == (f"{metrics['tokens'].sum() / 1e6:.3g} M", "in 106,000 texts")
    assert found["Negatives replaced"] == (
        f"{checks['replaced'].sum():,}",
        f"queries, in {len(checks)} checks",
    )


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (EMPTY, {}),
        (a_run(steps=2, loss=1.0), {"Steps": ("2", "")}),
        (a_run(steps=2, seconds=30.0), {"Steps": ("2", "in 60 seconds")}),
        (a_run(steps=2, seconds=math.nan), {"Steps": ("2", "")}),
        (a_run(steps=2, record={"steps": 2}), {"Steps": ("2", "")}),
        (a_run(steps=2, record={"steps": 1000}), {"Steps": ("2", "of 1,000, not finished")}),
        (
            a_run(steps=2, seconds=1.0, record={"steps": 3}),
            {"Steps": ("2", "in 2 seconds, of 3, not finished")},
        ),
        (
            a_run(steps=1, tokens_per_second=7_766.0, tokens=0),
            {"Steps": ("1", ""), "Tokens a second": ("7,770", "real, without padding")},
        ),
        (a_run(steps=1, tokens=12), {"Steps": ("1", ""), "Tokens trained on": ("12", "")}),
    ],
)
def test_a_number_that_was_not_recorded_has_no_tile(run, expected):
    assert shown(run) == expected


def test_runs_side_by_side_have_a_tile_each_a_dash_where_one_has_none():
    rows = dict(overview([a_run("a", steps=2), a_run("b", steps=3, tokens=5), EMPTY]))
    assert {label: [tile.value for tile in row] for label, row in rows.items()} == {
        "Steps": ["2", "3", "–"],
        "Tokens trained on": ["–", "15", "–"],
    }


def with_recipe(name: str, **sections: Any) -> RunFiles:
    recipe = Recipe.model_validate(RECIPE | sections)
    return RunFiles(path=Path(), name=name, recipe=recipe, recipe_text=recipe.as_yaml())


def test_recipes_differ_in_the_keys_that_differ_and_no_others():
    runs = [
        with_recipe("a"),
        with_recipe("b", training={"seed": 7}, optimizer={"learning_rate": 3e-6}),
        RunFiles(path=Path(), name="none"),
    ]
    found = details(runs[:2])
    assert found.differences == [
        DetailRow("optimizer.learning_rate", [format_value(runs[0].recipe.optimizer.learning_rate), "3e-6"]),
        DetailRow("training.seed", [format_value(runs[0].recipe.training.seed), "7"]),
    ]
    assert [name for name, _ in found.recipes] == found.columns == ["a", "b"]
    assert found.rows == []
    without = details([runs[0], runs[2]])
    assert {row.name for row in without.differences} == {
        key for key, value in flat(runs[0].recipe.as_dict()).items() if value is not None
    }
    assert all(row.cells[1] == "–" for row in without.differences)


def test_the_record_is_a_row_a_key_of_any_run():
    one = a_run("a", record={"command": "conan-embed <train>", "seconds": 809.0, "device": None})
    other = a_run("b", record={"parallel": True, "datasets": [{"name": "问答", "rows": 3524}]})
    assert details([one, other]).rows == [
        DetailRow("Command", ["conan-embed <train>", "–"], code=True),
        DetailRow("Seconds", ["809", "–"]),
        DetailRow("Parallel", ["–", "yes"]),
        DetailRow("Datasets", ["", "问答 3,524"]),
    ]
    assert details([EMPTY, EMPTY]) is None


@pytest.mark.parametrize(
    ("tree", "leaves"),
    [
        ({}, {}),
        ({"a": 1, "b": {"c": None, "d": {"e": []}}}, {"a": 1, "b.c": None, "b.d.e": []}),
        ({"a": {}, "b": [{"c": 1}]}, {"b": [{"c": 1}]}),
    ],
)
def test_leaves_of_a_recipe_have_dotted_keys(tree, leaves):
    assert flat(tree) == leaves


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (-1234567, "-1,234,567"),
        (0.0, "0"),
        (0.02, "0.02"),
        (2e-5, "2e-5"),
        (-2e-5, "-2e-5"),
        (1234.6, "1,235"),
        (1e-3, "0.001"),
        (0.123456, "0.1235"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ([], ""),
        ([1000, None, [True]], "1,000, –, yes"),
        ({"问答": 3524, "b": 0.5}, "问答 3,524, b 0.5"),
        ("2026-11-23T17:40:12+00:00", "2026-11-23 17:40:12"),
        ("2026-11-23T17:40:12.123456", "2026-11-23 17:40:12"),
        ("20241231", "20241231"),
        ("2024-12-31", "2024-12-31"),
        ("2024W01", "2024W01"),
        ("20241231T10", "20241231T10"),
        ("Today", "Today"),
        ("", ""),
        ("<b>名字</b>", "<b>名字</b>"),
    ],
)
def test_a_value_is_written_as_a_person_writes_it(value, text):
    assert format_value(value) == text
