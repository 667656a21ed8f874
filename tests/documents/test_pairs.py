"""Queries that documents hold themselves: of every kind, in Chinese and English."""

import numpy as np
import pytest

from conan_embed.documents.boilerplate import Repeated
from conan_embed.documents.containment import Contained
from conan_embed.documents.pairs import Query, make_queries
from conan_embed.documents.passages import Passage, StoredSection

TEXT = "The server keeps a log. It is rotated every day, and old files are removed after a week or so."


def _queries(headings: tuple[str, ...], *texts: str, title: str = "Server guide", **settings) -> list[Query]:
    repeated, within = settings.pop("repeated", {}), settings.pop("within", [])
    none = np.zeros(0)
    known = Repeated(
        *(none, Contained(none, none, ("", "")), none, repeated),
        *(frozenset((1, heading) for heading in within), 1, []),
    )
    given = {"summary": "", "kind": "section", "is_first": False, **settings}
    section = StoredSection(
        1, "a.md", title, given["summary"], headings, given["kind"], 1, given["is_first"], ()
    )
    passages = [Passage(text, 1, len(text) // 4) for text in texts or (TEXT,)]
    return make_queries(section, passages, known, min_tokens=8)


@pytest.mark.parametrize(
    ("headings", "settings", "expected"),
    [
        ((), {}, ("title", "Server guide")),
        (("Logging",), {}, ("heading", "Server guide: Logging")),
        (("Rotating the logs of a server",), {}, ("heading", "Rotating the logs of a server")),
        (("2.1 日志文件的轮转与清理",), {}, ("heading", "日志文件的轮转与清理")),
        (("1简介日志文件的轮转与清理",), {}, ("heading", "简介日志文件的轮转与清理")),
        (("2.1. Rotating the logs of a server",), {}, ("heading", "Rotating the logs of a server")),
        (("3D printing of a small server",), {}, ("heading", "3D printing of a small server")),
        (("2 servers do not answer?",), {"kind": "faq"}, ("faq", "2 servers do not answer?")),
        (("401k or 2FA?",), {"kind": "faq"}, ("faq", "401k or 2FA?")),
        (("Logging", "Examples"), {}, ("heading", "Server guide: Logging: Examples")),
        (
            ("Version 2", "Commits"),
            {"repeated": {"commits": 2}, "within": ["commits"]},
            ("heading", "Server guide: Version 2: Commits"),
        ),
        (("How do I rotate logs?",), {}, ("question", "How do I rotate logs?")),
        (("如何清理日志",), {}, ("question", "如何清理日志")),
        (("How it works",), {"repeated": {"how it works": 3}}, ("question", "Server guide: How it works")),
        (("rotation",), {"kind": "definition"}, ("definition", "rotation")),
        (("What then?",), {"kind": "faq"}, ("faq", "What then?")),
        ((), {"summary": "All about logs.", "is_first": True, "title": ""}, ("summary", "All about logs.")),
    ],
)
def test_each_kind_of_section_has_its_query(headings, settings, expected) -> None:
    [query] = _queries(headings, **settings)
    assert (query.kind, query.text, query.positives) == (*expected, (0,))


def test_a_generic_heading_alone_asks_nothing() -> None:
    assert [query.kind for query in _queries(("Overview",), title="")] == ["sentence"]


@pytest.mark.parametrize("heading", ["", "？", "--"])
@pytest.mark.parametrize("kind", ["faq", "definition", "section"])
def test_a_heading_without_a_word_asks_nothing(kind, heading) -> None:
    """ "Question:", with its answer below, has an empty heading."""
    assert all(query.text.strip("？- ") for query in _queries((heading,), kind=kind, title=""))


def test_a_first_sentence_is_the_query_where_there_is_no_other_and_the_rest_its_answer() -> None:
    [query] = _queries((), TEXT, title="")
    assert (query.kind, query.text) == ("sentence", "The server keeps a log.")
    assert query.rest == TEXT[len(query.text) :].strip()


def test_a_row_of_a_table_is_no_sentence() -> None:
    assert _queries((), "a1 | 2 | 3 | 4 | 5 | 6 | +---+----+\n" + TEXT, title="") == []


def test_the_first_passages_of_a_long_section_answer_its_heading() -> None:
    [query, *others] = _queries(("Logging",), *[f"{number} {TEXT}" for number in range(6)])
    assert query.positives == (0, 1, 2, 3)
    assert [other.positives for other in others if other.kind == "sentence"] in (
        [],
        [(4,), (5,)],
        [(4,)],
        [(5,)],
    )
