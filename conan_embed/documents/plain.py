"""Plain text to documents: paragraphs between empty lines, headings where their form leaves no doubt."""

import re

from conan_embed.documents.document import Document, DocumentBuilder

_HAN_NUMBER = "[〇零一二三四五六七八九十百千\\d]+"
_NUMBERED = [  # level by form; a whole line, short, without a full stop at its end
    (1, re.compile(rf"第{_HAN_NUMBER}[编篇卷部][\s：:、]?.*|(?:PART|Part) [IVX\d]+\b.*")),
    (2, re.compile(rf"第{_HAN_NUMBER}章[\s：:、]?.*|(?:CHAPTER|Chapter) [IVX\d]+\b.*")),
    (
        3,
        re.compile(
            rf"第{_HAN_NUMBER}节[\s：:、]?.*|{_HAN_NUMBER[:-1]}+、.*|\d+(?:\.\d+)*\.? +[A-Z\u4e00-\u9fff].*"
        ),
    ),
    (4, re.compile(rf"[（(]{_HAN_NUMBER}[）)].*")),
]
_UNDERLINE = re.compile(r"([=\-~^*#])\1{2,}")
_MARKED = re.compile(r"(#{1,6})\s+(.+)")
_LONGEST = 60
_ENDS = tuple("。.!！;；,，:：、?？")


def parse_plain(file: str, text: str, first_line: int = 1) -> Document:
    """Parse one text. A first line that stands alone and is short is the title."""
    document = DocumentBuilder(file)
    line, first = first_line, True
    for paragraph in re.split(r"(\n[ \t\f\v\u3000]*(?:\n[ \t\f\v\u3000]*)+)", text):
        if paragraph.strip():
            start = line + len(paragraph) - len(paragraph.lstrip("\n"))
            _add_paragraph(document, paragraph.strip("\n"), start, first=first)
            first = False
        line += paragraph.count("\n")
    return document.build()


def _add_paragraph(document: DocumentBuilder, paragraph: str, line: int, *, first: bool) -> None:
    lines = paragraph.split("\n")
    level = 0 if len(lines[0]) > 2 * _LONGEST else _heading_level(lines)
    if level:
        mark = _MARKED.fullmatch(lines[0].strip())
        document.add_heading(level, mark[2] if mark else lines[0], line)
        body = lines[2:] if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1].strip()) else lines[1:]
        document.add("text", "\n".join(body), line + len(lines) - len(body))
    elif (
        first
        and len(lines) == 1
        and len(lines[0].strip()) <= _LONGEST
        and not lines[0].strip().endswith(_ENDS)
    ):
        document.add_heading(1, lines[0], line)
    else:
        document.add("code" if _is_code(lines) else "text", paragraph, line)


def _heading_level(lines: list[str]) -> int:
    first = lines[0].strip()
    if len(lines) > 1 and (mark := _UNDERLINE.fullmatch(lines[1].strip())) and first:
        return 1 if mark[1] in "=#*" else 2
    if mark := _MARKED.fullmatch(first):
        return len(mark[1])
    if len(lines) > 1 or len(first) > _LONGEST or first.endswith(_ENDS[:-2]):
        return 0
    return next((level + 1 for level, form in _NUMBERED if form.fullmatch(first)), 0)


def _is_code(lines: list[str]) -> bool:
    return len(lines) > 1 and all(line.startswith(("    ", "\t")) for line in lines)
