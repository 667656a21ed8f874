"""Questions in headings and texts become sections whose heading they are, in Chinese and English."""

import pytest

from conan_embed.documents.document import Block, Document, Section, SectionKind
from conan_embed.documents.markdown import parse_markdown
from conan_embed.documents.questions import is_question, take_out_questions


@pytest.mark.parametrize(
    "text", ["How to install it", "什么是事务？", "为什么要备份", "Can I use it offline?"]
)
def test_questions_are_known(text: str) -> None:
    assert is_question(text)


@pytest.mark.parametrize("text", ["Installation", "事务", "Whatever", "The howling wind", "?"])
def test_other_headings_are_no_questions(text: str) -> None:
    assert not is_question(text)


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        (
            "Q: Is it fast?\nA: Yes, quite fast.\n\nQ: Is it safe?\nA: We think so.",
            ["Is it fast?", "Is it safe?"],
        ),
        ("**Q1: Is it fast?**\n\nA1: Yes, quite fast.", ["Is it fast?"]),
        ("问：能离线使用吗？\n答：可以，先下载模型。", ["能离线使用吗？"]),
        ("问题1：能离线使用吗？\n\n解答：可以，先下载模型。", ["能离线使用吗？"]),
    ],
)
def test_questions_in_a_text_become_sections_with_their_answers(text: str, questions: list[str]) -> None:
    document = take_out_questions(parse_markdown("faq.md", f"# FAQ\n\n{text}\n"))
    faq = [section for section in document.sections if section.kind == "faq"]
    assert [section.headings[-1] for section in faq] == questions
    for section in faq:
        answer = " ".join(block.text for block in section.blocks)
        assert answer
        assert section.headings[-1] not in answer, (
            "an answer that repeats its question is found by the words alone"
        )
        assert not answer.startswith(("A", "答", "解答"))


def test_a_question_without_an_answer_stays_text() -> None:
    document = take_out_questions(parse_markdown("a.md", "# T\n\nQ: Is it fast?\n"))
    assert [section.kind for section in document.sections] == ["section"]


def faq(*blocks: Block, kind: SectionKind = "section") -> list[Section]:
    section = Section(("FAQ",), 3, blocks, kind)
    return list(take_out_questions(Document("a.md", "Title", (section,), "A summary.")).sections)


def test_questions_keep_their_place_their_lines_and_the_blocks_that_answer_them() -> None:
    code = Block("code", "Q: not a question", 9)
    sections = faq(
        Block("text", "Before.\nQ: Is it fast?", 4),
        Block("text", "A: Yes:", 7),
        code,
        Block("text", "Q2. 安全吗\nA2. 是", 11),
    )
    assert sections == [
        Section(("FAQ",), 3, (Block("text", "Before.", 4),)),
        Section(("FAQ", "Is it fast?"), 5, (Block("text", "Yes:", 7), code), "faq"),
        Section(("FAQ", "安全吗"), 11, (Block("text", "是", 12),), "faq"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Q & A session",
        "Question of the day: why?\nNobody knows.",
        "问题是什么？很难说。",
        "Q3-Q4: growth was good.\nReally.",
        "Q:\nA: An answer to nothing.",
        "Q: One?\nQ: Two?\nA: Both.",
        "A: An answer to nothing.",
    ],
)
def test_what_only_looks_like_questions_and_answers_stays_as_it_is(text: str) -> None:
    block = Block("text", text, 4)
    assert faq(block) == [Section(("FAQ",), 3, (block,))]


def test_only_the_first_line_of_an_answer_loses_its_mark() -> None:
    (section,) = faq(Block("text", "Q: Which?\nA: The second.\nA: is the first letter.", 4))
    assert [block.text for block in section.blocks] == ["The second.", "A: is the first letter."]


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("Why?", False),
        ("你好吗？", False),
        ("How many", False),
        ("   How to install it  ", True),
        ("多少钱一斤", True),
        ("What's new", False),
        ("Will it run on a Mac", True),
        ("Howto install things", False),
        ("The question is why", False),
    ],
)
def test_a_heading_too_short_to_stand_by_itself_is_no_question(text: str, asks: bool) -> None:
    assert is_question(text) == asks


def test_the_answer_of_a_pair_is_not_taken_apart() -> None:
    block = Block("text", "Q: Is this a quotation?\nA: Yes.", 4)
    assert faq(block, kind="faq") == [Section(("FAQ",), 3, (block,), "faq")]
