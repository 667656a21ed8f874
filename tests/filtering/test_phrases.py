"""Patterns of phrases: one for all, longest first, with borders of words that Chinese around them does not hide."""

import random
import re

import polars as pl
import pytest

from conan_embed.filtering import phrases
from conan_embed.filtering.phrases import any_of

LISTS = {name: value for name, value in vars(phrases).items() if name.isupper() and isinstance(value, tuple)}


def matches(pattern: str, *texts: str) -> list[bool]:
    return pl.Series(texts).str.contains(pattern).to_list()


@pytest.mark.parametrize("name", LISTS)
def test_each_list_is_a_pattern_of_the_engine_and_matches_what_its_patterns_match_one_by_one(
    name: str,
) -> None:
    rng = random.Random(0)
    sounds = [
        "see also",
        "参考资料",
        "I'm sorry",
        "作为一个AI，",
        "cannot",
        "无法",
        "好的",
        " and",
        "：",
        "next item in",
    ]
    texts = pl.Series([" ".join(rng.choices([*sounds, "word", "字"], k=3)) for _ in range(100)])
    one_by_one = [texts.str.contains(f"(?i)(?:{pattern})") for pattern in LISTS[name]]
    together = texts.str.contains(any_of(LISTS[name]))
    assert together.to_list() == [any(row) for row in zip(*one_by_one, strict=True)]


@pytest.mark.parametrize(
    "name", ["ADDRESS", "MENTION", "EMOTICON", "BROKEN", "CODE_SIGN", "LIST_NUMBER", "SUM_CHARACTER"]
)
def test_a_single_pattern_does_not_match_nothing(name: str) -> None:
    assert matches(getattr(phrases, name), "", "word", "字") == [False] * 3


def test_the_longest_phrase_is_taken_whatever_the_order_and_case() -> None:
    for words in (("参考", "参考资料", "see also"), ("see also", "参考资料", "参考")):
        taken = pl.Series(["参考资料在此", "参考书", "SEE Also"]).str.extract(f"({any_of(words)})")
        assert taken.to_list() == ["参考资料", "参考", "SEE Also"]


def test_a_word_has_borders_in_chinese_text_and_none_within_a_word() -> None:
    pattern = any_of((r"\bjson\b", r"\bnot sure\b"))
    assert matches(pattern, "用JSON格式", "json", "jsonl", "I'm NOT SURE.", "not surely") == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_no_phrase_is_empty_or_twice_in_its_list() -> None:
    for name, patterns in LISTS.items():
        assert all(pattern.strip() for pattern in patterns), name
        assert len(set(patterns)) == len(patterns), name
    plain = [
        phrase
        for phrase in (*phrases.BOILERPLATE, *phrases.NAVIGATION)
        if re.escape(phrase).replace("\\", "") != phrase
    ]
    assert not plain, "these lists are read as words, not as patterns"
