"""Readers: every layout and format gives the same table, and each kind of bad input has its sentence."""

import gzip
import itertools
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from conan_embed.errors import UserError
from conan_embed.texts.columns import RETRIEVAL
from conan_embed.texts.readers import (
    read_classification,
    read_corpus,
    read_retrieval,
    read_rows,
    read_scored_retrieval,
    read_sts,
)

SHARED = Path(__file__).parents[2] / "../shared/data"

ROWS = [
    {"query": "how to boil an egg", "positive": ["ten minutes", "in water"], "negative": ["a hen"]},
    {"query": "水的沸点是多少？", "positive": ["一百摄氏度。"], "negative": []},
    {
        "query": ' "quoted", with\na newline ',
        "positive": ['["not", "a list"]\t|'],
        "negative": ["x", "y", "z"],
    },
]


def lines(path: Path, rows: list) -> Path:
    """Write JSON lines; bytes and strings are written as they are."""
    encoded = [row if isinstance(row, bytes) else str_of(row).encode() for row in rows]
    path.write_bytes(b"".join(row + b"\n" for row in encoded))
    return path


def str_of(row) -> str:
    return row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)


def written(tmp_path: Path, text: str, name: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def cells_of(rows: list[dict]) -> list[list[str]]:
    records = [list(rows[0]), *([*row.values()] for row in rows)]
    return [[str_of(value) for value in record] for record in records]


def csv_of(rows: list[dict]) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    return "".join(",".join(map(quoted, record)) + "\r\n" for record in cells_of(rows))


def tsv_of(rows: list[dict]) -> str:
    return "".join("\t".join(record) + "\r\n" for record in cells_of(rows))


def dropped(printed: str) -> Counter[str]:
    """Return the counts by reason of a printed line."""
    counts = re.search(r"rows \((.*?)\); the first", printed)[1]
    return Counter({reason: int(n) for reason, n in re.findall(r"([^,]+): (\d+)(?:, )?", counts)})


def message(path, read=read_retrieval, **arguments) -> str:
    with pytest.raises(UserError) as error:
        read(path, **arguments)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# ------------------------------------------------------------------------------------- formats and layouts


def write_as(kind: str, folder: Path, rows: list[dict]) -> Path:
    path = folder / f"data.{kind}"
    jsonl = "".join(json.dumps(row) + "\n" for row in rows).encode()  # escaped, unlike `lines`
    csv = (tsv_of(rows) if "tsv" in kind else csv_of(rows)).encode()
    match kind.split("."):
        case ["parquet"]:
            pl.DataFrame(rows).write_parquet(path)
        case ["json"]:
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        case ["jsonl" | "ndjson"]:
            path.write_bytes(jsonl)
        case ["csv" | "tsv"]:
            path.write_bytes(csv)
        case [text, "gz"]:
            path.write_bytes(gzip.compress(jsonl if text == "jsonl" else csv))
        case [text, "zst"]:
            path.write_bytes(pa.compress(jsonl if text == "jsonl" else csv, codec="zstd", asbytes=True))
        case ["saved"]:
            datasets = pytest.importorskip("datasets")
            datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


KINDS = ["parquet", "json", "jsonl", "ndjson", "csv", "tsv", "saved"]
KINDS += ["jsonl.gz", "jsonl.zst", "csv.gz", "tsv.zst"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_table_to_the_character(kind, tmp_path):
    # A cell of TSV can hold neither tab nor line end.
    rows = [ROWS[0], ROWS[1], ROWS[2] | {"query": ' "quoted", '}] if "tsv" in kind else ROWS
    frame = read_retrieval(write_as(kind, tmp_path, rows))
    assert frame.schema == {
        "query": pl.String,
        "positive": pl.List(pl.String),
        "negative": pl.List(pl.String),
    }
    assert frame.to_dicts() == rows


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("row", "positive", "negative"),
    [
        ({"query": "q", "positive": "p"}, ["p"], []),
        (
            {"query": "q", "pos": ["p", "r"], "neg": ["n"], "pos_scores": [1.5, 2], "neg_scores": [0]},
            ["p", "r"],
            ["n"],
        ),
        ({"query": "q", "pos": ["p"], "neg": []}, ["p"], []),
        ({"anchor": "q", "positive": "p", "negative": "n"}, ["p"], ["n"]),
        (
            {"anchor": "q", "positive": "p", **{f"negative_{i}": str(i) for i in (10, 2, 1)}},
            ["p"],
            ["1", "2", "10"],
        ),
        ({"question": "q", "answer": "p"}, ["p"], []),
        ({"query": "q", "passage": "p", "answer_start": 3}, ["p"], []),
        ({"query": "q", "positive": "p", "category": "news", "source": None}, ["p"], []),
    ],
)
def test_usual_layouts_are_understood(kind, row, positive, negative, tmp_path):
    frame = read_retrieval(write_as(kind, tmp_path, [row, row]))
    assert frame.to_dicts() == [{"query": "q", "positive": positive, "negative": negative}] * 2


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_named_columns_count_first_and_are_joined_in_order(kind, tmp_path):
    path = write_as(
        kind, tmp_path, [{"title": "t", "query": "q", "content": "c", "extra": "e", "negative": "n"}]
    )
    names = {"query": "title", "positive": ["extra", "content"]}
    assert read_retrieval(path, names).rows() == [("t", ["e", "c"], ["n"])]
    assert read_retrieval(path, names | {"negative": []}).rows() == [("t", ["e", "c"], [])]
    assert read_retrieval(path, {"query": "title", "positive": "title"}).rows() == [("t", ["t"], ["n"])]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_missing_negative_of_an_n_tuple_is_left_out(kind, tmp_path):
    rows = [
        {"query": "q", "positive": "p", "negative_1": "a", "negative_2": "b"},
        {"query": "q", "positive": "p", "negative_1": None, "negative_2": "b"},
    ]
    path = write_as(kind, tmp_path, rows)
    if kind == "csv":
        path.write_text(path.read_text().replace('"null"', ""))
    assert read_retrieval(path)["negative"].to_list() == [["a", "b"], ["b"]]


@pytest.mark.parametrize("names", [("text_a", "text_b", "score"), ("sentence1", "sentence2", "label")])
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "json", "tsv"])
def test_sts(kind, names, tmp_path):
    values = [("a", "b", 3), ("c", "d", -1), ("e", "f", 0)]
    if kind != "parquet":
        values += [("g", "h", 2.5)]  # integers and other numbers mixed
    frame = read_sts(write_as(kind, tmp_path, [dict(zip(names, row, strict=True)) for row in values]))
    assert frame.schema == {"text_a": pl.String, "text_b": pl.String, "score": pl.Float64}
    assert frame.rows() == values


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("label", [7, "seven"])
def test_classification(kind, label, tmp_path):
    frame = read_classification(write_as(kind, tmp_path, [{"sentence": "s", "label": label, "id": 1}] * 2))
    assert frame.schema == {"text": pl.String, "label": pl.String}
    assert frame.rows() == [("s", str(label))] * 2


