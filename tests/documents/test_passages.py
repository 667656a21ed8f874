"""Passages: bounded, nothing lost, cut where a reader would."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.documents.document import Block
from conan_embed.documents.passages import StoredSection, cut_sections, estimate_tokens
from conan_embed.documents.sentences import split_sentences

words = st.lists(st.sampled_from(["word", "备份", "数据库", "e.g.", "3.14"]), min_size=1, max_size=12).map(
    " ".join
)
sentences = st.lists(
    st.tuples(words, st.sampled_from([". ", "。", "? ", "！", "\n"])), min_size=1, max_size=12
)
texts = sentences.map(lambda parts: "".join(word + end for word, end in parts))


def count_words(texts: list[str]) -> np.ndarray:
    return np.array([max(1, len(text.split())) for text in texts], np.int64)


def _section(*blocks: Block) -> StoredSection:
    return StoredSection(1, "a.md", "Title", "", (), "section", 1, True, blocks)


def _cut(*blocks: Block, max_tokens: int, overlap: int = 0) -> list[str]:
    [(_, passages)] = cut_sections([_section(*blocks)], count_words, max_tokens=max_tokens, overlap=overlap)
    return [passage.text for passage in passages]


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.integers(5, 40))
def test_passages_hold_every_word_in_order_and_keep_the_bound(blocks: list[str], bound: int) -> None:
    kept = [Block("text", text, number) for number, text in enumerate(blocks, 1) if text.strip()]
    passages = _cut(*kept, max_tokens=bound)
    assert "".join("".join(passages).split()) == "".join("".join(block.text for block in kept).split())
    longest = max(len(part.split()) for block in kept for part in split_sentences(block.text, at_lines=True))
    assert count_words(passages).max() <= max(bound, longest)


def test_a_section_that_fits_is_one_passage() -> None:
    assert _cut(Block("text", "One.", 1), Block("code", "x = 1", 3), max_tokens=20) == ["One.\n\nx = 1"]


def test_overlap_repeats_whole_sentences() -> None:
    text = " ".join(f"Sentence {number} is here." for number in range(6))
    passages = _cut(Block("text", text, 1), max_tokens=12, overlap=4)
    assert passages[0].endswith("Sentence 2 is here.")
    assert passages[1].lstrip().startswith("Sentence 2 is here. Sentence 3")


def test_a_long_table_is_cut_between_rows_and_keeps_its_header() -> None:
    rows = "\n".join(["name | size", *(f"row{number} | {number}" for number in range(20))])
    passages = _cut(Block("table", rows, 1), max_tokens=15)
    assert len(passages) > 3
    assert all(passage.startswith("name | size\n") for passage in passages)
    assert sum(passage.count("row") for passage in passages) == 20


def test_code_is_cut_between_lines() -> None:
    code = "\n".join(f"    value_{number} = {number}" for number in range(30))
    passages = _cut(Block("code", code, 1), max_tokens=15)
    assert "\n".join(passages) == code


def test_text_without_a_space_is_cut_anyway() -> None:
    [(_, passages)] = cut_sections([_section(Block("text", "字" * 5000, 1))], estimate_tokens, max_tokens=100)
    assert "".join(passage.text for passage in passages) == "字" * 5000
    assert max(len(passage.text) for passage in passages) <= 200


def test_a_passage_knows_its_line() -> None:
    text = "\n".join(f"Line number {number} of it." for number in range(1, 11))
    [(_, passages)] = cut_sections([_section(Block("text", text, 7))], count_words, max_tokens=20)
    for passage in passages:
        assert passage.text.split("\n")[0] == f"Line number {passage.line - 6} of it."


@pytest.mark.parametrize(("text", "tokens"), [("数据库备份", 5), ("one two three", 4), ("", 0)])
def test_the_estimate_is_one_a_chinese_character_and_more_a_word(text: str, tokens: int) -> None:
    assert estimate_tokens([text]).tolist() == [tokens]
