import json

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.readers import plan_shards, read_shard
from conan_embed.filtering.recipe import Source


def read(path, rows=1000, **source):
    one = Source(path=str(path), **source)
    return pl.concat([read_shard(shard, one) for shard in plan_shards((one,), rows)])


def write_lines(path, records):
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
    )
    return path


def test_parquet_is_cut_by_rows_and_ids_are_shard_and_row(tmp_path):
    pl.DataFrame({"title": list("abcde"), "content": list("vwxyz")}).write_parquet(tmp_path / "news.parquet")
    found = read(tmp_path / "news.parquet", rows=2, query="title", positive="content", category="news")
    assert found["query"].to_list() == list("abcde")
    assert found["id"].to_list() == [0, 1, 1 << 32, (1 << 32) + 1, 2 << 32]
    assert found.select("category", "source", "prompt_response").unique().rows() == [("news", "news", False)]


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_json_lines_are_cut_between_lines(tmp_path, rows):
    records = [{"query": f"q{i}" * (i % 7 * 90 + 1), "positive": f"答{i}"} for i in range(40)]
    found = read(write_lines(tmp_path / "a.jsonl", records), rows=rows)
    assert found["query"].to_list() == [record["query"] for record in records]
    assert found["positive"].to_list() == [record["positive"] for record in records]


def test_categories_and_sources_of_the_files_themselves(tmp_path):
    rows = {"query": ["a", "b"], "positive": ["c", "d"], "category": ["instruction", None]}
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    found = read(tmp_path)
    assert found["category"].to_list() == ["instruction", "uncategorised"]
    assert found["prompt_response"].to_list() == [True, False]
    assert read(tmp_path, prompt_response=True, name="mine")["prompt_response"].to_list() == [True, True]


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


def test_an_empty_file_is_an_empty_shard(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert read(tmp_path / "a.jsonl").height == 0


@pytest.mark.parametrize(
    ("name", "content", "source", "message"),
    [
        ("a.jsonl", '{"query": "a", "positive": "b"}\n{"query": \n', {}, r"a\.jsonl: line 2: not JSON"),
        ("a.jsonl", "[1]\n", {}, r"a\.jsonl: record 1: expected an object, found list"),
        ("a.jsonl", '{"qury": "a", "positive": "b"}\n', {}, r"no column 'query' \(did you mean 'qury'\?\)"),
        ("a.jsonl", '{"query": 3, "positive": "b"}\n', {}, "column 'query' holds Int64, expected text"),
        ("a.json", '{"query": "a"}', {}, "expected a JSON array of records, found dict"),
        ("a.json", "[{", {}, r"a\.json: not JSON"),
        ("a.txt", "x", {}, "cannot read '.txt' files"),
        ("a.parquet", "x", {}, "not a Parquet file"),
        ("a.jsonl", '{"instruction": "a"}\n', {"format": "alpaca"}, "no column 'output'"),
        ("a.jsonl", '{"text": "a"}\n', {"format": "messages"}, "no column 'messages' or 'conversations'"),
        (
            "a.jsonl",
            '{"messages": ["a"]}\n',
            {"format": "messages"},
            "must hold objects with role and content",
        ),
    ],
)
def test_bad_input_is_said_in_one_sentence(tmp_path, name, content, source, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, **source)


def test_a_path_with_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match="no file there"):
        read(tmp_path / "*.parquet")