def test_categories_of_parquet_are_strings(tmp_path):
    frame = pl.DataFrame({"text": ["a", "b"], "label": pl.Series(["x", "y"], dtype=pl.Categorical)})
    frame.write_parquet(tmp_path / "data.parquet")
    assert read_classification(tmp_path / "data.parquet").rows() == frame.rows()


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_corpus_puts_the_title_before_the_text(kind, tmp_path):
    rows = [
        {"_id": "a", "title": "Eggs", "text": "They break."},
        {"_id": "b", "title": "Eggs", "text": "Eggs break."},
        {"_id": "c", "title": "", "text": "No title."},
        {"_id": "d", "title": "Only a title", "text": ""},
        {"_id": "e", "title": "  ", "text": " kept as it is "},
    ]
    frame = read_corpus(write_as(kind, tmp_path, rows))
    assert frame.schema == {"doc_id": pl.String, "text": pl.String}
    texts = ["Eggs\nThey break.", "Eggs break.", "No title.", "Only a title", " kept as it is "]
    assert frame.rows() == list(zip("abcde", texts, strict=True))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_corpus_makes_ids_from_row_numbers(kind, tmp_path):
    assert read_corpus(write_as(kind, tmp_path, [{"text": t} for t in "abc"])).rows() == [
        ("1", "a"),
        ("2", "b"),
        ("3", "c"),
    ]
    numbered = write_as(kind, tmp_path, [{"text": "a", "id": 41}, {"text": "b", "id": 7}])
    assert read_corpus(numbered).rows() == [("41", "a"), ("7", "b")]
    some = lines(
        tmp_path / "some.jsonl", [{"text": "a", "id": "x"}, {"text": "b", "id": None}, {"text": "c"}]
    )
    assert read_corpus(some)["doc_id"].to_list() == ["x", "2", "3"]


