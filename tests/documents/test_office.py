"""PDF and Word files: sections by styles and outline, and what cannot be read."""

from pathlib import Path

import pytest

from conan_embed.documents.office import UnreadableError, parse_pdf, parse_word
from tests.support.documents import outline


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
    assert outline(document) == [
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
