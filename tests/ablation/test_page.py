"""The page of a comparison: dots and intervals stand where the numbers say, and scores are drawn over a setting."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from conan_embed.ablation.arms import Arm, grid
from conan_embed.ablation.comparison import ArmSummary, Cell, Comparison, compare
from conan_embed.ablation.page import headline, write_page
from tests.support.page_parts import Page
from tests.support.planted import planted

ARMS = [Arm("base", trained=False), Arm("vanilla", ("step.mixing=sequential",)), Arm("<两者>")]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(ARMS, [0, 1, 2], planted(ARMS, [0.0, 0.05, 0.05]), against=0, title="three arms")


def cell(difference: float = 0.0, clear: bool = False, by_seed: Sequence[float] = (0.5,), **bounds) -> Cell:
    ends = {"low": None, "high": None, **bounds}
    return Cell(float(np.mean(by_seed)), None, list(by_seed), difference, **ends, clear=clear)


def of_cells(cells: dict[str, Cell], **more) -> Comparison:
    """A comparison with the first arm, on average alone."""
    arms = [ArmSummary(name, [], "the recipe as it is", {}, {"queries": 2.0}) for name in cells]
    values = {"title": "arms", "seeds": [7], "against": arms[0].name, "level": 0.95, "arms": arms}
    return Comparison(**{**values, "rows": {"average": list(cells.values())}, **more})


def html(comparison: Comparison, folder: Path) -> str:
    write_page(comparison, folder / "arms.html")
    return (folder / "arms.html").read_text(encoding="utf-8")


UP, DOWN, EVEN = cell(0.1, clear=True), cell(-0.1, clear=True), cell(0.1)


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ({"a": UP}, "a scores above base."),
        ({"a": UP, "b": UP, "c": UP}, "a, b and c score above base."),
        ({"a": UP, "b": DOWN}, "a scores above base; b scores below base."),
        ({"a": DOWN, "b": EVEN}, "a scores below base; no other arm differs clearly from it."),
        ({"a": EVEN, "<b>": EVEN}, "no arm differs clearly from base."),
    ],
)
def test_the_headline_names_the_arms_that_clearly_differ(cells, sentence):
    assert headline(of_cells({"base": cell(), **cells})) == f"On average {sentence}"


def test_the_page_shows_every_score_and_nothing_else_loads(comparison, tmp_path):
    text = html(comparison, tmp_path)
    page = Page(text)
    assert headline(comparison) == "On average vanilla and <两者> score above base."
    assert headline(comparison) in page.text and "three arms" in page.text
    for cells in comparison.rows.values():
        assert all(f"{100 * each.mean:.2f}" in page.text for each in cells)
    assert "step.mixing=sequential" in page.text and "1,200,000" in page.text
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "<svg" not in text, "nothing varies over values"
    assert not re.search(r"https?://(?!www\.w3\.org)", text)


HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def test_names_are_never_markup(tmp_path):
    arms = [Arm(HOSTILE, (f"a={HOSTILE}",), values=(("a", value),)) for value in ("1", "2", "3")]
    arms = [Arm(f"{arm.name}{n}", arm.overrides, values=((HOSTILE, f"{n}"),)) for n, arm in enumerate(arms)]
    compared = compare(arms, [0, 1], planted(arms, [0.0] * 3, num_seeds=2), against=0, title=HOSTILE)
    page = Page(html(compared, tmp_path))
    assert page.text.count(HOSTILE) >= 12
    assert not page.tags & {"script", "img"}


def tracks(text: str) -> list[dict[str, list[float]]]:
    """Where dots stand in the rows of all panels, in per cent: the vertical line, the seeds, mean and interval."""
    rows = []
    for track in re.findall(r'<td class="track"><div>(.*?)</div></td>', text, re.DOTALL):
        marks = re.findall(r'class="(\w+)" style="left: ([-\d.]+)%(?:; right: ([-\d.]+)%)?', track)
        row: dict[str, list[float]] = {}
        for name, left, right in marks:
            row.setdefault(name, []).extend([float(left), *([100 - float(right)] if right else [])])
        rows.append(row)
    return rows


@pytest.mark.parametrize("against", [0, 1])
def test_everything_in_a_panel_stands_on_one_scale(tmp_path, against):
    """Places are one linear function of the differences, within the panel, whichever arm is the base."""
    arms = [*ARMS[1:], Arm("worse")]
    compared = compare(arms, [0, 1, 2], planted(arms, [0.0, 0.05, -0.2]), against=against)
    shown = iter(tracks(html(compared, tmp_path)))
    for name in compared.averages:
        cells = compared.rows[name]
        points = []
        for number, each in enumerate(cells):
            row = next(shown)
            points += [(0.0, row["zero"][0])]
            assert ("to" in row) == (number != against)
            if number == against:
                assert set(row) == {"zero"}
                continue
            seeds = np.subtract(each.by_seed, cells[against].by_seed)
            points += [(each.difference, row["to"][0]), *zip(seeds, row["from"], strict=True)]
            if each.low is not None:
                points += zip((each.low, each.high), row["span"], strict=True)
        differences_N, places_N = np.array([p for p in points if 0 < p[1] < 100]).T
        slope, start = np.polyfit(differences_N, places_N, 1)
        np.testing.assert_allclose(places_N, start + slope * differences_N, atol=0.02)
        assert slope > 0 and len(places_N) > 8
        assert all(0 <= place <= 100 for _, place in points)
    assert next(shown, None) is None


def test_a_base_without_seeds_is_subtracted_from_every_seed(tmp_path):
    arm = cell(0.1, by_seed=(0.55, 0.6, 0.65), low=0.0, high=0.2)
    (base, row) = tracks(html(of_cells({"base": cell(), "arm": arm}), tmp_path))
    assert base == {"zero": row["zero"]}
    low, mean, high = row["from"]
    assert mean == row["to"][0] and mean - low == pytest.approx(high - mean, abs=0.02)
    assert row["span"] == pytest.approx([row["zero"][0], 2 * mean - row["zero"][0]], abs=0.02)


def test_arms_that_are_all_equal_stand_in_the_middle(tmp_path):
    rows = tracks(html(of_cells({"base": cell(), "same": cell()}), tmp_path))
    assert rows == [{"zero": [50.0]}, {"zero": [50.0], "from": [50.0], "to": [50.0]}]


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        (["1e-5", "2E-5", "+3.5e-5"], ["1e-5", "2E-5", "+3.5e-5"]),
        (["10", "9", "8.5"], ["8.5", "9", "10"]),
        ([".3", "0.1", "0.2"], ["0.1", "0.2", ".3"]),
        (["1_000", "2_000", "10"], ["10", "1_000", "2_000"]),
        (["1_", "2_", "3_"], None),
        (["1", "2", "x"], None),
        (["nan", "1", "2"], None),
        (["1", "2"], None),
        (["一", "二", "三"], None),
    ],
)
def test_a_setting_is_drawn_over_three_numbers_or_more_in_their_order(tmp_path, values, drawn):
    arms = [Arm(f"a={value}", (f"a={value}",), values=(("a", value),)) for value in values]
    text = html(compare(arms, [0], planted(arms, [0.0] * len(arms), num_seeds=1), against=0), tmp_path)
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert bool(drawings) == (drawn is not None)
    for drawing in drawings:
        places = [drawing.index(f">{label}<") for label in drawn]
        assert places == sorted(places)


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