def test_folders_and_patterns_are_read_in_sorted_order(tmp_path):
    for name in ("b.jsonl", "c.jsonl", "a.jsonl", ".hidden.jsonl"):
        lines(tmp_path / name, [{"query": name, "positive": "p"}])
    (tmp_path / "README.md").write_text("not data")
    assert read_retrieval(tmp_path)["query"].to_list() == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert read_retrieval(tmp_path / "[bc].*")["query"].to_list() == ["b.jsonl", "c.jsonl"]
    assert read_retrieval(str(tmp_path / "**/a.jsonl"))["query"].to_list() == ["a.jsonl"]


def test_a_column_may_first_occur_late(tmp_path):
    rows = [{"query": f"q{i}", "pos": ["p"]} for i in range(9000)]
    rows[8500]["neg"] = ["n"]
    frame = read_retrieval(lines(tmp_path / "data.jsonl", rows))
    assert frame["query"].to_list() == [row["query"] for row in rows]
    assert frame["negative"].to_list() == [row.get("neg", []) for row in rows]


def test_blank_lines_line_ends_and_byte_order_marks_do_not_matter(tmp_path):
    text = '{"query": "q", "positive": "p"}'
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{text}\r\n\r\n  \n{text}".encode())
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfquery,positive\r\n\r\nq,p\r\n\r\nq,p")
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf\n" + f"[{text}, {text}]".encode())
    assert read_retrieval(tmp_path).rows() == [("q", ["p"], [])] * 6


def test_texts_that_look_like_numbers_dates_or_lists_stay_texts(tmp_path):
    texts = [
        "plain",
        "12",
        "2020-01-01 00:00:00",
        "NA",
        "null",
        "true",
        "[1, 2]",
        '["a", "b"]',
        "['a']",
        "NaN",
    ]
    rows = [{"query": text, "positive": text} for text in texts]
    for kind in ("jsonl", "csv", "tsv", "parquet"):
        frame = read_retrieval(write_as(kind, tmp_path, rows))
        assert frame["query"].to_list() == texts
        assert frame["positive"].to_list() == [[text] for text in texts]


def test_texts_longer_than_any_buffer(tmp_path):
    text = '长文本, "x"\n' * 300_000
    for kind in ("jsonl", "csv"):
        frame = read_retrieval(write_as(kind, tmp_path, [{"query": "q", "positive": text}]))
        assert frame["positive"].to_list() == [[text]]


# ------------------------------------------------------------------------------------- bad: rows and cells

GOOD = {"query": "q", "positive": ["p"], "negative": ["n"]}
PAIR = {"text_a": "a", "text_b": "b", "score": 1.0}


