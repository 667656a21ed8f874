"""Drawings as inline SVG: the page's colours, ids only where they are referred to, the same text every time."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from conan_embed.reporting.canvas import (
    GRID,
    MUTED,
    NUM_SERIES,
    WIDE,
    as_inline_svg,
    canvas,
    colour,
    per_cent,
    scientific,
    style,
    thousands,
)


def _draw(salt: str = "a") -> str:
    with style(salt):
        figure, axes = canvas(WIDE, last_step=1200)
        for series in range(NUM_SERIES + 1):
            line = axes.plot(np.arange(0, 1201, 300), np.linspace(0, 1 + series, 5), color=colour(series))[0]
            line.set_gid("data")
        return as_inline_svg(figure)


def test_every_stand_in_becomes_a_colour_of_the_page() -> None:
    svg = _draw()
    assert "#fe" not in svg
    used = set(re.findall(r"var\((--[\w-]+)\)", svg))
    assert used == {"--muted", "--line", *(f"--series-{number + 1}" for number in range(NUM_SERIES))}
    assert (
        colour(NUM_SERIES) == colour(0)
        and len({MUTED, GRID, *map(colour, range(NUM_SERIES))}) == NUM_SERIES + 2
    )


def test_it_is_one_element_without_size_fonts_or_ids_that_nothing_refers_to() -> None:
    svg = _draw()
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("}svg") and root.get("viewBox") and root.get("width") is None
    assert "font-family" not in svg and "<style" not in svg and "metadata" not in svg
    ids = {element.get("id") for element in root.iter()} - {None}
    assert ids <= set(re.findall(r"#(\w+)", svg)), "others would meet those of the next drawing of the page"
    drawn = [element for element in root.iter() if element.get("class") == "data"]
    assert len(drawn) == NUM_SERIES + 1


def test_the_same_drawing_is_the_same_text_and_other_salt_gives_other_ids() -> None:
    assert _draw() == _draw()
    first, second = (set(re.findall(r'id="(\w+)"', _draw(salt))) for salt in "ab")
    assert first and not first & second


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (950, "950"), (8200, "8.2k"), (-1500, "−1.5k"), (0.25, "0.25")]
)
def test_ticks_have_little_room(value: float, text: str) -> None:
    assert thousands(value) == text


def test_ticks_of_shares_and_of_tiny_numbers() -> None:
    assert per_cent(0.125) == "12.5%"
    assert (scientific(0), scientific(3e-5)) == ("0", "3e-5")
