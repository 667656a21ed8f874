"""Questions in headings and texts, in Chinese and English."""

import re
from dataclasses import replace

from conan_embed.documents.document import Block, Document, Section

_MARK = re.compile(r"[?？]\s*$")
_ENGLISH = re.compile(
    r"(?i)(?:how|what|why|when|where|which|who|whose)\b.{8,}"
    r"|(?:can|could|does|do|is|are|should|will) (?:i|we|you|it|the|there|my)\b.{6,}"
)
_CHINESE = re.compile(r"如何|怎么|怎样|什么|为什么|为何|是否|哪些|哪个|哪里|能否|可否|多少|吗$|呢$")
_Q = r"^[ \t>*_\-#\d.、]*(?:Q(?:uestion)?|问题?)[ \t]*\d*[ \t]*[*_]*[:：.、][*_ \t]*"
_A = r"^[ \t>*_\-#\d.、]*(?:A(?:nswer)?|答案?|回答|解答)[ \t]*\d*[ \t]*[*_]*[:：.、][*_ \t]*"
_BEGINS_QUESTION, _BEGINS_ANSWER = re.compile(_Q, re.IGNORECASE), re.compile(_A, re.IGNORECASE)


def is_question(text: str) -> bool:
    """Return whether a heading asks something that stands by itself."""
    text = text.strip()
    return len(text) >= 5 and bool(_MARK.search(text) or _ENGLISH.fullmatch(text) or _CHINESE.search(text))


def take_out_questions(document: Document) -> Document:
    """Make a section of each "Q: ... A: ..." in the texts of a document, the question its heading.

    The answer then is a passage without its question in it, which a model could find by the words alone.
    """
    sections = [part for section in document.sections for part in _split_section(section)]
    return replace(document, sections=tuple(sections))


def _split_section(section: Section) -> list[Section]:
    text = "\n".join(block.text for block in section.blocks if block.kind == "text")
    if not re.search(_Q, text, re.IGNORECASE | re.MULTILINE):
        return [section]
    parts: list[Section] = [replace(section, blocks=())]
    for block in section.blocks:
        if block.kind == "text":
            for offset, line in enumerate(block.text.split("\n")):
                _take_line(parts, section, line, block.line + offset)
        else:
            parts[-1] = replace(parts[-1], blocks=(*parts[-1].blocks, block))
    if any(part.kind == "faq" and not (part.blocks and part.headings[-1]) for part in parts):
        return [section]  # questions without answers, or none behind the mark: not the pattern after all
    return [part for part in parts if part.blocks]


def _take_line(parts: list[Section], section: Section, line: str, number: int) -> None:
    if match := _BEGINS_QUESTION.match(line):
        question = line[match.end() :].strip(" *_")
        parts.append(Section((*section.headings, question), number, (), "faq"))
        return
    last = parts[-1]
    if last.kind == "faq" and not last.blocks and (match := _BEGINS_ANSWER.match(line)):
        line = line[match.end() :]
    if line.strip():
        parts[-1] = replace(last, blocks=(*last.blocks, Block("text", line.strip(), number)))
