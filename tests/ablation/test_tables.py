"""A comparison as Markdown and in the terminal: every number in its place, and names stay names."""

import io
import re

import pytest
from rich.console import Console

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.comparison import ArmSummary, Cell, Comparison, compare
from conan_embed.ablation.tables import caption, difference_text, markdown, marked, score_text, table
from tests.support.planted import planted

ARMS = [Arm("base", trained=False), Arm("vanilla", ("step.mixing=sequential",)), Arm("<两者>")]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(ARMS, [0, 1, 2], planted(ARMS, [0.0, 0.05, 0.05]), against=0, title="three arms")


def cell(mean=0.5, spread=None, difference=0.0, low=None, high=None, clear=False) -> Cell:
    return Cell(mean, spread, [mean], difference, low, high, clear)


def of_names(*names: str) -> Comparison:
    """A comparison of arms of these names, from the first."""
    arms = [ArmSummary(name, [], "the recipe as it is", {}, {"queries": 2048.4}) for name in names]
    return Comparison("arms", [7], names[0], 0.95, arms, {"average": [cell()] * len(names)})


def grids(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown page, as a reader of Markdown splits them into cells."""
    blocks = [[line for line in block.split("\n") if line.startswith("|")] for block in text.split("\n\n")]
    split = re.compile(r"(?<!\\)\|")
    return [
        [[part.strip() for part in split.split(line)[1:-1]] for line in lines] for lines in blocks if lines
    ]


@pytest.mark.parametrize(
    ("made", "score", "difference", "bold"),
    [
        (cell(), "50.00", "+0.00", False),
        (cell(0.12345, 0.00678, -0.01), "12.35 ± 0.68", "-1.00", False),
        (cell(1.0, 0.0, 0.02, 0.01, 0.03, True), "100.00 ± 0.00", "+2.00 [+1.00, +3.00]", True),
        (cell(0.3, None, -0.02, -0.05, 0.01), "30.00", "-2.00 [-5.00, +1.00]", False),
    ],
)
def test_numbers_are_per_cent_with_spread_and_interval_where_there_are_any(made, score, difference, bold):
    assert score_text(made) == score
    assert difference_text(made) == difference
    assert marked(made) == (f"**{difference}**" if bold else difference)


def test_the_markdown_page_holds_every_cell_of_the_comparison(comparison):
    scores, differences, tasks, seen = grids(markdown(comparison))
    names = [arm.name for arm in comparison.arms]
    assert scores[0] == ["arm", *comparison.averages]
    for name, row in zip(names, scores[2:], strict=True):
        cells = [comparison.rows[column][names.index(name)] for column in comparison.averages]
        assert row == [name, *map(score_text, cells)]
    assert [row[0] for row in differences[2:]] == ["vanilla", "<两者>"], "from itself nothing differs"
    assert differences[2][1] == marked(comparison.rows["average"][1])
    assert tasks == [
        ["task", *names],
        ["---"] * 4,
        *([task, *map(score_text, comparison.rows[task])] for task in comparison.tasks),
    ]
    assert seen[2] == ["base", "128", "2,048", "4,096", "1,200,000", "0"]
    assert "- vanilla: step.mixing=sequential" in markdown(comparison)


def test_a_clear_difference_is_bold(comparison):
    assert re.search(r"\| vanilla \| \*\*\+[\d.]+ \[\+[\d.]+, \+[\d.]+\]\*\* \|", markdown(comparison))


@pytest.mark.parametrize("name", ["a|b", "x\ny", "a=1|2, b=[zh]|[en]"])
def test_a_name_stays_in_its_cell_of_a_markdown_table(name):
    for grid in grids(markdown(of_names("base", name))):
        assert len({len(row) for row in grid}) == 1, grid


def test_the_caption_says_what_was_resampled(comparison):
    assert "over seeds (0, 1, 2)" in caption(comparison)
    assert "95% bootstrap intervals over seeds and test items" in caption(comparison)
    assert "from 'base'" in caption(comparison)
    assert "over test items only (one seed)" in caption(of_names("base", "other"))


def test_the_terminal_shows_all_arms_and_no_difference_of_the_first(comparison):
    console = Console(file=io.StringIO(), width=200)
    console.print(table(comparison))
    text = console.file.getvalue()
    assert table(comparison).row_count == 3 and "three arms" in text
    for arm, shown in zip(comparison.arms, comparison.rows["average"], strict=True):
        assert arm.name in text and score_text(shown) in text
        assert (difference_text(shown) in text) == (arm.name != "base")
