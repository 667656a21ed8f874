"""Plain text: headings only where their form leaves no doubt."""

import pytest

from conan_embed.documents.plain import parse_plain


@pytest.mark.parametrize(
    ("heading", "is_heading"),
    [
        ("第三章 备份与恢复", True),
        ("一、总则", True),
        ("2.1 Installing the server", True),
        ("第十条 公民有纳税的义务。", False),
        ("This is a plain sentence that ends.", False),
    ],
)
def test_plain_text_has_headings_where_their_form_leaves_no_doubt(heading: str, is_heading: bool) -> None:
    document = parse_plain(
        "a", f"A title\n\nThe beginning of it all.\n\n{heading}\n\nAnd the text below it.\n"
    )
    assert document.title == "A title"
    assert any(heading in section.headings for section in document.sections) == is_heading


def test_plain_text_without_any_heading_is_one_section() -> None:
    document = parse_plain("a", "One sentence, then another one.\nMore of it.\n\nA second paragraph.\n")
    assert (document.title, len(document.sections)) == ("", 1)
    assert [block.line for block in document.sections[0].blocks] == [1, 4]
