"""What is read is what was written, in every layout; what is wrong is named."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation import discovery, sets
from conan_embed.evaluation.discovery import discover
from tests.support.evaluation_fakes import small_tables, write_lines, write_tables


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


def own_documents(folder: Path) -> list[int]:
    write_tables(
        folder,
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
    data = sets.read_retrieval(folder)
    assert data.documents == ["c", "b", "a"]
    return data.excluded_document.tolist()


def test_a_document_of_the_querys_id_is_excluded_only_in_tasks_that_say_so(tmp_path: Path) -> None:
    assert own_documents(tmp_path / "SciFact") == [-1, -1, -1]
    assert own_documents(tmp_path / "ArguAna") == own_documents(tmp_path / "fiqa") == [2, 1, -1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/task.json").write_text('{"ignore_identical_ids": true}')
    assert own_documents(tmp_path / "mine") == [2, 1, -1]
    (tmp_path / "ArguAna/task.json").write_text('{"ignore_identical_ids": false}')
    assert own_documents(tmp_path / "ArguAna") == [-1, -1, -1]


@pytest.mark.parametrize("content", ["[]", '{"ignore_identical": true}', '{"ignore_identical_ids": 1}', "{}"])
def test_settings_of_a_task_that_are_not_understood_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "task.json").write_text(content)
    with pytest.raises(
        UserError, match=r"task.json: found .*, expected {.ignore_identical_ids.: true} or false"
    ):
        sets.ignores_identical_ids(tmp_path)


def test_the_list_of_tasks_that_ignore_identical_ids_is_mtebs() -> None:
    pytest.importorskip("mteb")
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    def subclasses(base: type) -> list[type]:
        return [base, *(each for derived in base.__subclasses__() for each in subclasses(derived))]

    tasks = [task for task in subclasses(AbsTaskRetrieval) if "metadata" in vars(task)]
    texts = [task for task in tasks if task.metadata.modalities == ["text"]]
    assert len(texts) > 500
    for task in texts:
        ours = task.metadata.name in sets.IGNORES_IDENTICAL_IDS
        assert ours == task.ignore_identical_ids, task.metadata.name


def judged(tmp_path: Path, *, empty: bool = False, qrels: str = "") -> sets.RetrievalSet:
    """A folder as BEIR has it, with more judgements than those of two queries."""
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    text = "" if empty else "a queue"
    corpus = [
        {"_id": "a", "text": "use"},
        {"_id": "b", "title": "", "text": text},
        {"_id": "c", "title": "T", "text": "t"},
    ]
    write_lines(folder / "corpus.jsonl", corpus)
    write_lines(
        folder / "queries.jsonl", [{"_id": "q", "text": "how"}, {"_id": "r", "text": "what", "metadata": {}}]
    )
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\nr\tc\t2\n" + qrels)
    return sets.read_retrieval(folder)


def test_a_missing_document_counts_as_never_found(tmp_path: Path, capsys) -> None:
    data = judged(tmp_path, qrels="q\tgone\t1\nr\tlost\t1\n")
    assert data.documents == ["T t", "a queue", "use"]
    assert (data.judged_query.tolist(), data.judged_document.tolist()) == ([0, 1, 0, 1], [2, 0, -1, -1])
    assert "2 judgements are of documents that the corpus lacks" in capsys.readouterr().err


def test_judgements_of_missing_queries_are_left_out(tmp_path: Path, capsys) -> None:
    data = judged(tmp_path, qrels="x\ta\t1\ny\tb\t1\nz\tgone\t1\n")
    assert data.judged_query.tolist() == [0, 1]
    assert "3 judgements are of queries that are not there" in capsys.readouterr().err


def test_empty_documents_are_ranked(tmp_path: Path, capsys) -> None:
    assert judged(tmp_path, empty=True).documents == ["T t", "", "use"]
    assert "1 documents are empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("qrels", "message"),
    [("x\ta\t1\n", "no judgement of a query"), ("q\tx\t1\n", "no judgement of a document")],
)
def test_judgements_of_nothing_that_is_there_are_refused(tmp_path: Path, qrels: str, message: str) -> None:
    folder = tmp_path / "set"
    judged(tmp_path)
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    with pytest.raises(UserError, match=rf"test.tsv: found {message}"):
        sets.read_retrieval(folder)


def test_a_query_without_a_relevant_document_is_told(tmp_path: Path, capsys) -> None:
    data = judged(tmp_path, qrels="r\tc\t0\n")
    assert sorted(data.judged_gain.tolist()) == [0.0, 1.0]
    told = capsys.readouterr().err
    assert "1 pairs are judged several times, and differently; the last judgement counts" in told
    assert "1 judged queries have no relevant document; they score 0" in told


def test_a_set_without_a_relevant_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no score above 0, expected a relevant document"):
        judged(tmp_path, qrels="q\ta\t0\nr\tc\t-1\n")


def test_labels_without_a_training_text_are_told(tmp_path: Path, capsys) -> None:
    write_lines(tmp_path / "train.jsonl", [{"text": f"a {i}", "label": "xy"[i % 2]} for i in range(4)])
    write_lines(tmp_path / "test.jsonl", [{"text": f"b {i}", "label": "xz"[i % 2]} for i in range(4)])
    sets.read_classification(tmp_path)
    told = capsys.readouterr().err
    assert (
        "2 of 4 test texts have labels that no training text has, for instance 'z'; they count as wrong"
        in told
    )


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
        (
            "sts/Small",
            without("score"),
            "sts/Small.jsonl: found the columns 'text_a' and 'text_b', expected 'score'",
        ),
        (
            "sts/Small",
            with_value(3, "text_b", " "),
            "sts/Small.jsonl: line 3: column 'text_b': found a text with nothing",
        ),
        (
            "sts/Small",
            with_value(3, "text_b", 7),
            "line 3: column 'text_b': found the number 7, expected a string",
        ),
        ("sts/Small", with_value(4, "text_a", None), "line 4: column 'text_a': found null"),
        (
            "sts/Small",
            with_value(2, "score", "high"),
            "line 2: column 'score': found the text 'high', expected a number",
        ),
        ("sts/Small", with_value(2, "score", float("nan")), "column 'score': found the number nan"),
        ("sts/Small", lambda rows: [], "sts/Small.jsonl: found no rows"),
        ("reranking/Small", with_value(2, "positive", 3), "line 2: column 'positive': found the number 3"),
        (
            "reranking/Small",
            with_value(2, "negative", [""]),
            "column 'negative': found an empty text as element 1",
        ),
        ("reranking/Small", lambda rows: [{**row, "negative": []} for row in rows], "no row has both"),
        (
            "pair_classification/Small",
            with_value(2, "score", 2),
            "line 2: column 'score': found the number 2.0, expected 0 or 1",
        ),
        (
            "pair_classification/Small",
            lambda rows: [{**row, "score": 1} for row in rows],
            "every pair has 1, expected both 0 and 1",
        ),
        (
            "clustering/Small",
            with_value(5, "label", None),
            "line 5: column 'label': found null, expected a label",
        ),
        ("clustering/Small", lambda rows: [{**row, "label": "x"} for row in rows], "every text has 'x'"),
        ("bitext/Small", without("zh"), "found the columns en, expected two"),
        (
            "retrieval/Small/corpus",
            with_value(2, "doc_id", "d0"),
            "corpus.jsonl: found the doc_id 'd0' twice",
        ),
        ("retrieval/Small/corpus", with_value(2, "doc_id", 1.5), "column 'doc_id': found the number 1.5"),
        (
            "retrieval/Small/corpus",
            with_value(2, "doc_id", ""),
            "line 2: column 'doc_id': found an empty text",
        ),
        ("retrieval/Small/queries", with_value(2, "query_id", "q0"), "found the query_id 'q0' twice"),
        (
            "retrieval/Small/queries",
            with_value(2, "text", ""),
            "queries.jsonl: line 2: column 'text': found an empty",
        ),
    ],
)
def test_what_is_wrong_in_a_row_is_named(tmp_path: Path, table: str, change, message: str) -> None:
    folder = broken(tmp_path, table, change)
    key = "/".join(table.split("/")[:2])
    (task,) = discovery.select(discover(folder), [key])
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


def test_every_format_of_the_reader_is_read(tmp_path: Path) -> None:
    """Byte order marks, blank last lines and compression, as in training."""
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text_a": "a", "text_b": "b", "score": 1}\n\n')
    (tmp_path / "b.tsv").write_bytes(b'\xef\xbb\xbfsentence1\tsentence2\tlabel\n"a\tb\t1\n\n')
    (tmp_path / "c.csv").write_text('sentence1,sentence2,score\n"a",b,1\n')
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress((tmp_path / "c.csv").read_bytes()))
    (tmp_path / "e.json").write_text('[{"text1": "a", "text2": "b", "similarity": 1}]')
    for name, text in {"a.jsonl": "a", "b.tsv": '"a', "c.csv": "a", "d.csv.gz": "a", "e.json": "a"}.items():
        data = sets.read_pairs(tmp_path / name)
        assert (data.first, data.second, data.score.tolist()) == ([text], ["b"], [1.0]), name
    (tmp_path / "sts").mkdir()
    for name in ("b.tsv", "d.csv.gz", "e.json"):
        (tmp_path / name).rename(tmp_path / "sts" / name)
    assert [task.key for task in discover(tmp_path)] == ["sts/b", "sts/d", "sts/e"]


def test_titles_may_be_missing_in_the_first_row(tmp_path: Path) -> None:
    write_tables(tmp_path, small_tables(), ".jsonl")
    corpus = tmp_path / "retrieval/Small/corpus.jsonl"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    del rows[0]["title"]
    write_lines(corpus, rows)
    with_titles = [f"{row.get('title', '')} {row['text']}".strip() for row in rows]
    assert sorted(sets.read_retrieval(tmp_path / "retrieval/Small").documents) == sorted(with_titles)
