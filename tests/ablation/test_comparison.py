"""From results to tables and page: planted differences are named, and what has no value has no figure."""

import json
import re

import numpy as np
import pytest

from conan_embed.ablation.arms import Arm, grid
from conan_embed.ablation.comparison import Comparison, compare
from conan_embed.ablation.page import headline, write_page
from conan_embed.ablation.tables import markdown, table
from tests.support.planted import planted

ARMS = [Arm("base", trained=False), Arm("vanilla", ("step.mixing=sequential",)), Arm("<两者>")]


@pytest.fixture(scope="module")
def comparison():
    return compare(ARMS, [0, 1, 2], planted(ARMS, [0.0, 0.05, 0.05]), against=0, title="three arms")


def test_means_are_those_of_the_results_and_the_average_is_of_types(comparison):
    results = planted(ARMS, [0.0, 0.05, 0.05])
    scores = [result.scores for result in results[1]]
    cell = comparison.rows["retrieval/医疗"][1]
    assert cell.mean == pytest.approx(np.mean([one["retrieval/医疗"] for one in scores]))
    assert cell.spread == pytest.approx(np.std([one["retrieval/医疗"] for one in scores], ddof=1))
    by_type = [
        np.mean([(one["retrieval/医疗"] + one["retrieval/Small"]) / 2 for one in scores]),
        np.mean([one["sts/STSB"] for one in scores]),
        np.mean([one["clustering/CLS"] for one in scores]),
    ]
    average = comparison.rows["average"][1]
    assert average.mean == pytest.approx(np.mean(by_type))
    assert average.difference == pytest.approx(average.mean - comparison.rows["average"][0].mean)


def test_what_is_written_as_json_is_read_again(comparison):
    text = json.dumps(comparison.to_json(), allow_nan=False)
    assert Comparison.from_json(json.loads(text)) == comparison


def test_words_tables_and_page_say_what_differs(comparison, tmp_path):
    assert headline(comparison) == "On average vanilla and <两者> score above base."
    same = compare(ARMS[1:], [0, 1, 2], planted(ARMS[1:], [0.0, 0.0]), against=0)
    assert headline(same) == "On average no arm differs clearly from vanilla."
    text = markdown(comparison)
    assert re.search(r"\| vanilla \| \*\*\+[\d.]+ \[\+[\d.]+, \+[\d.]+\]\*\* \|", text)
    assert "- vanilla: step.mixing=sequential" in text
    assert table(comparison).row_count == 3
    write_page(comparison, tmp_path / "arms.html")
    page = (tmp_path / "arms.html").read_text(encoding="utf-8")
    assert "&lt;两者&gt;" in page and "<两者>" not in page
    assert not re.search(r"<script|<link|https?://(?!www\.w3\.org)", page)
    assert "<svg" not in page  # nothing varies over values


def test_one_setting_is_drawn_over_its_values(tmp_path):
    arms = grid(["hard_negatives.decay=1.15,1.02,1.3"])
    found = compare(arms, [0, 1], planted(arms, [0.0, 0.01, 0.02], num_seeds=2), against=0)
    write_page(found, tmp_path / "arms.html")
    drawings = re.findall(r"<svg.*?</svg>", (tmp_path / "arms.html").read_text(encoding="utf-8"), re.DOTALL)
    assert len(drawings) == 4  # the average and three types
    for drawing in drawings:
        assert 'class="data"' in drawing
        assert [drawing.index(f">{value}<") for value in ("1.02", "1.15", "1.3")] == sorted(
            drawing.index(f">{value}<") for value in ("1.02", "1.15", "1.3")
        )


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_each_setting_is_drawn_through_the_first_values_of_the_others(tmp_path, one_at_a_time):
    arms = grid(
        ["hard_negatives.decay=1.15,1.02,1.3", "loss.beta=0.8,0.4,1.6", "a=x,y,z"],
        one_at_a_time=one_at_a_time,
    )
    assert len(arms) == (7 if one_at_a_time else 27)
    effects = [0.01 * place for place in range(len(arms))]
    found = compare(arms, [0, 1], planted(arms, effects, num_seeds=2), against=0)
    write_page(found, tmp_path / "arms.html")
    page = (tmp_path / "arms.html").read_text(encoding="utf-8")
    assert re.findall(r"<h3><code>(.*?)</code>", page) == [
        "hard_negatives.decay",
        "loss.beta",
    ]  # x, y, z are no numbers
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 8 and all(drawing.count(">0.4<") for drawing in drawings[4:])
    identifiers = re.findall(r' id="(.*?)"', page)
    assert len(set(identifiers)) == len(identifiers)


def test_one_seed_speaks_of_items_only():
    found = compare(ARMS[:2], [0], planted(ARMS[:2], [0.0, 0.05], num_seeds=1), against=0)
    assert found.rows["clustering"][1].low is None
    assert found.rows["retrieval"][1].low > 0
    assert "test items only (one seed)" in markdown(found)