@pytest.mark.parametrize(
    ("change", "column", "found"),
    [
        ({"query": ""}, "query", "an empty text"),
        ({"query": " \t\u3000\u200b\n"}, "query", "a text with nothing to read"),
        ({"query": None}, "query", "null"),
        ({"positive": []}, "positive", "an empty list"),
        ({"positive": None}, "positive", "an empty list"),
        ({"positive": ["p", ""]}, "positive", "an empty text as element 2 of a list"),
        ({"positive": [None]}, "positive", "null as element 1 of a list"),
        (
            {"negative": ["n", "n", " "]},
            "negative",
            "a text with nothing to read (' ') as element 3 of a list",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json", "csv"])
def test_a_text_with_nothing_in_it(kind, change, column, found, tmp_path):
    path = write_as(kind, tmp_path, [GOOD, GOOD, GOOD | change, GOOD])
    place = {"jsonl": "line 3", "csv": "line 4"}.get(kind, "row 3")
    if kind == "csv":
        path.write_text(path.read_text().replace('"null"', ""))
        found = "an empty cell" if change.get("query", "q") in (None, "") else found
    assert message(path).startswith(f"{path}: {place}: column '{column}': found {found}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"query": 3}, "column 'query': found the number 3, expected a string."),
        ({"query": ["q"]}, "column 'query': found a list of strings, expected a string."),
        ({"query": {"text": "q"}}, "column 'query': found an object, expected a string."),
        ({"query": True}, "column 'query': found true, expected a string."),
        (
            {"positive": 1.5},
            "column 'positive': found the number 1.5, expected a string or a list of strings.",
        ),
        (
            {"positive": ["p", 4]},
            "column 'positive': found the number 4 as element 2 of a list, "
            "expected a string or a list of strings.",
        ),
        (
            {"negative": [["n"]]},
            "column 'negative': found a list of strings as element 1 of a list, "
            "expected a string or a list of strings.",
        ),
    ],
)
def test_a_value_of_another_type_in_json(change, sentence, tmp_path):
    path = lines(tmp_path / "data.jsonl", [GOOD, GOOD, GOOD | change, GOOD])
    assert message(path) == f"{path}: line 3: {sentence}"


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_cell_does_not_depend_on_other_rows(kind, tmp_path):
    """A single positive and a list of them, a label as a number and as a string: whichever comes first."""
    rows = [{"query": "q", "positive": "p"}, {"query": "q", "positive": ["p", "r"]}]
    for both in (rows, rows[::-1]):
        expected = [["p"], ["p", "r"]] if both is rows else [["p", "r"], ["p"]]
        assert read_retrieval(write_as(kind, tmp_path, both))["positive"].to_list() == expected
    labels = write_as(kind, tmp_path, [{"text": "a", "label": 1}, {"text": "b", "label": "1"}])
    assert read_classification(labels)["label"].to_list() == ["1", "1"]


def test_a_label_that_is_none(tmp_path):
    path = lines(tmp_path / "data.jsonl", [{"text": "a", "label": 1.5}])
    assert "column 'label': found the number 1.5, expected a string or an integer" in message(
        path, read_classification
    )
    path = lines(tmp_path / "data.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": None}])
    assert "line 2: column 'label': found null, expected a label" in message(path, read_classification)


@pytest.mark.parametrize("values", [[3], [[3]], [{"text": "p"}], [b"p"], [True]])
def test_a_parquet_column_of_the_wrong_type(values, tmp_path):
    path = tmp_path / "data.parquet"
    frame = pl.DataFrame({"query": ["q"], "positive": values})
    frame.write_parquet(path)
    assert message(path) == (
        f"{path}: column 'positive': found values of type {frame.schema['positive']}, "
        f"expected a string or a list of strings in each row."
    )


@pytest.mark.parametrize(
    ("score", "found"),
    [("high", "the text 'high'"), ("0.5", "the text '0.5'"), (True, "true"), ([1], "the number 1")],
)
def test_a_score_that_is_no_number_in_json(score, found, tmp_path):
    path = lines(tmp_path / "data.jsonl", [PAIR, PAIR | {"score": score}])
    assert f"line 2: column 'score': found {found}" in message(path, read_sts)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_beside_the_texts(kind, tmp_path):
    rows = [
        {"query": "q", "pos": ["p", "r"], "neg": ["n"], "pos_scores": [1.5, 2], "neg_scores": [0]},
        {"query": "s", "pos": ["t", "u"], "neg": ["v"], "pos_scores": [0.25, -1], "neg_scores": [1e-3]},
    ]
    frame = read_scored_retrieval(write_as(kind, tmp_path, rows))
    assert frame["positive_score"].to_list() == [[1.5, 2.0], [0.25, -1.0]]
    assert frame["negative_score"].to_list() == [[0.0], [0.001]]
    assert frame.drop("positive_score", "negative_score").equals(
        read_retrieval(write_as(kind, tmp_path, rows) if kind == "saved" else tmp_path / f"data.{kind}")
    )


@pytest.mark.parametrize(
    ("scores", "found", "expected"),
    [
        ("[1, 2]", "2 numbers", "one for each text of 'positive'"),
        ("[1]", "1 number", "one for each text of 'positive'"),
        ("[1, NaN, 2]", "the number nan as element 2 of a list", "finite numbers"),
        ('[1, "2", 3]', "the text '2' as element 2 of a list", "a list of numbers"),
        ("[1, null, 3]", "null as element 2 of a list", "a list of numbers"),
        ("[1, true, 3]", "true as element 2 of a list", "a list of numbers"),
        ("0.5", "the number 0.5", "a list of numbers"),
        ('"high"', "the text 'high'", "a list of numbers"),
    ],
)
def test_scores_that_do_not_fit_their_texts(scores, found, expected, tmp_path):
    row = '{"query": "q", "pos": ["p", "r", "s"], "pos_scores": %s}\n'
    path = written(tmp_path, row % "[]" + row % "null" + row % scores, "data.jsonl")
    expected = f"line 3: column 'pos_scores': found {found}, expected {expected}."
    assert message(path, read_scored_retrieval) == f"{path}: {expected}"
    assert len(read_scored_retrieval(path, on_bad_row="drop")) == 2
    assert len(read_retrieval(path)) == 3


