"""What is read is what was written, in every layout; what is wrong is named."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation import sets
from conan_embed.evaluation.sets import discover
from tests.support.evaluation_fakes import small_tables, write_lines, write_tables

SHARED = Path(__file__).parents[2] / "../shared/data/eval"


def test_discover_lists_tasks_by_type_and_name(tmp_path: Path) -> None:
    write_tables(tmp_path, small_tables())
    (tmp_path / "README.md").write_text("not a set")
    (tmp_path / "sts" / ".hidden.parquet").write_text("")
    assert [task.key for task in discover(tmp_path)] == [
        "retrieval/Small",
        "reranking/Small",
        "sts/Other",
        "sts/Small",
        "pair_classification/Small",
        "classification/Small",
        "clustering/Small",
        "bitext/Small",
    ]


def test_json_lines_and_parquet_hold_the_same(tmp_path: Path) -> None:
    tables = small_tables()
    parquet = write_tables(tmp_path / "parquet", tables)
    lines = write_tables(tmp_path / "lines", tables, ".jsonl")
    readers = {
        "retrieval": sets.read_retrieval,
        "reranking": sets.read_reranking,
        "sts": sets.read_pairs,
        "pair_classification": sets.read_pairs,
        "classification": lambda path: sets.read_classification(path)[1],
        "clustering": sets.read_labelled,
        "bitext": sets.read_bitext,
    }
    for one, other in zip(discover(parquet), discover(lines), strict=True):
        assert one.key == other.key
        first, second = (vars(readers[task.type](task.path)) for task in (one, other))
        for field in first:
            np.testing.assert_array_equal(first[field], second[field])


def test_a_retrieval_folder_of_beir_reads_as_ours(tmp_path: Path) -> None:
    tables = small_tables()
    ours = write_tables(tmp_path / "ours", tables) / "retrieval/Small"
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    rows = {name.rsplit("/", 1)[1]: table for name, table in tables.items() if name.startswith("retrieval")}
    write_lines(beir / "corpus.jsonl", [{"_id": row.pop("doc_id"), **row} for row in rows["corpus"]])
    write_lines(beir / "queries.jsonl", [{"_id": row.pop("query_id"), **row} for row in rows["queries"]])
    lines = [
        "query-id\tcorpus-id\tscore",
        *(f"{r['query_id']}\t{r['doc_id']}\t{r['score']}" for r in rows["qrels"]),
    ]
    (beir / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    first, second = vars(sets.read_retrieval(ours)), vars(sets.read_retrieval(beir))
    for field in first:
        np.testing.assert_array_equal(first[field], second[field])


def test_retrieval_reads_ids_as_texts_joins_titles_and_drops_unjudged_queries(tmp_path: Path) -> None:
    write_tables(
        tmp_path,
        {
            "corpus": [
                {"doc_id": i, "title": title, "text": f"text {i}"} for i, title in ((9, "T"), (10, None))
            ],
            "queries": [{"query_id": 5, "text": "unjudged"}, {"query_id": 7, "text": "judged"}],
            "qrels": [{"query_id": 7, "doc_id": 10, "score": 2}],
        },
        ".jsonl",
    )
    data = sets.read_retrieval(tmp_path)
    assert data.documents == ["T text 9", "text 10"]  # falling ids: "9" > "10" as texts
    assert data.queries == ["judged"]
    assert (data.judged_query.tolist(), data.judged_document.tolist(), data.judged_gain.tolist()) == (
        [0],
        [1],
        [2],
    )


def test_a_query_in_the_corpus_is_not_its_own_answer_unless_judged_so(tmp_path: Path) -> None:
    write_tables(
        tmp_path,
        {
            "corpus": [{"doc_id": name, "text": name} for name in ("a", "b", "c")],
            "queries": [{"query_id": name, "text": name} for name in ("a", "b", "z")],
            "qrels": [
                {"query_id": "a", "doc_id": "c", "score": 1},
                {"query_id": "b", "doc_id": "b", "score": 1},
                {"query_id": "z", "doc_id": "c", "score": 1},
            ],
        },
    )
    data = sets.read_retrieval(tmp_path)
    assert data.documents == ["c", "b", "a"]
    assert data.own_document.tolist() == [2, -1, -1]


def test_rows_without_positive_or_negative_are_left_out_of_reranking(tmp_path: Path) -> None:
    rows = [
        {"query": "p", "positive": ["x"], "negative": []},
        {"query": "q", "positive": ["x", "y"], "negative": ["n"]},
        {"query": "r", "positive": [], "negative": ["n"]},
    ]
    write_lines(tmp_path / "r.jsonl", rows)
    data = sets.read_reranking(tmp_path / "r.jsonl")
    assert (data.queries, data.candidates) == (["q"], ["x", "y", "n"])
    assert (data.candidate_query.tolist(), data.relevant.tolist()) == ([0, 0, 0], [True, True, False])


def test_limit_keeps_the_same_rows_whatever_else_is_read(tmp_path: Path) -> None:
    write_tables(tmp_path, small_tables())
    whole = sets.read_pairs(tmp_path / "sts/Small.parquet")
    some = sets.read_pairs(tmp_path / "sts/Small.parquet", 10)
    pairs = list(zip(whole.first, whole.second, strict=True))
    rows = [pairs.index(pair) for pair in zip(some.first, some.second, strict=True)]
    assert len(rows) == 10
    assert rows == sorted(rows)
    np.testing.assert_array_equal(whole.score[rows], some.score)
    retrieval = sets.read_retrieval(tmp_path / "retrieval/Small", 5)
    assert (len(retrieval.queries), len(retrieval.documents)) == (5, 60)
    assert set(retrieval.judged_query.tolist()) == set(range(5))


# ---- bad input --------------------------------------------------------------------------------


def broken(tmp_path: Path, table: str, change) -> Path:
    """Write the small sets as JSON lines, with one table changed."""
    tables = small_tables()
    tables[table] = change(tables[table])
    return write_tables(tmp_path, tables, ".jsonl")


def with_value(row: int, column: str, value):
    return lambda rows: [{**r, column: value} if i == row - 1 else r for i, r in enumerate(rows)]


def without(column: str):
    return lambda rows: [{name: value for name, value in row.items() if name != column} for row in rows]


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sts/Small", without("score"), "sts/Small.jsonl: no column 'score'; found text_a, text_b"),
        ("sts/Small", with_value(3, "text_b", " "), "sts/Small.jsonl: line 3, column 'text_b': found ' '"),
        ("sts/Small", with_value(3, "text_b", 7), "line 3, column 'text_b': found 7, expected a text"),
        ("sts/Small", with_value(4, "text_a", None), "line 4, column 'text_a': found nothing"),
        (
            "sts/Small",
            with_value(2, "score", "high"),
            "line 2, column 'score': found 'high', expected a number",
        ),
        ("sts/Small", with_value(2, "score", float("nan")), "column 'score': found nan, expected a number"),
        ("sts/Small", lambda rows: [], "sts/Small.jsonl: no column 'text_a'; found none"),
        (
            "reranking/Small",
            with_value(2, "positive", "x"),
            "line 2, column 'positive': found 'x', expected a list",
        ),
        ("reranking/Small", with_value(2, "negative", [""]), "column 'negative': found ['']"),
        ("reranking/Small", lambda rows: [{**row, "negative": []} for row in rows], "no row has both"),
        ("pair_classification/Small", with_value(2, "score", 2), "column 'score': found 2, expected 0 or 1"),
        (
            "pair_classification/Small",
            lambda rows: [{**row, "score": 1} for row in rows],
            "every pair has 1, expected both 0 and 1",
        ),
        (
            "clustering/Small",
            with_value(5, "label", None),
            "line 5, column 'label': found nothing, expected a label",
        ),
        ("clustering/Small", lambda rows: [{**row, "label": "x"} for row in rows], "every text has 'x'"),
        ("bitext/Small", without("zh"), "found the columns en, expected two"),
        (
            "retrieval/Small/corpus",
            with_value(2, "doc_id", "d0"),
            "corpus.jsonl: line 2, column 'doc_id': 'd0' is",
        ),
        ("retrieval/Small/corpus", with_value(2, "text", ""), "line 2, column 'text': an empty document"),
        (
            "retrieval/Small/corpus",
            with_value(2, "doc_id", 1.5),
            "column 'doc_id': found 1.5, expected an id",
        ),
        ("retrieval/Small/queries", with_value(2, "query_id", "q0"), "'q0' is there twice"),
        (
            "retrieval/Small/qrels",
            with_value(4, "doc_id", "no"),
            "qrels.jsonl: line 4, column 'doc_id': 'no' is not",
        ),
        (
            "retrieval/Small/qrels",
            with_value(4, "query_id", "no"),
            "line 4, column 'query_id': 'no' is not in",
        ),
    ],
)
def test_what_is_wrong_in_a_row_is_named(tmp_path: Path, table: str, change, message: str) -> None:
    folder = broken(tmp_path, table, change)
    key = "/".join(table.split("/")[:2])
    (task,) = sets.select(discover(folder), [key])
    read = {
        "retrieval": sets.read_retrieval,
        "reranking": sets.read_reranking,
        "sts": sets.read_pairs,
        "pair_classification": lambda path: sets.read_pairs(path, binary=True),
        "clustering": sets.read_labelled,
        "bitext": sets.read_bitext,
    }[task.type]
    with pytest.raises(UserError) as caught:
        read(task.path)
    assert message in str(caught.value)


def test_rows_of_parquet_are_counted_from_one(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", "", "c"], "label": ["x", "y", "x"]}).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"c.parquet: row 2, column 'text': found '', expected a text"):
        sets.read_labelled(tmp_path / "c.parquet")


def test_an_empty_parquet_file_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"text": [], "label": []}).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"c.parquet: holds no rows"):
        sets.read_labelled(tmp_path / "c.parquet")


def test_a_column_with_a_slip_in_its_name_is_suggested(tmp_path: Path) -> None:
    write_lines(tmp_path / "c.jsonl", [{"text": "a", "labels": "x"}])
    with pytest.raises(UserError, match=r"no column 'label' \(did you mean 'labels'\?\)"):
        sets.read_labelled(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a", "label": "x"}\n{"text": \n', r"line 2: not JSON"),
        (b'{"text": "a", "label": "x"}\n[1]\n', r"line 2: found \[1\], expected an object"),
        (b'{"text": "a", "label": "x"}\n{"text": "\xff", "label": "y"}\n', r"line 2: not UTF-8 at byte 10"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=rf"c.jsonl: {message}"):
        sets.read_labelled(tmp_path / "c.jsonl")


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.parquet").write_text("text,label\n")
    with pytest.raises(UserError, match=r"c.parquet: cannot be read as Parquet"):
        sets.read_labelled(tmp_path / "c.parquet")


def test_a_table_that_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    write_tables(tmp_path, small_tables())
    write_tables(tmp_path, {"retrieval/Small/qrels": small_tables()["retrieval/Small/qrels"]}, ".jsonl")
    with pytest.raises(UserError, match=r"has qrels.parquet and qrels.jsonl, expected one of them"):
        sets.read_retrieval(tmp_path / "retrieval/Small")
    (tmp_path / "classification/Small/test.parquet").unlink()
    with pytest.raises(UserError, match=r"Small: has no test.parquet and no test.jsonl"):
        sets.read_classification(tmp_path / "classification/Small")


def test_a_folder_without_sets_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        discover(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no evaluation set"):
        discover(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real evaluation sets are not there")
def test_the_real_sets_are_read() -> None:
    tasks = discover(SHARED)
    assert {task.type for task in tasks} == set(sets.TYPES)
    medical = next(task for task in tasks if task.key == "retrieval/MedicalQA")
    data = sets.read_retrieval(medical.path)
    assert (len(data.queries), len(data.documents), len(data.judged_gain)) == (1000, 2000, 1000)
