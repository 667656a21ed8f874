"""Markdown: front matter, and paragraphs of Chinese."""

from conan_embed.documents.markdown import parse_markdown


def test_broken_front_matter_does_not_lose_the_text() -> None:
    document = parse_markdown("a", "---\ntitle: [unclosed\n---\n# Real title\n\nText.\n")
    assert (document.title, document.sections[0].blocks[0].text) == ("Real title", "Text.")


def test_lines_of_a_chinese_paragraph_are_joined_without_a_space() -> None:
    text = parse_markdown("a", "# 标题\n\n数据库的\n备份 with\nwords\n").sections[0].blocks[0].text
    assert text == "数据库的备份 with words"
