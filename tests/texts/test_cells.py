"""A cell is judged alone: by its kind, whatever stands in other rows."""

import math

import polars as pl
import pytest

from conan_embed.texts.cells import convert, describe, has_text, is_blank


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("text", ["a", "", None], [1, True, ["a"], {"a": 1}, "\ud83d"]),
        ("name", ["a", "7", None], [1.5, True, ["a"]]),
        ("texts", [["a"], [], None], [1, [1], ["a", None], [["a"]], {"a": "b"}, ["\ud83d"]]),
        ("number", [1.5, -2.0, None], ["1", True, [1]]),
        ("binary", [0.0, 1.0], ["1", False]),
    ],
)
def test_cells_that_fit_and_cells_that_do_not(kind, good, bad):
    values = [*good, *bad]
    series, misfits = convert(kind, values)
    assert series.to_list() == [*good, *[None] * len(bad)]
    assert misfits == dict(enumerate(bad, len(good)))
    for value in values:  # alone it is as with the others
        assert (
            convert(kind, [value])[0].to_list()[0]
            == dict(zip(map(repr, values), series.to_list(), strict=True))[repr(value)]
        )


def test_what_is_brought_into_one_form():
    assert convert("name", [7, "7"])[0].to_list() == ["7", "7"]
    assert convert("texts", ["a", ["b", "c"]])[0].to_list() == [["a"], ["b", "c"]]
    numbers = convert("number", [3, 10**400])[0]
    assert numbers.dtype == pl.Float64 and numbers.to_list() == [3.0, math.inf]


def part(text):
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("message", "role", "content"),
    [
        ({"role": "user", "content": "hi"}, "user", "hi"),
        ({"from": "human", "value": "hi", "weight": 1}, "human", "hi"),
        ({"role": "user", "content": [part("one"), part("two")]}, "user", "one\ntwo"),
        ({"role": "user", "content": ["one", {"text": "two"}]}, "user", "one\ntwo"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "assistant", ""),
    ],
)
def test_messages_are_read(message, role, content):
    series, misfits = convert("messages", [[message]])
    assert series.to_list() == [[{"role": role, "content": content}]] and not misfits


@pytest.mark.parametrize(
    "conversation",
    [
        "hi",
        [["user", "hi"]],
        [{"role": "user"}],
        [{"content": "hi"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": {"text": "hi"}}],
        [
            {
                "role": "user",
                "content": [part("what is this"), {"type": "image_url", "image_url": {"url": "x"}}],
            }
        ],
        [{"role": "user", "content": [{"type": "text", "text": ["a"]}]}],
    ],
)
def test_messages_that_are_no_text_are_refused(conversation):
    good = [{"role": "user", "content": "hi"}]
    series, misfits = convert("messages", [good, conversation, None])
    assert series.to_list() == [good, None, None]
    assert misfits == {1: conversation}


@pytest.mark.parametrize("text", ["", " \t\n", "\u3000", "\u200b", "\ufeff", "\x00", "\u200d\u2060"])
def test_blank_texts(text):
    assert is_blank(text)
    assert not is_blank(text + "好" + text)
    assert pl.Series("t", [text, None, "a"]).to_frame().select(has_text(pl.col("t")))["t"].to_list() == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "null"),
        (True, "true"),
        (2.5, "the number 2.5"),
        ("a" * 99, "the text '" + "a" * 59 + "..."),
        ([], "an empty list"),
        (["a", 3], "the number 3 as element 2 of a list"),
        (["a"], "a list of strings"),
        ({"a": 1}, "an object"),
        ("\ud83d", "half a character (an unpaired surrogate) in the text '\\ud83d'"),
    ],
)
def test_descriptions(value, sentence):
    assert describe(value) == sentence
