"""Which tasks a folder holds, and which file has which table."""

from pathlib import Path

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation import discovery, sets
from conan_embed.evaluation.discovery import content_hash, discover
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


def test_folders_that_are_no_type_of_task_are_told(tmp_path: Path, capsys) -> None:
    for name in ("sts", "STS", "summarization"):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name / "a.jsonl", [{"text_a": "a", "text_b": "b", "score": 1}])
    assert [task.key for task in discover(tmp_path)] == ["sts/a"]
    told = capsys.readouterr().err
    assert "'STS' is no type of task (did you mean 'sts'?)" in told
    assert "summarization: not read" in told


def test_two_files_of_one_task_are_refused(tmp_path: Path) -> None:
    write_tables(tmp_path, {"sts/Small": small_tables()["sts/Small"]})
    write_tables(tmp_path, {"sts/Small": small_tables()["sts/Small"]}, ".jsonl")
    with pytest.raises(UserError, match=r"sts/Small: found 2 files of that name"):
        discover(tmp_path)


def test_a_table_that_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    write_tables(tmp_path, small_tables())
    write_tables(tmp_path, {"retrieval/Small/qrels": small_tables()["retrieval/Small/qrels"]}, ".jsonl")
    with pytest.raises(UserError, match=r"has qrels.jsonl and qrels.parquet, expected one of them"):
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
    assert {task.type for task in tasks} == set(discovery.TYPES)
    medical = next(task for task in tasks if task.key == "retrieval/MedicalQA")
    data = sets.read_retrieval(medical.path)
    assert (len(data.queries), len(data.documents), len(data.judged_gain)) == (1000, 2000, 1000)


def test_every_format_of_a_table_is_a_set(tmp_path: Path) -> None:
    """A file, a folder of parts, and a saved data set of the same rows are the same set."""
    datasets = pytest.importorskip("datasets")
    rows = small_tables()["sts/Small"]
    for type_, table in (("sts", rows), ("bitext", small_tables()["bitext/Small"])):
        (tmp_path / type_ / "parts.v2").mkdir(parents=True)
        write_lines(tmp_path / type_ / "file.jsonl", table)
        write_lines(tmp_path / type_ / "parts.v2" / "0.jsonl", table[:3])
        write_lines(tmp_path / type_ / "parts.v2" / "1.jsonl", table[3:])
        datasets.Dataset.from_list(table).save_to_disk(tmp_path / type_ / "saved")
    tasks = {task.key: task.path for task in discover(tmp_path)}
    names = ("file", "parts.v2", "saved")
    assert [*tasks] == [f"{type_}/{name}" for type_ in ("sts", "bitext") for name in names]
    pairs = [sets.read_pairs(tasks[f"sts/{name}"]) for name in names]
    assert len(pairs[0].first) == len(rows)
    assert all((pair.first, pair.second) == (pairs[0].first, pairs[0].second) for pair in pairs)
    texts = [sets.read_bitext(tasks[f"bitext/{name}"]) for name in names]
    assert texts == [texts[0]] * 3


def test_what_lies_among_the_sets_and_is_not_read_is_told(tmp_path: Path, capsys) -> None:
    write_tables(tmp_path, small_tables())
    (tmp_path / "sts" / "empty").mkdir()
    (tmp_path / "sts" / "scores.xlsx").write_text("")
    write_lines(tmp_path / "retrieval" / "corpus.jsonl", [{"doc_id": "a", "text": "b"}])
    assert len(discover(tmp_path)) == 8
    told = capsys.readouterr().err.replace("\n", " ")
    for name in ("sts/empty", "sts/scores.xlsx", "retrieval/corpus.jsonl"):
        assert f"{tmp_path / name}: not read: found no evaluation set in it" in told
    assert told.count("not read") == 3


def test_the_hash_of_a_set_is_that_of_its_content(tmp_path: Path) -> None:
    write_tables(tmp_path / "one", small_tables())
    write_tables(tmp_path / "two", small_tables())
    hashes = [{task.key: content_hash(task) for task in discover(tmp_path / name)} for name in ("one", "two")]
    assert hashes[0] == hashes[1] and len(set(hashes[0].values())) == len(hashes[0])
    qrels = tmp_path / "two" / "retrieval" / "Small" / "qrels.parquet"
    pl.read_parquet(qrels)[1:].write_parquet(qrels)
    changed = {task.key for task in discover(tmp_path / "two") if content_hash(task) != hashes[0][task.key]}
    assert changed == {"retrieval/Small"}
