"""mteb's tasks, chosen by benchmark and name, with their data from the hub or from a local folder. Imports mteb.

A local folder may hold, in any mixture,

- copies of hub repositories: `ORGANISATION/NAME/`, `NAME/` or `TASK/`, with the README that names a retrieval set's
  parts, as `hf download --repo-type dataset` brings them, or a hub cache (`datasets--ORGANISATION--NAME/`). mteb loads
  them itself;
- evaluation sets in our layout (`conan_embed.evaluation.sets`). A set of the same type and name as a task of mteb
  (`sts/AFQMC.parquet`) is that task's data; any other becomes a task of its own, of mteb's class for the type.

A task with local data has as its data revision `local-` and a hash of the files: results say so, and are computed anew
when the files change.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import mteb
import xxhash
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining

from conan_embed.errors import UserError, suggestion
from conan_embed.evaluation import discovery, sets
from conan_embed.evaluation.discovery import LocalTask
from conan_embed.evaluation.published import C_MTEB
from conan_embed.evaluation.scorers import MAIN_SCORES, few_shot_size

TYPES = {
    "Retrieval": "retrieval",
    "Reranking": "reranking",
    "STS": "sts",
    "PairClassification": "pair_classification",
    "Classification": "classification",
    "Clustering": "clustering",
    "BitextMining": "bitext",
}
"""Our word for mteb's types of task; its other types keep mteb's."""

_CLASSES: dict[str, type[AbsTask]] = {
    "retrieval": AbsTaskRetrieval,
    "reranking": AbsTaskRetrieval,
    "sts": AbsTaskSTS,
    "pair_classification": AbsTaskPairClassification,
    "classification": AbsTaskClassification,
    "clustering": AbsTaskClusteringLegacy,
    "bitext": AbsTaskBitextMining,
}

# What `MTEB(cmn, v1)` has no more of the 35 sets which the paper's averages are of.
_C_MTEB_REST = (
    "AmazonReviewsClassification",
    "MassiveIntentClassification",
    "MassiveScenarioClassification",
    "STS22",
)


def key_of(task: AbsTask) -> str:
    """Return the key of a task in results, as `sts/AFQMC`."""
    if hasattr(task, "local_key"):  # a set that mteb does not know
        return str(task.local_key)
    type_ = str(task.metadata.type)
    return f"{TYPES.get(type_, type_)}/{task.metadata.name}"


def dataset_name(metadata: TaskMetadata) -> str:
    """Return the name of a task's set: of a local one without the type that its results have in their name."""
    type_ = str(metadata.type)
    return metadata.name.removesuffix(f".{TYPES.get(type_, type_)}")


def parts_of(task: AbsTask) -> list[AbsTask]:
    """Return the tasks that have data: those that an aggregate is made of, else the task itself."""
    return list(task.metadata.tasks) if isinstance(task, AbsTaskAggregate) else [task]


def choose_tasks(benchmark: str | None, names: Sequence[str] | None, local: Path | None) -> list[AbsTask]:
    """Return the tasks to evaluate, in mteb's order.

    Args:
        benchmark: a benchmark of mteb, or "C-MTEB": the paper's 35 sets. Without one, the tasks are those of `names`
            (any task of mteb), or all sets of `local` that are in our layout.
        names: of the benchmark's tasks only these: names of tasks (`AFQMC`), types (`sts`) or both (`sts/AFQMC`).
        local: a folder of local copies; tasks of the benchmark without a copy there are left out.

    Raises:
        UserError: a benchmark, a name or a folder that does not exist, or a folder without any of the tasks.
    """
    if local is not None and not local.is_dir():
        raise UserError(f"{local}: no such folder of local copies.")
    own = _sets_of(local)
    if benchmark is not None:
        tasks = _benchmark(benchmark)
    elif own:
        tasks = [_own_task(task) for task in own]
    elif names:
        tasks = [_mteb_task(name) for name in dict.fromkeys(name.rsplit("/", 1)[-1] for name in names)]
    else:
        raise UserError("evaluate: nothing to evaluate; expected --benchmark, --task or a folder.")
    if names:
        tasks = _named(tasks, names)
    if local is not None:
        # A benchmark hands out the same objects each time, and these are to be changed.
        tasks = deepcopy(tasks)
        tasks = [task for task in tasks if _use_local_data(task, local, own)]
        if not tasks:
            raise UserError(
                f"{local}: holds none of the data sets; expected copies such as C-MTEB/AFQMC/ or sts/AFQMC.parquet."
            )
    return tasks


def tasks_named(names: Sequence[str]) -> list[AbsTask]:
    """Return the tasks of these benchmarks and tasks of mteb, each once.

    Raises:
        UserError: there is none of that name.
    """
    benchmarks = {benchmark.name for benchmark in mteb.get_benchmarks()}
    tasks = [
        task for name in names for task in (_benchmark(name) if name in benchmarks else [_mteb_task(name)])
    ]
    return list({task.metadata.name: task for task in tasks}.values())


