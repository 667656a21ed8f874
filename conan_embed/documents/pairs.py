"""Queries for passages, taken from the documents themselves.

| kind       | query                                              | passages                                   |
|------------|----------------------------------------------------|--------------------------------------------|
| title      | the document's title                               | what stands under it, before other headings |
| heading    | title and heading, or a heading that says it all   | its section                                |
| question   | a heading that is a question                       | its section                                |
| faq        | "Q: ...", or the query of a table of pairs         | the answer                                 |
| definition | the term of a definition list                      | its definition                             |
| summary    | the description in the document's front matter     | the document's first section               |
| docstring  | the first sentence of a Python object's docstring  | its name, signature and the rest           |
| generated  | by a language model (generated.py)                 | the passage it was asked about             |
| sentence   | a passage's first sentence, where it has no other  | the rest of it                             |
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from conan_embed.documents.boilerplate import Repeated
from conan_embed.documents.passages import Passage, StoredSection
from conan_embed.documents.questions import is_question
from conan_embed.documents.sentences import split_sentences

PairKind = Literal[
    "title", "heading", "question", "faq", "definition", "summary", "docstring", "sentence", "generated"
]

MAX_POSITIVES = 4  # passages of a long section that answer its heading: the first ones
_MIN_WORDS, _MIN_HAN = 4, 8  # of a heading that may stand without its title
_WORD = re.compile(r"[^\W\d_]{2,}")
_HAN = re.compile(r"[\u3400-\u9fff]")
# Of a section: "2.1 Setup", "1.Setup", "1简介", but not that of "3D printing".
_NUMBER = re.compile(
    r"^(?:\d+(?:\.\d+)*(?:\.\s*|\s+|(?=[\u3400-\u9fff]))|[（(]?[一二三四五六七八九十\d]+[)）、.]\s*)(?=\D)"
)
# Headings that name a part of a document, not what it is about.
_GENERIC = frozenset(
    """
    introduction overview summary conclusion conclusions contents toc references reference examples example usage
    notes note description background motivation parameters returns options see-also related links more further-reading
    changelog changes license licence authors acknowledgements acknowledgments appendix miscellaneous other misc faq
    prerequisites requirements requirement about next-steps table-of-contents what's-next getting-help feedback todo
    简介 介绍 概述 概览 前言 引言 总结 小结 结语 结论 目录 参考 参考资料 参考文献 示例 例子
    用法 说明 备注 注意 描述 背景 附录
    参数 返回值 其他 其它 相关 相关链接 更多 前提条件 准备工作 许可证 致谢 另请参阅 延伸阅读 常见问题 下一步 更新日志
    """.split()  # noqa: SIM905
)
_LEGIBLE = re.compile(r"\w")


@dataclass(frozen=True)
class Query:
    """A query, and the passages of its section that answer it.

    Attributes:
        positives: their numbers among the section's passages.
        text: of the positive where it is not the passage as it stands (the passage without its first sentence).
    """

    kind: PairKind
    text: str
    positives: tuple[int, ...]
    rest: str | None = None


def make_queries(
    section: StoredSection, passages: list[Passage], repeated: Repeated, *, min_tokens: int
) -> list[Query]:
    """Return the queries of one section.

    Args:
        repeated: headings that do not tell one section from another.
        min_tokens: of a passage that may be a positive.
    """
    if section.kind == "docstring":
        return list(_of_docstring(section, passages))
    enough = tuple(number for number, passage in enumerate(passages) if passage.num_tokens >= min_tokens)
    if section.kind == "faq":  # a short answer is an answer
        enough = tuple(range(len(passages)))
    positives = enough[:MAX_POSITIVES]
    # Of "Question:" alone nothing is left to ask.
    asked = [(kind, text) for kind, text in _of_headings(section, repeated) if _LEGIBLE.search(text)]
    queries = [Query(*query, positives) for query in asked] if positives else []
    answered = set(positives) if queries else set()
    queries += [
        query
        for number in enough
        if number not in answered
        for query in _first_sentence(passages[number], number)
    ]
    return queries


def _of_docstring(section: StoredSection, passages: list[Passage]) -> Iterator[Query]:
    if section.summary and section.summary in passages[0].text:
        rest = passages[0].text.replace(section.summary, "", 1)
        yield Query("docstring", section.summary, (0,), re.sub(r"\n\s*\n", "\n", rest).strip())


def _of_headings(section: StoredSection, repeated: Repeated) -> Iterator[tuple[PairKind, str]]:
    if section.is_first and _says_something(section.summary):
        yield "summary", section.summary
    if not section.headings:
        if _says_something(section.title):
            yield "title", section.title
        return
    heading = _NUMBER.sub("", section.headings[-1]).strip()
    alone = section.headings[-1].lower() not in repeated.headings
    if section.kind == "faq":
        yield "faq", section.headings[-1].strip()  # as it was asked
    elif is_question(heading):
        yield "question", heading if alone or not section.title else f"{section.title}: {heading}"
    elif section.kind == "definition":
        yield "definition", heading if alone or not section.title else f"{section.title}: {heading}"
    elif alone and not _generic(heading) and _stands_alone(heading):
        yield "heading", heading
    elif (path := _path(section, repeated)) is not None:
        yield "heading", path


def _path(section: StoredSection, repeated: Repeated) -> str | None:
    """Return title and heading, and the one between where the last is a generic word or stands there twice."""
    again = (section.document, section.headings[-1].lower()) in repeated.headings_within
    headings = [_NUMBER.sub("", heading).strip() for heading in section.headings]
    if section.title:
        headings = [section.title, *headings]
    if again or _generic(headings[-1]):
        headings = [heading for heading in headings[:-1] if not _generic(heading)][-2:] + headings[-1:]
        if len(headings) < 2:
            return None
    else:
        headings = [headings[0], *headings[-1:]] if len(headings) > 1 else headings
    path = ": ".join(dict.fromkeys(headings))
    return path if _says_something(path) else None


def _generic(heading: str) -> bool:
    return "-".join(heading.lower().split()).strip(":：.。") in _GENERIC


def _says_something(text: str) -> bool:
    return bool(_WORD.search(text)) and (len(_HAN.findall(text)) >= 2 or len(text.strip()) >= 4)


def _stands_alone(heading: str) -> bool:
    return len(heading.split()) >= _MIN_WORDS or len(_HAN.findall(heading)) >= _MIN_HAN


def _first_sentence(passage: Passage, number: int) -> Iterator[Query]:
    sentences = split_sentences(passage.text, at_lines=True)
    first, rest = sentences[0].strip(), "".join(sentences[1:]).strip()
    characters = len(_HAN.findall(first))
    if not passage.is_prose or sum(map(str.isalpha, first)) < 0.6 * len(first.replace(" ", "")):
        return  # a row of a table, or code
    if (
        (len(first.split()) >= 5 or characters >= 8)
        and len(first) <= 300
        and len(rest) >= max(40, len(first)) // (2 if characters else 1)
    ):
        yield Query("sentence", first.lstrip("- "), (number,), rest)
