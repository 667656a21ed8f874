"""The sections of the page of a filter output, against plain sums over its summary."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conan_embed.filtering import summary as files
from conan_embed.filtering.summary import BadRows, SourceCounts, StageSpeed, Summary
from conan_embed.reporting import canvas
from conan_embed.reporting.filter_sections import (
    SECTIONS,
    bad_rows,
    funnel,
    reasons,
    recipe_and_files,
    render,
    scores,
    sources,
    speed,
)
from conan_embed.reporting.filters import Filtered
from tests.support.page_parts import Page

HOSTILE = "</style><script>alert(1)</script>"
EMPTY = Summary(
    files.Rows(0, 0, 0), files.Speed(0.0, None, 1, {}), files.Funnel(["read"], {"read": 0}, {}), {}, []
)


def a_filtered(**changes: Any) -> Filtered:
    return Filtered(Path("out"), replace(EMPTY, **changes), {}, [])


def with_funnel(categories: dict[str, list[int]]) -> Filtered:
    """Pairs of each category that were read and that two stages left."""
    stages = ["read", "prompt_response", "teacher"]
    total = dict(zip(stages, map(sum, zip(*categories.values(), strict=True)), strict=True))
    by_stage = {name: dict(zip(stages, counts, strict=True)) for name, counts in categories.items()}
    rows = files.Rows(total["read"], total["teacher"], total["read"] - total["teacher"])
    return a_filtered(rows=rows, funnel=files.Funnel(stages, total, by_stage))


def test_the_funnel_is_a_row_a_category_the_largest_first_and_one_of_all():
    found = funnel(with_funnel({"新闻": [10, 5, 0], "<web>": [3_000, 2_999, 1], "none": [0, 0, 0]}))
    assert found.columns == ["read", "prompt-response", "teacher"]
    assert [(row.name, [cell.text for cell in row.cells]) for row in found.rows] == [
        ("<web>", ["3,000", "2,999", "1"]),
        ("新闻", ["10", "5", "0"]),
        ("none", ["0", "0", "0"]),
        ("All", ["3,010", "3,004", "1"]),
    ]
    assert [[cell.note for cell in row.cells] for row in found.rows] == [
        ["", "100.0%", "<0.1%"],
        ["", "50%", "0%"],
        ["", "–", "–"],
        ["", "99.8%", "<0.1%"],
    ]
    assert [row.mean for row in found.rows] == [False, False, False, True]
    assert [entry.label for entry in found.drawing.legend] == ["<web>", "新闻"]


def test_one_category_is_all_and_many_are_drawn_as_far_as_there_are_colours():
    assert [row.name for row in funnel(with_funnel({"only": [2, 1, 1]})).rows] == ["only"]
    many = funnel(
        with_funnel({f"c{number}": [100 - number, 1, 1] for number in range(canvas.NUM_SERIES + 1)})
    )
    assert len(many.drawing.legend) == canvas.NUM_SERIES
    assert many.drawing.title.endswith(f", the {canvas.NUM_SERIES} largest categories")
    assert len(many.rows) == canvas.NUM_SERIES + 2


def a_reason(stage: str, name: str, dropped: int, applied: int, **categories: int) -> files.Reason:
    return files.Reason(stage, name, f"about {name}", dropped, applied, categories, [])


def test_reasons_stand_by_stage_with_bars_to_the_scale_of_the_most_applied():
    given = [
        a_reason("rules", "copy", 100, 400, 网页=60, other=40),
        a_reason("rules", "digits", 0, 20),
        a_reason("prompt_response", "refusal", 50, 50, b=50),
    ]
    groups = reasons(a_filtered(rows=files.Rows(1_000, 850, 150), reasons=given))
    assert [group.title for group in groups] == ["rules", "prompt-response"]
    rows = [row for group in groups for row in group.rows]
    assert [(row.name, row.dropped, row.share, row.applied) for row in rows] == [
        ("copy", "100", "10%", "400"),
        ("digits", "0", "0%", "20"),
        ("refusal", "50", "5.0%", "50"),
    ]
    assert [(row.mainly, row.mainly_share) for row in rows] == [("网页", "60%"), ("", ""), ("b", "100%")]
    assert [row.width + row.more for row in rows] == pytest.approx([100 * r.applied / 400 for r in given])
    assert [row.width for row in rows] == pytest.approx([100 * r.dropped / 400 for r in given])
    assert reasons(a_filtered()) == []
    (nothing,) = reasons(a_filtered(reasons=[a_reason("rules", "copy", 0, 0)]))
    assert (nothing.rows[0].width, nothing.rows[0].more) == (0, 0)


def test_files_with_most_bad_rows_come_first():
    given = [
        BadRows("a.csv", 2, {"not UTF-8": 2}, "line 1"),
        BadRows("乙.jsonl", 1_500, {"x": 1_499, "y": 1}, HOSTILE),
    ]
    found = bad_rows(a_filtered(bad_rows=given))
    assert [(row.path, row.rows, row.reasons) for row in found] == [
        ("乙.jsonl", "1,500", "x: 1,499, y: 1"),
        ("a.csv", "2", "not UTF-8: 2"),
    ]
    assert found[0].first == HOSTILE


EDGES = [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_scores_are_counted_and_their_means_are_those_of_the_middles_of_bins():
    given = files.Scores(EDGES, 0.4, {"few": [0, 0, 1, 1], "网页": [0, 30, 10, 0], "none": [0, 0, 0, 0]})
    found = scores(a_filtered(scores=given, reasons=[a_reason("teacher", "teacher_score", 31, 31)]))
    assert found.summary == "The teacher scored 42 pairs; 31 (74%) scored below 0.4."
    middles = (np.array(EDGES[:-1]) + np.array(EDGES[1:])) / 2
    means = [np.average(middles, weights=given.categories[name]) for name in ("网页", "few")]
    assert [(each.title, each.latest) for each in found.drawings] == [
        ("网页", f"mean {means[0]:.2f}"),
        ("few", f"mean {means[1]:.2f}"),
    ]
    assert [entry.label for entry in found.legend] == ["kept", "below 0.4, dropped"]


@pytest.mark.parametrize(
    "given", [None, files.Scores(EDGES, 0.4, {}), files.Scores(EDGES, 0.4, {"a": [0] * 4})]
)
def test_without_a_scored_pair_there_are_no_scores(given):
    assert scores(a_filtered(scores=given)) is None


def test_sources_stand_with_kept_shares_and_languages_the_largest_first():
    languages = {
        "query": {"zh": 1.0},
        "positive": {"en": 0.5, "zh": 0.3, "fr": 0.1, "de": 0.05, "it": 0.046, "nl": 0.004},
    }
    given = {"none": SourceCounts(0, 0, {}), "大": SourceCounts(3_000, 1_000, languages)}
    large, none = sources(a_filtered(sources=given))
    assert (large.name, large.read, large.kept, large.share, large.width) == (
        "大",
        "3,000",
        "1,000",
        "33%",
        33.33,
    )
    assert large.languages == {"query": "zh", "positive": "en 50%, zh 30%, fr 10%, de 5%"}
    assert (none.name, none.share, none.width, none.languages) == ("none", "–", 0.0, {})


def test_a_side_mostly_of_one_language_names_it_alone():
    given = {"a": SourceCounts(1_000, 1, {"query": {"zh": 0.998, "en": 0.002}, "positive": {"en": 0.001}})}
    (source,) = sources(a_filtered(sources=given))
    assert source.languages == {"query": "zh", "positive": ""}


def test_stages_share_the_processor_time():
    stages = {"rules": StageSpeed(3.0, 20_000), "prompt_response": StageSpeed(1.0, None)}
    found = speed(a_filtered(speed=files.Speed(75.0, 242.7, 2, stages)))
    assert found.summary == "The whole run took 75 seconds with 2 workers: 243 pairs a second."
    assert [(row.name, row.seconds, row.rate, row.width) for row in found.rows] == [
        ("rules", "3.00", "20,000", 75.0),
        ("prompt-response", "1.00", "–", 25.0),
    ]
    assert (
        speed(a_filtered(speed=files.Speed(0.0, None, 1, {"read": StageSpeed(0.0, None)}))).rows[0].width == 0
    )


def test_the_recipe_is_yaml_that_is_read_again():
    recipe = {
        "sources": [{"path": "数据/*.parquet"}],
        "rules": {"copy": False},
        "teacher": {"min_score": 0.4},
    }
    found = recipe_and_files(replace(a_filtered(), recipe=recipe, files=["b", "a"]))
    assert yaml.safe_load(found.recipe) == recipe and "数据" in found.recipe
    assert found.recipe.index("sources") < found.recipe.index("rules") < found.recipe.index("teacher")
    assert found.files == ["b", "a"]


def hostile() -> Filtered:
    filtered = with_funnel({HOSTILE: [2, 1, 1], "b": [1, 1, 1]})
    sample = files.Sample(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.5, None, 1)
    reason = replace(a_reason("rules", HOSTILE, 1, 1, **{HOSTILE: 1}), about=HOSTILE, samples=[sample])
    return replace(
        filtered,
        path=Path("x") / HOSTILE.replace("/", "."),
        recipe={HOSTILE: HOSTILE},
        files=[HOSTILE],
        summary=replace(
            filtered.summary,
            reasons=[reason],
            sources={HOSTILE: SourceCounts(1, 1, {"query": {HOSTILE: 0.5, "en": 0.5}})},
            bad_rows=[BadRows(HOSTILE, 1, {HOSTILE: 1}, HOSTILE)],
            scores=files.Scores(EDGES, 0.4, {HOSTILE: [0, 1, 0, 0]}),
        ),
    )


@pytest.mark.parametrize(
    ("make", "left_out"),
    [
        (hostile, set()),
        (a_filtered, {"funnel", "reasons", "bad_rows", "samples", "scores", "sources"}),
    ],
)
def test_sections_without_content_are_left_out_and_names_are_never_markup(
    make: Callable[[], Filtered], left_out
):
    page = Page(render(make()))
    assert {*SECTIONS} - {*page.values("id")} == left_out
    anchors = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert anchors == [f"#{key}" for key in SECTIONS if key not in left_out]
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert page.text.count(HOSTILE) >= (0 if left_out else 15)