def _benchmark(name: str) -> list[AbsTask]:
    if name == C_MTEB:
        rest = [mteb.get_task(task) for task in _C_MTEB_REST]
        for task in rest:  # of the multilingual sets the Chinese part alone, not pairs with another language
            task.hf_subsets = [subset for subset in task.hf_subsets if subset in ("zh", "zh-CN")]
            task.filter_eval_splits(["test"])
        return [*mteb.get_benchmark("MTEB(cmn, v1)").tasks, *rest]
    try:
        return list(mteb.get_benchmark(name).tasks)
    except KeyError:
        known = [C_MTEB, *(benchmark.name for benchmark in mteb.get_benchmarks())]
        raise UserError(
            f"benchmark {name!r}: mteb has none of that name{suggestion(name, known)}; "
            f'expected one of mteb\'s, such as "MTEB(cmn, v1)", or {C_MTEB}.'
        ) from None


def _mteb_task(name: str) -> AbsTask:
    try:
        return mteb.get_task(name)
    except KeyError:
        known = [task.metadata.name for task in mteb.get_tasks()]
        raise UserError(f"task {name!r}: mteb has none of that name{suggestion(name, known)}.") from None


def _named(tasks: Sequence[AbsTask], names: Sequence[str]) -> list[AbsTask]:
    labels = {
        id(task): {task.metadata.name, key_of(task), key_of(task).split("/")[0], str(task.metadata.type)}
        for task in tasks
    }
    known = set().union(*labels.values())
    for name in names:
        if name not in known:
            raise UserError(
                f"task {name!r} is not among those to evaluate{suggestion(name, known)}; "
                f"expected a type or a name such as {tasks[0].metadata.name}."
            )
    return [task for task in tasks if labels[id(task)] & set(names)]


# ---- local data --------------------------------------------------------------------------------


def _sets_of(folder: Path | None) -> list[LocalTask]:
    """Return the sets that a folder holds in our layout, if any."""
    if folder is None or not any((folder / type_).is_dir() for type_ in discovery.TYPES):
        return []
    return discovery.discover(folder)


def _use_local_data(task: AbsTask, folder: Path, own: Sequence[LocalTask]) -> bool:
    """Let `task` take its data from `folder`; return whether there is any."""
    if isinstance(task, AbsTaskAggregate):
        return all(_use_local_data(part, folder, own) for part in parts_of(task))
    for local in own:
        if local.key == key_of(task):
            _point_at(task, local.path)
            # A local set is one split of one subset, whichever mteb evaluates.
            task.filter_eval_splits(["test" if "test" in task.eval_splits else task.eval_splits[0]])
            task.hf_subsets = task.hf_subsets[:1]
            task.parallel_subsets = False  # type: ignore[attr-defined]  # of bitext: else a column a language
            # The task itself does not know how to read the file; it asks for its data when its turn comes.
            if isinstance(task, AbsTaskRetrieval) and local.type == "retrieval":
                task.ignore_identical_ids = sets.ignores_identical_ids(local.path)
            task.load_data = partial(_fill, task, local)  # type: ignore[method-assign]
            return True
    copy = _hub_copy(folder, str(task.metadata.dataset["path"]), task.metadata.name)
    if copy is not None:
        _point_at(task, copy)
    return copy is not None


def _hub_copy(folder: Path, repository: str, name: str) -> Path | None:
    """Return the folder in which a copy of a hub data set stands, or None."""
    folders = [folder / repository, folder / repository.rsplit("/", 1)[-1], folder / name]
    snapshots = folder / f"datasets--{repository.replace('/', '--')}" / "snapshots"
    newest = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in (*folders, *newest) if path.is_dir() and any(_visible_files(path))), None)


def _point_at(task: AbsTask, path: Path) -> None:
    dataset = {**task.metadata.dataset, "path": str(path.resolve()), "revision": f"local-{_hash(path)}"}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})


