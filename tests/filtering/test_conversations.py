"""Alpaca records and conversations, through the reader of shards."""

import json

import pytest

from tests.filtering.test_readers import read, write_lines


def test_alpaca(tmp_path):
    records = [
        {"instruction": "翻译", "input": "你好", "output": "hello"},
        {"instruction": "Say hi", "input": "", "output": " hi "},
        {"instruction": "Say yes", "input": "<noinput>", "output": "yes"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    found = read(tmp_path / "a.json", format="alpaca", category="instruction")
    assert found["query"].to_list() == ["翻译\n你好", "Say hi", "Say yes"]
    assert found["positive"].to_list() == ["hello", "hi", "yes"]
    assert found["prompt_response"].all()


CHAT = [
    {"from": "system", "value": "be kind"},
    {"from": "human", "value": "一"},
    {"from": "gpt", "value": "A"},
    {"from": "human", "value": "二"},
    {"from": "human", "value": "三"},
    {"from": "gpt", "value": "B"},
    {"from": "human", "value": "四"},
]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ("first", [("一", "A"), ("hi", "yo")]),
        ("each", [("一", "A"), ("三", "B"), ("hi", "yo")]),
        ("context", [("一", "A"), ("A\n二\n三", "B"), ("hi", "yo")]),
    ],
)
def test_conversations(tmp_path, turns, expected):
    records = [
        {"conversations": CHAT},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
        {"conversations": [{"from": "gpt", "value": "alone"}]},
    ]
    found = read(write_lines(tmp_path / "a.jsonl", records), format="messages", turns=turns)
    assert found.select("query", "positive").rows() == expected
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    messages = [
        {
            "messages": [
                {"role": roles[turn["from"]], "content": turn["value"]} for turn in record["conversations"]
            ]
        }
        for record in records
    ]
    assert (
        read(write_lines(tmp_path / "b.jsonl", messages), format="messages", turns=turns)
        .select("query", "positive")
        .rows()
        == expected
    )


def test_structured_contents_are_read_and_never_printed(tmp_path):
    """Parts of text are joined; a picture is no text, so its conversation is a bad row."""
    text = {"type": "text", "text": "What is this?"}
    records = [
        {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]}
        for content in (
            [text, {"type": "text", "text": "Say."}],
            [text, {"type": "image_url", "image_url": {}}],
            3,
        )
    ]
    write_lines(tmp_path / "a.jsonl", records)
    pairs = read(tmp_path / "a.jsonl", format="messages")
    assert pairs.select("query", "positive").rows() == [("What is this?\nSay.", "A cat.")]
