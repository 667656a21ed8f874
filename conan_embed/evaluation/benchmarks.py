"""Evaluate a model on benchmarks of mteb, through mteb's own classes and in its own layout of results.

    OUTPUT/results/ORGANISATION__NAME/REVISION/TASK.json                               the full width
    OUTPUT/results/ORGANISATION__NAME/REVISION/experiments/embed_dim_256/TASK.json     a narrower one
    OUTPUT/ORGANISATION__NAME.json                                                     all of it in our form

The first two are what mteb writes and its tools read, `model_meta.json` beside them. A task whose file is there, of
the same model and the same data, is not computed again, so an evaluation that was stopped goes on.

Each task is encoded once, at full width (`vectors`); mteb's classes then run once per width over prefixes. Under
torchrun each process takes every so many-th task with a device of its own; the costly types come first.

mteb is an extra, so everything that imports it is imported here, once it is known to be there.
"""

import contextlib
import importlib.util
import logging
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from conan_embed.console import console
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import check_widths, summarise
from conan_embed.evaluation.vectors import VectorCache
from conan_embed.files import write_json

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.cache import ResultCache
    from mteb.models.model_meta import ModelMeta
    from mteb.results import TaskResult

_COSTLY_FIRST = ("retrieval", "reranking", "clustering", "classification")
_BATCH = 512  # texts that mteb's loader hands over at once; how they are encoded is the cache's affair


def evaluate_benchmark(
    model: EmbeddingModel,
    output: str | Path,
    *,
    benchmark: str | None = None,
    tasks: Sequence[str] | None = None,
    local: str | Path | None = None,
    widths: Sequence[int] | None = None,
    precision: str = "bfloat16",
    name: str = "model",
) -> dict[str, Any]:
    """Evaluate `model` on a benchmark of mteb, a list of its tasks, or the sets of a folder.

    Args:
        output: folder of results; tasks that it has for this model and this data are not computed again.
        benchmark, tasks, local: what to evaluate, and local copies to take the data from; see
            `conan_embed.evaluation.mteb_tasks`.
        widths: Matryoshka prefixes to score as well.
        precision: of matrix products, "bfloat16" or "float32".
        name: a model folder or hub name, from which results get theirs.

    Returns:
        As `conan_embed.evaluation.evaluate`, with `benchmark`, `precision` and `missing` (keys of the tasks that
        failed, each told on the console) besides; every process returns the same.

    Raises:
        UserError: mteb is not installed, something of that name does not exist, or every task failed.
    """
    if importlib.util.find_spec("mteb") is None:
        raise UserError('evaluate: mteb is not installed; expected pip install "conan-embed[mteb]".')
    check_widths(widths, model.width)
    with _quiet():
        from mteb.cache import ResultCache

        from conan_embed.evaluation import mteb_model, mteb_tasks

        output = Path(output)
        chosen = mteb_tasks.choose_tasks(benchmark, tasks, None if local is None else Path(local))
        all_widths = [model.width, *(width for width in widths or () if width != model.width)]
        model_name = result_name(name)
        metas = {
            width: mteb_model.model_meta(model, model_name, width=width, precision=precision)
            for width in all_widths
        }
        cache = ResultCache(output)
        _compute(model, chosen, metas, cache, precision, scratch=output)
        if dist.is_initialized():
            dist.barrier()
        results = _collect(model, chosen, metas, cache, bool(widths))
    results |= {"model": model_name, "benchmark": benchmark, "precision": precision}
    if _rank() == 0:
        write_json(output / f"{metas[model.width].model_name_as_path()}.json", results)
    return results


def result_name(model: str) -> str:
    """Return the "organisation/name" under which mteb keeps results: a hub name as it is, a folder as local/NAME.

    A folder that is called `model`, as a run's is, goes by the name of the folder around it.
    """
    path = Path(model).expanduser()
    if not path.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return model
    path = path.resolve()
    return f"local/{path.parent.name if path.name == 'model' else path.name}"


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _compute(
    model: EmbeddingModel,
    tasks: Sequence["AbsTask"],
    metas: dict[int, "ModelMeta"],
    cache: "ResultCache",
    precision: str,
    scratch: Path,
) -> None:
    """Compute what the cache lacks of this process's share of the tasks."""
    from conan_embed.evaluation.mteb_tasks import key_of

    def cost(task: "AbsTask") -> int:
        type_ = key_of(task).split("/")[0]
        return _COSTLY_FIRST.index(type_) if type_ in _COSTLY_FIRST else len(_COSTLY_FIRST)

    lacking = {
        id(task): [width for width, meta in metas.items() if _found(cache, task, meta) is None]
        for task in tasks
    }
    if dist.is_initialized():
        dist.barrier()  # all have looked before the first one writes, so all share out the same list
    pending = sorted((task for task in tasks if lacking[id(task)]), key=cost)
    if _rank() == 0 and len(pending) < len(tasks):
        console.print(f"{len(tasks) - len(pending)} of {len(tasks)} tasks were evaluated before")
    world = dist.get_world_size() if dist.is_initialized() else 1
    for number, task in enumerate(pending):
        if number % world != _rank():
            continue
        started = time.perf_counter()
        console.print(f"{number + 1}/{len(pending)} {key_of(task)}", highlight=False)
        try:
            wanted = {width: metas[width] for width in lacking[id(task)]}
            count = _compute_task(model, task, wanted, cache, precision, scratch)
        except Exception as error:  # the network, the data, the libraries: the other tasks are worth having
            reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            console.print(f"  failed: {reason}", style="red", markup=False, soft_wrap=True)
        else:
            seconds = time.perf_counter() - started
            console.print(f"  {count:,} texts, {seconds:,.1f} s", highlight=False)


