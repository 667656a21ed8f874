"""Which tasks a folder holds, and which file has which table."""

from pathlib import Path

import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation import discovery, sets
from conan_embed.evaluation.discovery import discover
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
