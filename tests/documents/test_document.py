"""What the builder makes of headings and blocks as they come in a file."""

import random

import pytest

from conan_embed.documents.document import Block, Document, DocumentBuilder


def build(*steps: tuple[int, str] | str, title: str = "") -> Document:
    """Headings are (level, text), paragraphs are texts; each has a line of its own."""
    document = DocumentBuilder("a.md", title)
    for line, step in enumerate(steps, 1):
        if isinstance(step, str):
            document.add("text", step, line)
        else:
            document.add_heading(*step, line)
    return document.build()


def headings(document: Document) -> list[tuple[str, ...]]:
    return [section.headings for section in document.sections]


@pytest.mark.parametrize("seed", range(20))
def test_each_paragraph_is_under_the_nearest_headings_of_lower_levels(seed: int) -> None:
    rng = random.Random(seed)
    levels = [rng.randint(1, 6) for _ in range(30)]
    steps = [
        step for number, level in enumerate(levels) for step in ((level, f"h{number}"), f"text {number}")
    ]
    document = build(*steps, title="Title")
    expected = []
    for number, level in enumerate(levels):
        path, depth = [f"h{number}"], level
        for earlier in range(number - 1, -1, -1):  # outwards: each step to the nearest heading further out
            if levels[earlier] < depth:
                path, depth = [f"h{earlier}", *path], levels[earlier]
        expected.append((tuple(path), 2 * number + 1, (Block("text", f"text {number}", 2 * number + 2),)))
    assert [(section.headings, section.line, section.blocks) for section in document.sections] == expected


def test_the_first_heading_is_the_title_unless_there_is_one_or_text_before_it() -> None:
    assert build((2, " The\n guide "), "x", (2, "Part"), "y").title == "The guide"
    assert headings(build((2, "The guide"), "x", (2, "Part"), "y")) == [(), ("Part",)]
    assert headings(build((1, "Part"), "x", title="The guide")) == [("Part",)]
    assert headings(build((1, "The guide"), "x", title="The guide")) == [()]
    before = build("x", (1, "Part"), "y")
    assert (before.title, headings(before)) == ("", [(), ("Part",)])


def test_a_heading_without_text_below_it_makes_no_section_and_one_without_words_none_at_all() -> None:
    document = build((1, "T"), (2, "Empty"), (2, "Full"), "x", (3, " \n"), "y", " \n\t")
    assert [(section.headings, len(section.blocks)) for section in document.sections] == [(("Full",), 2)]
    assert build().sections == build((1, "T")).sections == build("").sections == ()


def test_code_keeps_its_indentation_and_text_does_not() -> None:
    document = DocumentBuilder("a.md")
    for kind in ("code", "text"):
        document.add(kind, "\n\n  a\n    b\n\n", 1)
    document.add("code", "\n   \n", 2)
    assert [block.text for block in document.build().sections[0].blocks] == ["  a\n    b", "a\n    b"]


def test_definitions_are_below_the_heading_and_the_terms_around_them() -> None:
    document = DocumentBuilder("a.md", "Title")
    document.add_heading(2, "Terms", 1)
    blocks = [Block("text", "说明", 3)]
    document.add_definition(" a\n term ", blocks, 2)
    document.add_definition("inner", blocks, 3, ["a term"])
    document.add_definition(" ", blocks, 4)
    document.add_definition("nothing", [], 5)
    document.add("text", "after", 6)
    sections = document.build().sections
    assert [(section.headings, section.kind) for section in sections] == [
        (("Terms", "a term"), "definition"),
        (("Terms", "a term", "inner"), "definition"),
        (("Terms",), "section"),
    ]