def test_scores_of_a_wrong_type_in_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    row = {"query": "q", "positive": ["p", "r"], "positive_score": [1.0, None]}
    pl.DataFrame([row]).write_parquet(path)
    assert (
        "row 1: column 'positive_score': found null as element 2 of a list, expected finite numbers."
        in message(path, read_scored_retrieval)
    )
    pl.DataFrame([row | {"positive_score": 1.0}]).write_parquet(path)
    assert "found values of type Float64, expected a list of numbers" in message(path, read_scored_retrieval)


def test_a_score_that_is_no_number_in_csv(tmp_path):
    path = written(tmp_path, "text_a,text_b,score\na,b, 1e-1\na,b,high\n", "data.csv")
    assert (
        message(path, read_sts)
        == f"{path}: line 3: column 'score': found the text 'high', expected a number."
    )


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400, "null"])
def test_a_score_that_is_not_finite(score, tmp_path):
    expected = "line 2: column 'score': found "
    row = '{"text_a": "a", "text_b": "b", "score": %s}\n'
    assert expected in message(written(tmp_path, row % 1 + row % score, "data.jsonl"), read_sts)
    if score != "null":
        path = written(tmp_path, f"text_a,text_b,score\na,b,{score}\n", "data.csv")
        assert expected in message(path, read_sts)


def test_a_score_that_is_not_finite_in_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    scores = pl.Series([1.0, float("nan")], dtype=pl.Float32)
    pl.DataFrame({"text_a": ["a", "b"], "text_b": ["a", "b"], "score": scores}).write_parquet(path)
    assert (
        message(path, read_sts)
        == f"{path}: row 2: column 'score': found the number nan, expected a finite number."
    )


def test_half_a_character(tmp_path):
    path = lines(tmp_path / "data.jsonl", [GOOD, '{"query": "\\ud83d\\ude00", "positive": ["\\ud83d!"]}'])
    assert "line 2: column 'positive': found half a character" in message(path)


def test_a_doc_id_that_occurs_twice(tmp_path, capsys):
    path = lines(tmp_path / "data.jsonl", [{"id": i, "text": t} for i, t in [(1, "a"), (2, "b"), (1, "c")]])
    assert message(path, read_corpus) == f"{path}: found the doc_id '1' twice, expected each once."
    assert read_corpus(path, on_bad_row="drop").rows() == [("1", "a"), ("2", "b")]
    assert dropped(capsys.readouterr().err) == {"doc_id used before": 1}


# ---------------------------------------------------------------------------------------- bad: whole lines


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"query": "q", "positive": ["p"]', "broken JSON (Expecting ',' delimiter at character 33)"),
        ("{'query': 'q'}", "broken JSON (Expecting property name enclosed in double quotes at character 2)"),
        ('{"query": "q", "positive": ["p"]}{}', "broken JSON (Extra data at character 34)"),
        ("null", "null"),
        ("[1]", "the number 1 as element 1 of a list"),
        ('"query"', "the text 'query'"),
        pytest.param("[" * 100_000, "JSON that cannot be read", id="deep"),
        pytest.param('{"query": ' + "1" * 5000 + "}", "JSON that cannot be read", id="digits"),
        (b'{"query": "q\xff", "positive": ["p"]}', "0xff at byte 13 of the line, expected UTF-8 text"),
        (b'{"query": "\xed\xa0\xbd", "positive": ["p"]}', "0xed at byte 12 of the line"),
    ],
)
@pytest.mark.parametrize("place", [1, 3])
def test_a_line_that_is_no_json_object(place, line, found, tmp_path, capsys):
    rows = [GOOD] * 4
    rows.insert(place - 1, line)
    path = lines(tmp_path / "data.jsonl", rows)
    assert message(path).startswith(f"{path}: line {place}: found {found}")
    assert read_retrieval(path, on_bad_row="drop").height == 4
    assert dropped(capsys.readouterr().err).total() == 1