def _compute_task(
    model: EmbeddingModel,
    task: "AbsTask",
    metas: dict[int, "ModelMeta"],
    cache: "ResultCache",
    precision: str,
    scratch: Path,
) -> int:
    """Compute and save one task at every width of `metas`; return how many texts were encoded."""
    import mteb

    from conan_embed.evaluation.mteb_model import MtebEncoder
    from conan_embed.evaluation.mteb_tasks import parts_of

    def encode(texts: Sequence[str], prompt: str) -> Any:
        return model.encode(texts, prompt=prompt, precision=precision, show_progress=len(texts) > 1000)

    with VectorCache(encode, model.width, scratch) as vectors:
        for part in parts_of(task):
            part.load_data()
        for width, meta in metas.items():
            encoder: Any = MtebEncoder(vectors, model.prompts, width, meta)
            mteb.evaluate(
                encoder,
                task,
                cache=cache,
                overwrite_strategy="always",
                co2_tracker=False,
                show_progress_bar=False,
                encode_kwargs={"batch_size": _BATCH, "show_progress_bar": False},
            )
        for part in parts_of(task):
            part.dataset, part.data_loaded = None, False  # mteb's own unloading forgets where local data is
        return len(vectors)


def _found(cache: "ResultCache", task: "AbsTask", meta: "ModelMeta") -> "TaskResult | None":
    """Return the saved result of a task, if it is whole and of the same data."""
    result = cache.load_task_result(task.metadata.name, meta)
    if result is None or result.dataset_revision != task.metadata.revision:
        return None
    return None if result.get_missing_evaluations(task) else result


def _collect(
    model: EmbeddingModel,
    tasks: Sequence["AbsTask"],
    metas: dict[int, "ModelMeta"],
    cache: "ResultCache",
    with_widths: bool,
) -> dict[str, Any]:
    """Read the results of all tasks into our form (`conan_embed.evaluation.evaluate`)."""
    from conan_embed.evaluation.mteb_tasks import key_of

    collected: dict[str, dict[str, Any]] = {}
    missing = []
    for task in tasks:
        results = {width: _found(cache, task, meta) for width, meta in metas.items()}
        full = results[model.width]
        if full is None or None in results.values():
            missing.append(key_of(task))
            continue
        collected[key_of(task)] = {
            "main_score": float(full.get_score()),
            "metric": task.metadata.main_score,
            **_average_precision(full),
            "seconds": full.evaluation_time,
            "dataset": {
                "path": task.metadata.dataset["path"],
                "revision": full.dataset_revision,
                "splits": list(task.eval_splits),
            },
        }
        if with_widths:
            collected[key_of(task)]["widths"] = {
                str(width): float(result.get_score())
                for width, result in results.items()
                if result is not None
            }
    if not collected:
        raise UserError("evaluate: every task failed; the reasons stand above.")
    report = {
        "width": model.width,
        "prompts": dict(model.prompts),
        "tasks": collected,
        "summary": summarise({key: result["main_score"] for key, result in collected.items()}),
        "missing": missing,
    }
    if with_widths:
        report["widths"] = {
            str(width): summarise({key: result["widths"][str(width)] for key, result in collected.items()})
            for width in metas
        }
    return report


def _average_precision(result: "TaskResult") -> dict[str, float]:
    """Return the measure by which pair classification was ranked formerly, where a task has it."""
    entries = [entry for of_split in result.scores.values() for entry in of_split]
    found = [float(entry["cosine_ap"]) for entry in entries if "cosine_ap" in entry]
    return {"average_precision": sum(found) / len(found)} if found else {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """mteb, datasets and what they use speak of their own affairs at length; errors still come through."""
    from datasets.utils import logging as datasets_logging

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    datasets_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        datasets_logging.enable_progress_bar()
        logging.disable(level)