def _hash(path: Path) -> str:
    files = [path] if path.is_file() else sorted(_visible_files(path))
    digest = xxhash.xxh3_64()
    for file in files:
        name = file.relative_to(path if path.is_dir() else path.parent)
        digest.update(f"{name.as_posix()}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without hidden ones, such as what huggingface_hub notes in `.cache/`."""
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _own_task(local: LocalTask) -> AbsTask:
    """Return mteb's task of that type and name, or a new one of mteb's class for the type."""
    try:
        task = mteb.get_task(local.name)
        if key_of(task) == local.key:
            return task
    except KeyError:
        pass
    metadata = TaskMetadata(
        name=f"{local.name}.{local.type}",  # results stand under this name: sets of two types may share theirs
        type=next(theirs for theirs, ours in TYPES.items() if ours == local.type),
        description=f"The local set {local.key}.",
        dataset={"path": str(local.path.resolve()), "revision": "local"},
        eval_splits=["test"],
        eval_langs=["cmn-Hans", "eng-Latn"],  # mteb asks for some; they have no effect on the scores
        main_score=MAIN_SCORES[local.type],
        category="t2t",
        modalities=["text"],
    )
    attributes: dict[str, Any] = {"metadata": metadata, "local_key": local.key}
    if local.type == "classification":
        attributes["samples_per_label"] = few_shot_size(local.name)
    return type(local.name, (_CLASSES[local.type],), attributes)()


def _fill(task: AbsTask, local: LocalTask, **_: Any) -> None:
    """Put the set of `local` into `task`, as mteb has it after loading and transforming."""
    (split,) = task.eval_splits
    data = _READERS[local.type](local.path, split)
    searched = local.type in ("retrieval", "reranking")
    task.dataset = {task.hf_subsets[0]: data} if searched or task.metadata.is_multilingual else data
    task.data_loaded = True


def _retrieval(path: Path, split: str) -> dict[str, Any]:
    data = sets.read_retrieval(path)
    # `documents` are sorted by falling id, and ties go to the larger id: numbers that fall keep the order.
    document_ids = [f"{len(data.documents) - number:09d}" for number in range(len(data.documents))]
    # A document that is no answer to a query has the query's id, by which mteb leaves it out.
    query_ids = [
        document_ids[excluded] if excluded >= 0 else f"query-{number}"
        for number, excluded in enumerate(data.excluded_document.tolist())
    ]
    judged: dict[str, dict[str, int]] = {}
    columns = (data.judged_query.tolist(), data.judged_document.tolist(), data.judged_gain.tolist())
    for number, (query, document, gain) in enumerate(zip(*columns, strict=True)):
        if gain != int(gain):
            raise UserError(
                f"{path}: found the judgement {gain:g}, expected whole numbers, as mteb has them."
            )
        name = document_ids[document] if document >= 0 else f"missing-{number}"
        judged.setdefault(query_ids[query], {})[name] = int(gain)
    corpus = {"id": document_ids, "title": [""] * len(document_ids), "text": data.documents}
    return {
        split: {
            "corpus": Dataset.from_dict(corpus),
            "queries": Dataset.from_dict({"id": query_ids, "text": data.queries}),
            "relevant_docs": judged,
            "top_ranked": None,
        }
    }


def _reranking(path: Path, split: str) -> dict[str, Any]:
    data = sets.read_reranking(path)
    query_ids = [f"query-{number}" for number in range(len(data.queries))]
    # Among equal scores the larger id goes first, and an irrelevant candidate is to lose nothing by a tie.
    ids = [
        f"{'apositive' if relevant else 'negative'}-{query}-{number:07d}"
        for number, (query, relevant) in enumerate(
            zip(data.candidate_query.tolist(), data.relevant.tolist(), strict=True)
        )
    ]
    judged: dict[str, dict[str, int]] = {name: {} for name in query_ids}
    ranked: dict[str, list[str]] = {name: [] for name in query_ids}
    for name, query, relevant in zip(ids, data.candidate_query, data.relevant.tolist(), strict=True):
        judged[query_ids[query]][name] = int(relevant)
        ranked[query_ids[query]].append(name)
    return {
        split: {
            "corpus": Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": data.candidates}),
            "queries": Dataset.from_dict({"id": query_ids, "text": data.queries}),
            "relevant_docs": judged,
            "top_ranked": ranked,
        }
    }


def _sts(path: Path, split: str) -> DatasetDict:
    data = sets.read_pairs(path)
    return _split(split, sentence1=data.first, sentence2=data.second, score=data.score.tolist())


def _pair_classification(path: Path, split: str) -> DatasetDict:
    data = sets.read_pairs(path, binary=True)
    return _split(split, sentence1=data.first, sentence2=data.second, labels=data.score.astype(int).tolist())


def _classification(path: Path, split: str) -> DatasetDict:
    train, test = sets.read_classification(path)
    # mteb takes a 1 among two labels for the positive one, and fails on words.
    number = {label: number for number, label in enumerate(sorted({*train.labels, *test.labels}))}
    parts = {
        name: _split(name, text=part.texts, label=[number[label] for label in part.labels])[name]
        for name, part in (("train", train), (split, test))
    }
    return DatasetDict(parts)


def _clustering(path: Path, split: str) -> DatasetDict:
    data = sets.read_labelled(path)
    return _split(split, sentences=[data.texts], labels=[data.labels])


def _bitext(path: Path, split: str) -> DatasetDict:
    data = sets.read_bitext(path)
    return _split(split, sentence1=data.first, sentence2=data.second)


def _split(split: str, **columns: list[Any]) -> DatasetDict:
    return DatasetDict({split: Dataset.from_dict(columns)})


_READERS: dict[str, Callable[[Path, str], Any]] = {
    "retrieval": _retrieval,
    "reranking": _reranking,
    "sts": _sts,
    "pair_classification": _pair_classification,
    "classification": _classification,
    "clustering": _clustering,
    "bitext": _bitext,
}
