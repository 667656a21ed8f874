"""Every format becomes the same thing: a title, and sections of readable blocks under their headings."""

from pathlib import Path

import pytest

from conan_embed.documents.document import Document
from conan_embed.documents.html import parse_html
from conan_embed.documents.markdown import parse_markdown
from conan_embed.documents.office import UnreadableError, parse_pdf, parse_word
from conan_embed.documents.plain import parse_plain
from conan_embed.documents.rst import parse_rst

MARKDOWN = """\
---
title: The guide
description: All about widgets.
---
{{< notice >}}

Widgets are **small** and
[round](https://example.org).

## Install it

```python
x = 1

y = 2
```

| name | size |
|------|------|
| a    | 1    |

### On Linux

- first
- second
  - nested

Term
: What it means.
"""

HTML = """<html><head><title>Site | Guide</title><meta name="description" content="All about widgets.">
<script>var x = "no text";</script></head><body>
<nav><ul><li>Home</li><li>About</li></ul></nav>
<main><h1>The guide</h1><p>Widgets are <b>small</b> and <a href="x">round</a>.</p>
<h2>Install it</h2><pre>x = 1

y = 2</pre>
<table><tr><th>name</th><th>size</th></tr><tr><td>a</td><td>1</td></tr></table>
<div><h3>On Linux</h3><ul><li>first</li><li>second<ul><li>nested</li></ul></li></ul>
<dl><dt>Term</dt><dd>What it means.</dd></dl></div></main>
<footer>Copyright</footer></body></html>"""

RST = """\
The guide
=========

Widgets are **small** and `round <https://example.org>`_.

Install it
----------

::

    x = 1

    y = 2

====  ====
name  size
====  ====
a     1
====  ====

On Linux
~~~~~~~~

- first
- second

  - nested

Term
    What it means.
"""


def _outline(document: Document) -> list[tuple[tuple[str, ...], str, list[tuple[str, str]]]]:
    return [
        (section.headings, section.kind, [(block.kind, block.text) for block in section.blocks])
        for section in document.sections
    ]


@pytest.mark.parametrize(
    "document",
    [parse_markdown("guide", MARKDOWN), parse_html("guide", HTML), parse_rst("guide", RST)],
    ids=["markdown", "html", "rst"],
)
def test_the_same_document_in_three_formats_reads_the_same(document: Document) -> None:
    assert document.title == "The guide"
    outline = {headings: (kind, blocks) for headings, kind, blocks in _outline(document)}
    assert outline[()] == ("section", [("text", "Widgets are small and round.")])
    assert outline["Install it",] == (
        "section",
        [("code", "x = 1\n\ny = 2"), ("table", "name | size\na | 1")],
    )
    assert outline["Install it", "On Linux"][0] == "section"
    assert outline["Install it", "On Linux"][1] == [("list", "- first\n- second\n  - nested")]
    assert outline["Install it", "On Linux", "Term"] == ("definition", [("text", "What it means.")])
    assert len(outline) == 4, "neither menu, footer, script nor front matter is text"


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_markdown, MARKDOWN), (parse_rst, RST), (parse_html, HTML)]
)
def test_sections_know_the_line_of_their_heading(parse, text: str) -> None:
    lines = text.split("\n")
    for section in parse("guide", text, 1).sections:
        if section.headings and section.kind == "section":
            assert section.headings[-1] in lines[section.line - 1]


def test_front_matter_and_meta_tags_say_what_a_document_is_about() -> None:
    assert parse_markdown("a", MARKDOWN).summary == parse_html("a", HTML).summary == "All about widgets."


def test_broken_front_matter_does_not_lose_the_text() -> None:
    document = parse_markdown("a", "---\ntitle: [unclosed\n---\n# Real title\n\nText.\n")
    assert (document.title, document.sections[0].blocks[0].text) == ("Real title", "Text.")


def test_lines_of_a_chinese_paragraph_are_joined_without_a_space() -> None:
    text = parse_markdown("a", "# 标题\n\n数据库的\n备份 with\nwords\n").sections[0].blocks[0].text
    assert text == "数据库的备份 with words"


def test_sphinx_roles_and_directives_are_read_for_their_text() -> None:
    document = parse_rst(
        "a",
        "Title\n=====\n\nSee :func:`~os.path.join` and :ref:`the page <target>`.\n\n"
        ".. versionadded:: 3.1\n   It can now fly.\n\n.. toctree::\n   :maxdepth: 2\n\n   other\n",
    )
    text = "\n".join(block.text for section in document.sections for block in section.blocks)
    assert "See join and the page." in text
    assert "It can now fly." in text
    assert "other" not in text
    assert "Unknown" not in text


def test_rst_never_reads_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret words")
    secret = tmp_path / "secret.txt"
    source = f"Title\n=====\n\n.. include:: {secret}\n\n.. raw:: html\n   :file: {secret}\n\nText.\n"
    document = parse_rst(str(tmp_path / "a.rst"), source)
    assert "secret" not in "".join(block.text for section in document.sections for block in section.blocks)


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


def test_word_sections_follow_the_heading_styles(tmp_path: Path) -> None:
    import docx

    content = docx.Document()
    content.add_heading("The guide", 0)
    content.add_paragraph("Widgets are small.")
    content.add_heading("Install it", 1)
    content.add_paragraph("Unpack and run.")
    table = content.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "name", "size"
    content.save(str(tmp_path / "a.docx"))
    document = parse_word("a.docx", tmp_path / "a.docx")
    assert document.title == "The guide"
    assert _outline(document) == [
        ((), "section", [("text", "Widgets are small.")]),
        (("Install it",), "section", [("text", "Unpack and run."), ("table", "name | size")]),
    ]


def _pdf(path: Path, pages: list[list[str]], outline: list[tuple[str, int]] = []) -> None:  # noqa: B006
    """Write a small PDF with lines of text on its pages."""
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject(
        {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1")}
    )
    font[NameObject("/BaseFont")] = NameObject("/Helvetica")
    for lines in pages:
        page = writer.add_blank_page(595, 842)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        shown = "".join(f"({line}) Tj 0 -20 Td " for line in lines)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 50 800 Td {shown} ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    for title, number in outline:
        writer.add_outline_item(title=title, page_number=number)
    writer.write(path)
    assert len(PdfReader(path).pages) == len(pages)


def test_pdf_sections_follow_the_outline_and_lines_are_pages(tmp_path: Path) -> None:
    pages = [
        ["Introduction", "Widgets are small and round things.", "1"],
        ["Install it", "Unpack and run the program.", "2"],
    ]
    _pdf(tmp_path / "a.pdf", pages, [("Introduction", 0), ("Install it", 1)])
    document = parse_pdf("a.pdf", tmp_path / "a.pdf")
    assert document.title == "Introduction"
    assert [(section.headings, section.line) for section in document.sections] == [
        ((), 1),
        (("Install it",), 2),
    ]
    assert [block.text for section in document.sections for block in section.blocks] == [
        "Widgets are small and round things.",
        "Unpack and run the program.",
    ], "page numbers are no text"


def test_a_scanned_pdf_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    _pdf(tmp_path / "scan.pdf", [[], []])
    with pytest.raises(UnreadableError, match="without text"):
        parse_pdf("scan.pdf", tmp_path / "scan.pdf")
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7\nnothing of the kind")
    with pytest.raises(UnreadableError, match="damaged PDF"):
        parse_pdf("bad.pdf", tmp_path / "bad.pdf")
    (tmp_path / "bad.docx").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UnreadableError, match="damaged Word"):
        parse_word("bad.docx", tmp_path / "bad.docx")