def test_a_broken_json_array(tmp_path):
    path = written(tmp_path, '[\n{"query": "q", "positive": "p"},\n{"query": }\n]', "data.json")
    assert message(path).startswith(f"{path}: line 3: found broken JSON (Expecting value at character 11)")
    path = written(tmp_path, '[{"query": "q", "positive": "p"}, 3]', "data.json")
    assert message(path) == f"{path}: row 2: found the number 3, expected a JSON object."
    path.write_bytes(b'[\n{"query": "q\xff"}]')
    assert message(path) == f"{path}: line 2: found 0xff at byte 13 of the line, expected UTF-8 text."


@pytest.mark.parametrize(("line", "found"), [("q", "1 field"), ("q,p,r", "3 fields")])
def test_a_csv_record_with_other_fields_than_the_header(line, found, tmp_path):
    path = written(tmp_path, f'query,positive\n"q\nq",p\n\n{line}\nq,p\n', "data.csv")
    assert message(path) == f"{path}: line 5: found {found}, expected 2 as in the header."
    assert read_retrieval(path, on_bad_row="drop").height == 2


def test_csv_quotation_marks(tmp_path):
    path = written(tmp_path, 'query,positive\nq,p\n"q" q,p\n', "data.csv")
    assert message(path).startswith(f"{path}: line 3: found broken CSV (',' expected after '\"')")
    path = written(tmp_path, 'query,positive\nq,p\nq,"p\nq,p\n', "data.csv")
    assert message(path) == message(path, on_bad_row="drop")  # all that follows would be lost
    assert message(path).startswith(f"{path}: line 3: found a quotation mark that is never closed")
    path = written(tmp_path, 'query,positive\n5" disk,p "p"\n', "data.csv")
    assert read_retrieval(path).rows() == [('5" disk', ['p "p"'], [])]


def test_csv_that_is_not_utf8(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"query,positive\nq,p\nq,caf\xe9\n")
    assert message(path) == f"{path}: line 3: found 0xe9 at byte 6 of the line, expected UTF-8 text."


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ('["p", 4]', "the number 4 as element 2 of a list"),
        ('["p", ""]', "an empty text as element 2 of a list"),
        ('["p"', "the text '[\"p\"'"),
        ("['p']", "the text \"['p']\""),
        ("p", "the text 'p'"),
        ("[]", "an empty list"),
    ],
)
def test_a_bad_list_in_csv(cell, found, tmp_path):
    rows = [{"query": "q", "positive": ["p"]}, {"query": "q", "positive": cell}]
    path = written(tmp_path, csv_of(rows), "data.csv")
    assert f"line 3: column 'positive': found {found}, expected " in message(path)


def test_lists_of_python_strings_are_not_taken_for_texts(tmp_path):
    path = written(tmp_path, csv_of([{"query": "q", "positive": "['p', 'r']"}]), "data.csv")
    assert "line 2: column 'positive': found the text \"['p', 'r']\", expected a JSON array" in message(path)


# ------------------------------------------------------------------------------ bad: columns, files, paths


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_missing_column(kind, tmp_path):
    path = write_as(kind, tmp_path, [{"qurey": "q", "positive": "p"}])
    assert message(path) == (
        f"{path}: found the columns 'qurey' and 'positive', expected 'query', 'anchor' or 'question' "
        f"(did you mean 'qurey'?); say which it is with columns: {{query: ...}}."
    )
    assert message(path, columns={"query": "querry"}) == (
        f"{path}: found the columns 'qurey' and 'positive', expected 'querry' (named for 'query') "
        f"(did you mean 'qurey'?)."
    )


def test_a_column_that_could_be_two(tmp_path):
    path = lines(tmp_path / "data.jsonl", [{"question": "q", "context": "c", "answer": "a"}])
    assert "found the columns 'answer' and 'context', expected one that could be 'positive'" in message(path)
    assert read_retrieval(path, {"positive": "context"})["positive"].to_list() == [["c"]]


def test_a_name_for_a_column_that_is_not_ours():
    assert message("x", columns={"positives": "a"}) == (
        "columns: found 'positives', expected 'query', 'positive' or 'negative' (did you mean 'positive'?)."
    )


def test_a_column_that_occurs_twice(tmp_path):
    path = written(tmp_path, "query,query,positive\na,b,c\n", "data.csv")
    assert message(path) == f"{path}: line 1: found the column 'query' twice, expected each name once."


