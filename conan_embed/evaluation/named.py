"""Retrieval sets of mteb by name (`evaluation.mteb: [NanoBEIR]`): loaded from the hub once, then folders of our own.

    CACHE/mteb/retrieval/NAME/      as `sets` describes it

So a run watches them with our own metrics (the same figures, without mteb's loaders at every evaluation), and a resumed
one needs no network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.evaluation.benchmarks import quiet, require_mteb
from conan_embed.evaluation.discovery import LocalTask, discover, select
from conan_embed.files import atomic_write, write_json
from conan_embed.recipes.sections import Evaluation

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


def evaluation_tasks(settings: Evaluation, cache: str | Path) -> list[LocalTask]:
    """Return the sets that a recipe names; all processes must call it, and one of each node loads what is missing.

    Raises:
        UserError: no such set, one that is not plain retrieval, no connection, or two of one name.
    """
    tasks = [] if settings.folder is None else discover(settings.folder)
    if settings.mteb:
        tasks += named_sets(settings.mteb, Path(cache) / "mteb")
    twice = {task.key for task in tasks if [other.key for other in tasks].count(task.key) > 1}
    if twice:
        raise UserError(
            f"evaluation.mteb: {min(twice)} is in evaluation.folder, too; expected different names."
        )
    return select(tasks, settings.tasks)


def named_sets(names: Sequence[str], folder: Path) -> list[LocalTask]:
    """Return the sets of these benchmarks and tasks of mteb, in their order; see `evaluation_tasks`."""
    require_mteb("evaluation.mteb")
    with quiet():
        from conan_embed.evaluation.mteb_tasks import tasks_named

        tasks = tasks_named(names)
        paths = {task.metadata.name: folder / "retrieval" / task.metadata.name for task in tasks}
        if collectives.is_local_main_process():
            for task in tasks:
                if not paths[task.metadata.name].is_dir():
                    console.print(f"loading {task.metadata.name} from the hub")
                    _write(task, paths[task.metadata.name])
        collectives.barrier()
    return [LocalTask("retrieval", name, path) for name, path in paths.items()]


def _write(task: "AbsTask", path: Path) -> None:
    """Load a task's data and write it as a folder of our layout."""
    name = f"evaluation.mteb: {task.metadata.name}"
    if task.metadata.type != "Retrieval" or len(task.hf_subsets) != 1 or len(task.eval_splits) != 1:
        raise UserError(f"{name} is no plain retrieval in one language; expected NanoBEIR or such a set.")
    try:
        task.load_data()
    except Exception as error:  # the network, the hub, the libraries: each means that there is no data
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{name}: cannot be loaded from the hub ({reason}); expected a connection."
        ) from error
    assert task.dataset is not None
    data = task.dataset[task.hf_subsets[0]][task.eval_splits[0]]
    with atomic_write(path, first_stays=True) as aside:
        aside.mkdir()
        corpus = pl.DataFrame({key: list(data["corpus"][key]) for key in data["corpus"].column_names})
        corpus.rename({"id": "doc_id"}).write_parquet(aside / "corpus.parquet")
        queries = pl.DataFrame(
            {"query_id": list(data["queries"]["id"]), "text": list(data["queries"]["text"])}
        )
        queries.write_parquet(aside / "queries.parquet")
        judged = [
            (query, document, float(score))
            for query, documents in data["relevant_docs"].items()
            for document, score in documents.items()
        ]
        qrels = pl.DataFrame(judged, schema=["query_id", "doc_id", "score"], orient="row")
        qrels.write_parquet(aside / "qrels.parquet")
        write_json(
            aside / "task.json", {"ignore_identical_ids": getattr(task, "ignore_identical_ids", False)}
        )
