import gzip
import json

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.readers import merge_bad_rows, plan_shards, read_shard
from conan_embed.filtering.recipe import Source


def read(path, rows=1000, **source):
    one = Source(path=str(path), **source)
    return pl.concat([read_shard(shard, one).pairs for shard in plan_shards((one,), rows)])


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


def test_an_empty_file_is_an_empty_shard(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert read(tmp_path / "a.jsonl").height == 0


@pytest.mark.parametrize(
    ("name", "content", "source", "message"),
    [
        ("a.jsonl", '{"qury": "a", "positive": "b"}\n', {}, r"expected 'query', .*\(did you mean 'qury'\?\)"),
        (
            "a.jsonl",
            '{"x": "a", "y": "b"}\n',
            {"query": "x", "positive": "z"},
            "expected 'z' .named for 'positive'",
        ),
        ("a.json", "[{", {}, r"a\.json: line 1: found broken JSON"),
        ("a.txt", "x", {}, "found a file of an unknown kind"),
        ("a.parquet", "x", {}, "not a Parquet file"),
        ("a.parquet", "x" * 30, {}, r"not a Parquet file: .*[^.]\.$"),
        ("a.jsonl", '{"instruction": "a"}\n', {"format": "alpaca"}, "expected 'output'"),
        ("a.jsonl", '{"text": "a"}\n', {"format": "messages"}, "expected 'messages', 'conversations' or"),
    ],
)
def test_files_of_no_use_are_refused_in_one_sentence(tmp_path, name, content, source, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, **source)


GOOD = {"query": "how do I read a file", "positive": "Line by line."}


def read_lines(tmp_path, lines, rows=1000, **source):
    (tmp_path / "a.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    one = Source(path=str(tmp_path / "a.jsonl"), **source)
    batches = [read_shard(shard, one) for shard in plan_shards((one,), rows)]
    pairs = pl.concat([batch.pairs for batch in batches])
    return pairs, merge_bad_rows(bad for batch in batches for bad in batch.bad)


@pytest.mark.parametrize(
    ("line", "reason", "fault"),
    [
        (b'{"query": ', "broken JSON", "found broken JSON"),
        (b"[1]", "not an object", "expected one JSON object a line"),
        (
            b'{"query": 3, "positive": "b"}',
            "wrong type",
            "column 'query': found the number 3, expected a string",
        ),
        (b'{"query": ["a"], "positive": "b"}', "wrong type", "column 'query': found"),
        (b'{"query": true, "positive": "b"}', "wrong type", "found true, expected a string"),
        (b'{"query": "a", "positive": {"text": "b"}}', "wrong type", "column 'positive': found an object"),
        (b'{"query": "a", "positive": ["b", 7]}', "wrong type", "the number 7 as element 2 of a list"),
        (b'{"query": "a \\ud83d b", "positive": "c"}', "wrong type", "half a character"),
        (b'{"query": "a", "positive": "\\udc00"}', "wrong type", "half a character"),
        (b'{"query": "\xff", "positive": "c"}', "not UTF-8", "found 0xff at byte 12"),
        (b'{"query": "a", "positive": "b", "category": [1]}', "wrong type", "column 'category'"),
    ],
)
@pytest.mark.parametrize("rows", [1, 1000])
def test_a_bad_row_is_left_out_and_counted_with_its_place(tmp_path, line, reason, fault, rows):
    lines = [*[json.dumps({**GOOD, "query": f"q{i}" * 200}).encode() for i in range(6)], b"", line]
    pairs, (bad,) = read_lines(tmp_path, [*lines, lines[0]], rows)
    assert pairs["query"].to_list() == [f"q{i}" * 200 for i in (*range(6), 0)]
    assert (bad.path, bad.rows, bad.reasons) == (str(tmp_path / "a.jsonl"), 1, {reason: 1})
    assert bad.first.startswith("line 8: ")
    assert fault in bad.first


def test_bad_rows_of_all_shards_are_added_up(tmp_path):
    good, number, broken = json.dumps(GOOD).encode(), b'{"query": 1, "positive": "x"}', b"{" + b" " * 2000
    pairs, (bad,) = read_lines(tmp_path, [good, broken, number, good, number], rows=1)
    assert pairs.height == 2
    assert (bad.rows, bad.reasons) == (3, {"wrong type": 2, "broken JSON": 1})
    assert bad.first.startswith("line 2: found broken JSON")


def test_columns_that_nobody_reads_may_hold_anything(tmp_path):
    rows = [{**GOOD, "meta": meta, "category": meta} for meta in ({"a": 1}, ["x"], "s", 3, None, {"a": [{}]})]
    pairs, bad = read_lines(tmp_path, [json.dumps(row).encode() for row in rows], category="faq")
    assert (pairs.height, bad) == (6, [])
    assert set(pairs["category"]) == {"faq"}


def test_a_later_shard_may_lack_a_column(tmp_path):
    lines = [{**GOOD, "query": "q" * 1500}, {"positive": "p" * 1500}, GOOD]
    pairs, bad = read_lines(tmp_path, [json.dumps(line).encode() for line in lines], rows=1)
    assert pairs["query"].to_list() == ["q" * 1500, None, GOOD["query"]]
    assert bad == []


def test_a_list_of_positives_gives_a_pair_for_each(tmp_path):
    lines = [
        b'{"query": "q", "pos": ["a", "b"]}',
        b'{"query": "r", "pos": "c"}',
        b'{"query": "s", "pos": []}',
    ]
    pairs, bad = read_lines(tmp_path, lines)
    assert pairs.select("id", "query", "positive").rows() == [
        (0, "q", "a"),
        (1, "q", "b"),
        (2, "r", "c"),
        (3, "s", None),
    ]
    assert bad == []


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n  \n", b"\r\n\r\n"])
def test_a_byte_order_mark_and_blank_last_lines_do_not_matter(tmp_path, end):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + end)
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfquery,positive\r\nx,y" + end)
    assert read(tmp_path / "a.jsonl").select("query", "positive").rows() == [tuple(GOOD.values())]
    assert read(tmp_path / "a.csv").select("query", "positive").rows() == [("x", "y")]


def test_other_formats_and_usual_names(tmp_path):
    (tmp_path / "b.tsv").write_text('question\tanswer\nsay "hi"\thi\n', encoding="utf-8")
    with gzip.open(tmp_path / "c.jsonl.gz", "wb") as file:
        file.write(b'{"anchor": "a", "passage": "p"}\n' * 3)
    assert read(tmp_path, rows=1)["query"].to_list() == ['say "hi"', "a", "a", "a"]


def test_folders_are_read_with_those_below(tmp_path):
    for name in ("b/x.jsonl", "a.jsonl", "b/c/.hidden.jsonl", "b/c/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(tmp_path / name, [{"query": name, "positive": "p"}])
    assert read(tmp_path)["query"].to_list() == ["a.jsonl", "b/x.jsonl"]


def test_a_path_with_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match="found no file that matches this pattern"):
        read(tmp_path / "*.parquet")