@pytest.mark.parametrize(
    ("name", "content"),
    [("data.jsonl", ""), ("data.jsonl", "\n \n"), ("data.json", "[]"), ("data.csv", "query,positive\n")],
)
def test_an_empty_file(name, content, tmp_path):
    path = written(tmp_path, content, name)
    assert message(path) == f"{path}: found no rows, expected at least one."


def test_empty_csv_and_parquet(tmp_path):
    path = written(tmp_path, "", "data.csv")
    assert message(path) == f"{path}: found an empty file, expected a header that names the columns."
    path = tmp_path / "data.parquet"
    pl.DataFrame({"query": ["q"], "positive": ["p"]}).clear().write_parquet(path)
    assert message(path) == f"{path}: found no rows, expected at least one."


@pytest.mark.parametrize("name", ["data.parquet", "data.jsonl.gz", "data.csv.zst", "data.json.gz"])
def test_a_file_that_is_not_what_its_name_says(name, tmp_path):
    path = written(tmp_path, "surely not", name)
    assert message(path).startswith(f"{path}: cannot be read: ")


def test_a_compressed_file_that_was_cut_off(tmp_path):
    data = "".join(f'{{"query": "{random.random()}", "positive": "p"}}\n' for _ in range(1000)).encode()
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(data)[:-2000])
    assert message(tmp_path / "data.jsonl.gz").startswith(f"{tmp_path / 'data.jsonl.gz'}: cannot be read: ")
    (tmp_path / "data.jsonl.zst").write_bytes(pa.compress(data, codec="zstd", asbytes=True)[:-2000])
    assert message(tmp_path / "data.jsonl.zst").startswith(f"{tmp_path / 'data.jsonl.zst'}: cannot be read: ")


def test_a_missing_file(tmp_path):
    lines(tmp_path / "train.jsonl", [GOOD])
    assert message(tmp_path / "trian.jsonl") == (
        f"{tmp_path / 'trian.jsonl'}: no such file (did you mean 'train.jsonl'?)."
    )
    folder = tmp_path / "retrieval"
    folder.mkdir()
    wrong = tmp_path / "retreival" / "deep" / "train.jsonl"
    assert message(wrong) == (
        f"{wrong}: no such file: no {tmp_path / 'retreival'} (did you mean 'retrieval'?)."
    )
    assert message(tmp_path / "*.csv").startswith(f"{tmp_path / '*.csv'}: found no file that matches")
    assert message(folder).startswith(
        f"{folder}: found no file of a known kind in this folder, expected '.jsonl'"
    )
    note = written(tmp_path, "x", "notes.txt")
    assert message(note).startswith(f"{note}: found a file of an unknown kind, expected '.jsonl'")


def test_one_bad_file_of_a_folder_is_named(tmp_path):
    lines(tmp_path / "a.jsonl", [GOOD])
    bad = lines(tmp_path / "b.jsonl", [GOOD, GOOD | {"query": ""}])
    assert message(tmp_path).startswith(f"{bad}: line 2: column 'query': found an empty text")


def test_saved_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(ROWS)
    path = tmp_path / "all"
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(path)
    assert read_retrieval(path / "train").to_dicts() == ROWS
    assert (
        message(path) == f"{path}: found the splits 'train' and 'test', expected one, e.g. {path / 'train'}."
    )
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'conan-embed[datasets]'" in message(path / "train")


def test_a_saved_dataset_that_is_broken(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "state.json").write_text("{}")
    assert message(tmp_path).startswith(f"{tmp_path}: cannot be read: ")


# ---------------------------------------------------------------------------------------------------- drop


