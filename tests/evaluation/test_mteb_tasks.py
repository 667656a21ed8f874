"""Which tasks of mteb are chosen, and that each has the data of its local copy, whatever mteb calls its parts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation import evaluate
from tests.support.evaluation_fakes import BagOfWords, small_tables, write_tables

mteb = pytest.importorskip("mteb")

from conan_embed.evaluation import mteb_tasks  # noqa: E402
from conan_embed.evaluation.mteb_tasks import choose_tasks, key_of, tasks_named  # noqa: E402
from conan_embed.evaluation.scorers import few_shot_size  # noqa: E402

Copy = Callable[..., Path]


class Encoder:
    """The bag of words through the interface of mteb, with no prompts."""

    mteb_model_meta = None

    def __init__(self) -> None:
        self.model = BagOfWords()

    def encode(self, inputs: Any, **_: Any) -> Any:
        return self.model.encode([text for batch in inputs for text in batch["text"]])

    def similarity(self, first: Any, second: Any) -> Any:
        return np.asarray(first) @ np.asarray(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> Any:
        return (np.asarray(first) * np.asarray(second)).sum(axis=1)


def main_score(task: Any) -> float:
    """What mteb makes of the data of a task."""
    task.load_data()
    [split] = task.eval_splits
    [scores] = task.evaluate(Encoder(), split, encode_kwargs={}).values()
    return float(scores[task.metadata.main_score])


# ---------------------------------------------------------------------------------------------------- the choice


def test_the_benchmark_of_the_paper_is_35_sets_whose_multilingual_ones_are_chinese() -> None:
    tasks = choose_tasks("C-MTEB", None, None)
    keys = [key_of(task) for task in tasks]
    counts = {type_: sum(key.startswith(f"{type_}/") for key in keys) for type_ in mteb_tasks.TYPES.values()}
    assert len(set(keys)) == len(keys) == 35
    assert counts == {
        "retrieval": 8,
        "reranking": 4,
        "sts": 8,
        "pair_classification": 2,
        "classification": 9,
        "clustering": 4,
        "bitext": 0,
    }
    languages = {task.metadata.name: task.hf_subsets for task in tasks[-4:]}
    assert languages == {
        "AmazonReviewsClassification": ["zh"],
        "MassiveIntentClassification": ["zh-CN"],
        "MassiveScenarioClassification": ["zh-CN"],
        "STS22": ["zh"],
    }


def test_tasks_are_named_by_name_by_type_or_by_both_and_each_comes_once() -> None:
    def chosen(*names: str, benchmark: str | None = None) -> list[str]:
        return [key_of(task) for task in choose_tasks(benchmark, names, None)]

    assert chosen("AFQMC", "sts/AFQMC", "classification/Banking77Classification", "AFQMC") == [
        "sts/AFQMC",
        "classification/Banking77Classification",
    ]
    by_type = chosen("reranking", "PairClassification", benchmark="C-MTEB")
    assert len(by_type) == 6
    assert chosen("Cmnli", "pair_classification", "reranking", benchmark="C-MTEB") == by_type
    with pytest.raises(UserError, match=r"'sts/Banking77Classification' is not among those to evaluate"):
        chosen("sts/Banking77Classification")
    assert [key_of(task) for task in tasks_named(["AFQMC", "MTEB(cmn, v1)", "AFQMC"])].count("sts/AFQMC") == 1


@pytest.mark.parametrize(
    ("folder", "words"),
    [("nowhere", "nowhere: no such folder"), (".", "nothing to evaluate; expected --benchmark, --task")],
)
def test_a_folder_that_is_missing_or_holds_nothing_is_told_apart(
    tmp_path: Path, folder: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        choose_tasks(None, None, tmp_path / folder)


# ---------------------------------------------------------------------------------------------------- local sets


def test_a_classifier_sees_as_many_texts_a_label_as_in_mteb() -> None:
    tasks = [*choose_tasks("C-MTEB", ["classification"], None), mteb.get_task("Banking77Classification")]
    for task in tasks:
        assert few_shot_size(task.metadata.name) == task.samples_per_label, task.metadata.name


def test_sets_of_every_type_and_any_name_score_as_they_do_without_mteb(tmp_path: Path) -> None:
    tables = {name.replace("Small", "我的 set"): rows for name, rows in small_tables().items()}
    for row in tables[
        "retrieval/我的 set/corpus"
    ]:  # no equal documents: their cosines differ in the last bit
        row["text"] += f" unlike{row['doc_id']}"
    write_tables(tmp_path, tables)
    model = BagOfWords()
    model.prompts = dict.fromkeys(model.prompts, "")
    ours = evaluate(model, tmp_path)
    tasks = choose_tasks(None, None, tmp_path)
    assert [key_of(task) for task in tasks] == list(ours)
    for task in tasks:
        key = key_of(task)
        metric = "cosine_accuracy" if key.startswith("pair_") else ours[key].metric  # mteb's own main score
        task.metadata = task.metadata.model_copy(
            update={"main_score": metric.replace("cosine_accuracy", "max_accuracy")}
        )
        assert main_score(task) == pytest.approx(ours[key].scores[metric], abs=1e-5), key


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("sts/STS22", "sts/Small"),
        ("classification/AmazonReviewsClassification", "classification/Small"),
        ("bitext/Tatoeba", "bitext/Small"),
        ("bitext/NTREXBitextMining", "bitext/Small"),
    ],
)
def test_a_local_set_is_one_subset_of_a_task_that_has_many_languages(
    tmp_path: Path, theirs: str, ours: str
) -> None:
    tables = {
        name.replace(ours, theirs): rows for name, rows in small_tables().items() if name.startswith(ours)
    }
    [task] = choose_tasks(None, None, write_tables(tmp_path, tables))
    assert key_of(task) == theirs and task.metadata.name == theirs.split("/")[1]
    assert len(mteb.get_task(task.metadata.name).hf_subsets) > len(task.hf_subsets) == 1
    model = BagOfWords()
    model.prompts = dict.fromkeys(model.prompts, "")
    assert main_score(task) == pytest.approx(evaluate(model, tmp_path)[theirs].main, abs=1e-5)


def test_a_set_that_shares_its_name_with_a_task_of_another_type_is_a_task_of_its_own(tmp_path: Path) -> None:
    rows = small_tables()["sts/Small"]
    write_tables(tmp_path, {"sts/AFQMC": rows, "sts/Banking77Classification": rows})
    tasks = {key_of(task): task for task in choose_tasks(None, None, tmp_path)}
    assert tasks["sts/AFQMC"].metadata.name == "AFQMC"
    assert tasks["sts/Banking77Classification"].metadata.name == "Banking77Classification.sts"


def test_local_data_leaves_mtebs_own_tasks_as_they_are(tmp_path: Path) -> None:
    write_tables(tmp_path, {"sts/AFQMC": small_tables()["sts/Small"]})
    before = [task.metadata.dataset for task in choose_tasks("C-MTEB", None, None)]
    [task] = choose_tasks("C-MTEB", None, tmp_path)
    assert task.metadata.dataset["path"] == str(tmp_path / "sts/AFQMC.parquet")
    assert [task.metadata.dataset for task in choose_tasks("C-MTEB", None, None)] == before


def test_judgements_that_mteb_cannot_take_are_refused(tmp_path: Path) -> None:
    tables = {name: rows for name, rows in small_tables().items() if name.startswith("retrieval")}
    tables["retrieval/Small/qrels"][0] = {"query_id": "q0", "doc_id": "d0", "score": 0.5}
    tables["retrieval/Small/qrels"][1:] = [
        {**row, "score": float(row["score"])} for row in tables["retrieval/Small/qrels"][1:]
    ]
    [task] = choose_tasks(None, None, write_tables(tmp_path, tables))
    with pytest.raises(UserError, match=r"Small: found the judgement 0\.5, expected whole numbers"):
        task.load_data()


# --------------------------------------------------------------------------------------- copies of hub repositories


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """Write files into a folder; return the folder."""

    def write(folder: str, **files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / folder

    return write


@pytest.mark.parametrize("place", ["C-MTEB/AFQMC", "AFQMC", "datasets--C-MTEB--AFQMC/snapshots/0123"])
def test_a_copy_is_found_where_downloads_put_it(tmp_path: Path, copy: Copy, place: str) -> None:
    found = copy(place, data__test="x")
    (tmp_path / "BQ").mkdir()  # an empty folder is no copy
    [task] = choose_tasks("C-MTEB", ["AFQMC", "BQ"], tmp_path)
    assert (key_of(task), task.metadata.dataset["path"]) == ("sts/AFQMC", str(found))


def test_the_revision_is_that_of_the_data_wherever_it_stands(tmp_path: Path, copy: Copy) -> None:
    """Every change of a file, its name or its place is another revision; a copy of the same data is none."""

    def revision(folder: str) -> str:
        [task] = choose_tasks("C-MTEB", ["AFQMC"], tmp_path / folder)
        return task.metadata.dataset["revision"]

    copy("a/AFQMC", zh__test="1", zh__train="2")
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    assert revision("moved") == revision("a")
    others = [
        copy("content/AFQMC", zh__test="2", zh__train="1"),
        copy("fewer/AFQMC", zh__test="1train2"),  # all in one file
        copy("renamed/AFQMC", zh__dev="1", zh__train="2"),
        copy("elsewhere/AFQMC", zh__test="1", zz__train="2"),  # another subset
    ]
    revisions = [revision(str(folder.parent)) for folder in others]
    assert len({revision("a"), *revisions}) == 1 + len(others)


def test_hidden_files_are_no_data(tmp_path: Path, copy: Copy) -> None:
    """A download leaves `.cache/` with times in it, also where it was cut off before its first file."""

    def revision() -> str:
        [task] = choose_tasks("C-MTEB", ["AFQMC"], tmp_path)
        return task.metadata.dataset["revision"]

    folder = copy("C-MTEB/AFQMC", zh__test="1")
    before = revision()
    for name in (
        ".cache/huggingface/download/data/test.jsonl.metadata",
        "data/.test.jsonl.lock",
        ".gitattributes",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1764295200.0")
    assert revision() == before
    (tmp_path / "C-MTEB" / "BQ" / ".cache").mkdir(parents=True)
    (tmp_path / "C-MTEB" / "BQ" / ".cache" / "note").write_text("x")
    [task] = choose_tasks("C-MTEB", ["AFQMC", "BQ"], tmp_path)
    assert key_of(task) == "sts/AFQMC"