def test_drop_leaves_out_exactly_the_bad_rows_and_says_so(tmp_path, capsys):
    rows = [
        GOOD,
        GOOD | {"query": ""},
        '{"query": ',
        GOOD | {"positive": []},
        GOOD | {"query": 3, "positive": []},
        b"\xff",
        GOOD | {"query": "last", "negative": ["a", " "]},
        GOOD | {"query": "last"},
    ]
    path = lines(tmp_path / "data.jsonl", rows)
    frame = read_retrieval(path, on_bad_row="drop")
    assert frame.to_dicts() == [rows[0], rows[-1]]
    printed = capsys.readouterr().err
    assert dropped(printed) == {
        "empty text": 2,
        "broken JSON": 1,
        "no positive": 1,
        "wrong type": 1,
        "not UTF-8": 1,
    }
    assert printed.startswith(f"{path}: dropped 6 of 8 rows (empty text: 2, ")
    assert "the first is line 2: column 'query': found an empty text" in printed


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
def test_drop_in_other_formats(kind, tmp_path, capsys):
    path = write_as(kind, tmp_path, [GOOD, GOOD | {"positive": ["", "p"]}, GOOD | {"query": " "}, ROWS[0]])
    frame = read_retrieval(path, on_bad_row="drop")
    assert frame.to_dicts() == [GOOD, ROWS[0]]
    assert dropped(capsys.readouterr().err) == {"empty text": 2}


def test_nothing_is_said_where_nothing_is_dropped(tmp_path, capsys):
    read_retrieval(lines(tmp_path / "data.jsonl", [GOOD]), on_bad_row="drop")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("bad", [GOOD | {"query": ""}, "{", GOOD | {"query": 3}])
def test_a_file_without_a_good_row_is_an_error_even_then(bad, tmp_path):
    path = lines(tmp_path / "data.jsonl", [bad, bad])
    assert message(path, on_bad_row="drop").startswith(f"{path}: none of the 2 rows can be used; line 1: ")


def test_a_missing_column_is_an_error_even_then(tmp_path):
    path = lines(tmp_path / "data.jsonl", [{"query": "q"}])
    assert "found the columns 'query', expected 'positive'" in message(path, on_bad_row="drop")


def test_bad_rows_are_found_wherever_they_stand(tmp_path, capsys):
    """Against the obvious reference: rows of random faults over several batches."""
    draw = random.Random(0)
    faults = ["", " ", None, 3, "\ud800"]
    rows = []
    for number in range(10_000):
        row = {"query": f"q{number}", "positive": ["p"], "negative": []}
        if draw.random() < 0.01:
            row["query"] = draw.choice(faults)
        if draw.random() < 0.01:
            row["negative"] = [draw.choice(faults)]
        rows.append(row)
    good = [row for row in rows if all(text not in faults for text in [row["query"], *row["negative"]])]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = read_retrieval(path, on_bad_row="drop")
    assert frame.to_dicts() == good
    assert dropped(capsys.readouterr().err).total() == len(rows) - len(good) > 100
    first = next(number for number, row in enumerate(rows, 1) if row not in good)
    assert f"line {first}: " in message(path)


# --------------------------------------------------------------------------------------- parts of a file


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_parts_of_a_file_are_the_whole_file(kind, mark, tmp_path):
    """However a file is cut, each row is in one part, and a bad one keeps its place."""
    draw = random.Random(0)
    rows = [
        {"query": "水" * draw.randrange(9) or "q", "positive": ["p" * draw.randrange(6)]} for _ in range(60)
    ]
    path = write_as(kind, tmp_path, rows)
    if kind == "jsonl":
        path.write_bytes(mark + path.read_bytes().replace(b"\n", b"\n\n", 5))
    whole = read_rows(path, RETRIEVAL)
    assert 0 < whole.reasons.total() < 30 and whole.num_rows == 60
    size = path.stat().st_size if kind == "jsonl" else len(rows)
    for count in (1, 2, 7, 50):
        cuts = sorted({0, size, *(draw.randrange(size) for _ in range(count - 1))})
        parts = [read_rows(path, RETRIEVAL, part) for part in itertools.pairwise(cuts)]
        frames = [part.good_rows() for part in parts if len(part.frame)]
        assert pl.concat(frames).to_dicts() == whole.good_rows().to_dicts()
        assert sum((part.reasons for part in parts), Counter()) == whole.reasons
        assert next(fault for part in parts if (fault := part.first_fault())) == whole.first_fault()


# ---------------------------------------------------------------------------------------------- real files


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("read", "folder"),
    [
        (read_retrieval, "finetune/retrieval"),
        (read_retrieval, "pretrain"),
        (read_sts, "finetune/sts"),
        (read_classification, "finetune/classification"),
        (read_corpus, "finetune/corpus"),
    ],
)
def test_real_files_read_as_they_are(read, folder):
    frame = read(SHARED / folder)
    assert frame.height == sum(
        pl.scan_parquet(p).select(pl.len()).collect().item() for p in (SHARED / folder).iterdir()
    )
