"""Evaluate a model on benchmarks of mteb, through mteb's own classes and in its own layout of results.

    OUTPUT/results/ORGANISATION__NAME/REVISION/TASK.json                               the full width
    OUTPUT/results/ORGANISATION__NAME/REVISION/experiments/embed_dim_256/TASK.json     a narrower one
    OUTPUT/ORGANISATION__NAME.json                                                     all of it in our form

The first two are what mteb writes and its tools read, `model_meta.json` beside them. A task whose file is there, of
the same model and the same data, is not computed again, so an evaluation that was stopped goes on.

Each task is encoded once, at full width (`CachedEncoder`); mteb's classes then run once per width over prefixes. Under
torchrun tasks are dealt out round-robin, the costly types first, each process with a device of its own. Tasks may take
hours: whoever is done waits at the patient barrier of `distributed.collectives`.

mteb is an extra, so everything that imports it is imported here, once it is known to be there.
"""

import contextlib
import importlib.util
import logging
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import NotFinite, UserError
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.evaluation.local import check_widths
from conan_embed.evaluation.results import EvaluationResult, TaskResult, check_finite
from conan_embed.files import write_json

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.cache import ResultCache
    from mteb.models.model_meta import ModelMeta
    from mteb.results import TaskResult as MtebResult

_COSTLY_FIRST = ("retrieval", "reranking", "clustering", "classification")
METRICS = (
    *(
        "ndcg_at_10",
        "recall_at_10",
        "recall_at_100",
        "mrr_at_10",
        "map_at_1000",
        "cosine_spearman",
        "cosine_pearson",
    ),
    *("cosine_ap", "cosine_accuracy", "accuracy", "f1", "v_measure"),
)
"""What our metrics and mteb's classes both have, by the names of both."""

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
    instructions: bool = False,
    name: str = "model",
) -> EvaluationResult:
    """Evaluate `model` on a benchmark of mteb, a list of its tasks, or the sets of a folder.

    Args:
        output: folder of results; tasks that it has for this model and this data are not computed again.
        benchmark, tasks, local: what to evaluate, and local copies to take the data from; see
            `conan_embed.evaluation.mteb_tasks`.
        widths: Matryoshka prefixes to score as well.
        precision: of matrix products, "bfloat16" or "float32".
        instructions: mteb's own for each task, in place of the model's.
        name: a model folder or hub name, from which results get theirs.

    Returns:
        As `conan_embed.evaluation.evaluate`, with `missing`: keys of the tasks that failed, each told on the console.
        Every process returns the same.

    Raises:
        UserError: mteb is not installed, something of that name does not exist, every task failed, or embeddings or
            scores are not finite.
    """
    require_mteb("evaluate")
    check_widths(widths, model.width)
    with quiet():
        from mteb.cache import ResultCache

        from conan_embed.evaluation import mteb_model, mteb_tasks

        output = Path(output)
        chosen = mteb_tasks.choose_tasks(benchmark, tasks, None if local is None else Path(local))
        all_widths = [model.width, *(width for width in widths or () if width != model.width)]
        model_name = result_name(name)
        template = mteb_model.instruction_template(model) if instructions else None
        metas = {
            width: mteb_model.model_meta(
                model, model_name, width=width, precision=precision, template=template
            )
            for width in all_widths
        }
        cache = ResultCache(output)
        _compute(model, chosen, metas, cache, precision, template, scratch=output)
        collectives.barrier()
        tasks_found, missing = _collect(chosen, metas, cache, model.width)
    result = EvaluationResult(
        model=model_name,
        width=model.width,
        prompts=dict(model.prompts),
        tasks=tasks_found if widths else {k: replace(task, by_width={}) for k, task in tasks_found.items()},
        widths=tuple(all_widths) if widths else (),
        benchmark=benchmark,
        precision=precision,
        missing=missing,
    )
    if collectives.is_main_process():
        write_json(output / f"{metas[model.width].model_name_as_path()}.json", result.to_json())
    return result


def require_mteb(who: str) -> None:
    """Raise UserError where mteb is not installed."""
    if importlib.util.find_spec("mteb") is None:
        raise UserError(f'{who}: mteb is not installed; expected pip install "conan-embed[mteb]".')


def result_name(model: str) -> str:
    """Return the "organisation/name" under which mteb keeps results: a hub name as it is, a folder as local/NAME.

    A folder that is called `model`, as a run's is, goes by the name of the folder around it.
    """
    path = Path(model).expanduser()
    if not path.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return model
    path = path.resolve()
    return f"local/{path.parent.name if path.name == 'model' else path.name}"


def _compute(
    model: EmbeddingModel,
    tasks: Sequence["AbsTask"],
    metas: dict[int, "ModelMeta"],
    cache: "ResultCache",
    precision: str,
    template: str | None,
    scratch: Path,
) -> None:
    """Compute what the cache lacks of this process's share of the tasks."""
    lacking = {
        id(task): [width for width, meta in metas.items() if _saved(cache, task, meta) is None]
        for task in tasks
    }
    collectives.barrier()  # all have looked before the first one writes, so all deal out the same list
    pending = sorted((task for task in tasks if lacking[id(task)]), key=_cost)
    if collectives.is_main_process() and len(pending) < len(tasks):
        console.print(f"{len(tasks) - len(pending)} of {len(tasks)} tasks were evaluated before")
    for number in range(collectives.rank(), len(pending), collectives.world_size()):
        task = pending[number]
        console.print(f"{number + 1}/{len(pending)} {_key_of(task)}")
        _try_task(
            model,
            task,
            {width: metas[width] for width in lacking[id(task)]},
            cache,
            precision,
            template,
            scratch,
        )


def _key_of(task: "AbsTask") -> str:
    from conan_embed.evaluation.mteb_tasks import key_of

    return key_of(task)


def _cost(task: "AbsTask") -> int:
    type_ = _key_of(task).split("/")[0]
    return _COSTLY_FIRST.index(type_) if type_ in _COSTLY_FIRST else len(_COSTLY_FIRST)


def _try_task(
    model: EmbeddingModel,
    task: "AbsTask",
    metas: dict[int, "ModelMeta"],
    cache: "ResultCache",
    precision: str,
    template: str | None,
    scratch: Path,
) -> None:
    """Compute one task and print how it went; one that fails ends nothing."""
    started = time.perf_counter()
    try:
        count = _compute_task(model, task, metas, cache, precision, template, scratch)
    except NotFinite:
        raise  # the model is broken, and no other task would tell anything
    except Exception as error:  # the network, the data, the libraries: the other tasks are worth having
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        console.print(f"  failed: {reason}", style="red")
    else:
        console.print(f"  {count:,} texts, {time.perf_counter() - started:,.1f} s")


def _compute_task(
    model: EmbeddingModel,
    task: "AbsTask",
    metas: dict[int, "ModelMeta"],
    cache: "ResultCache",
    precision: str,
    template: str | None,
    scratch: Path,
) -> int:
    """Compute and save one task at every width of `metas`; return how many texts were encoded."""
    import mteb

    from conan_embed.evaluation.mteb_model import MtebEncoder
    from conan_embed.evaluation.mteb_tasks import parts_of

    with CachedEncoder(model, scratch, precision=precision, show_progress=True) as vectors:
        for part in parts_of(task):
            part.load_data()
        for width, meta in metas.items():
            encoder: Any = MtebEncoder(vectors, width, meta, template)
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


def _saved(cache: "ResultCache", task: "AbsTask", meta: "ModelMeta") -> "MtebResult | None":
    """Return the saved result of a task, if it is whole and of the same data."""
    result = cache.load_task_result(task.metadata.name, meta)
    if result is None or result.dataset_revision != task.metadata.revision:
        return None
    return None if result.get_missing_evaluations(task) else result


def _collect(
    tasks: Sequence["AbsTask"], metas: dict[int, "ModelMeta"], cache: "ResultCache", full_width: int
) -> tuple[dict[str, TaskResult], list[str]]:
    """Read the results of all tasks into our form; return them by key, and the keys of those that lack one."""
    collected: dict[str, TaskResult] = {}
    missing = []
    for task in tasks:
        saved = {width: _saved(cache, task, meta) for width, meta in metas.items()}
        results = {width: result for width, result in saved.items() if result is not None}
        if len(results) < len(metas):
            missing.append(_key_of(task))
        else:
            collected[_key_of(task)] = _task_result(task, results, full_width)
    if not collected:
        raise UserError("evaluate: every task failed; the reasons stand above.")
    return collected, missing


def _task_result(task: "AbsTask", results: dict[int, "MtebResult"], full_width: int) -> TaskResult:
    full, metric = results[full_width], task.metadata.main_score
    by_width = {width: float(result.get_score()) for width, result in results.items()}
    check_finite(_key_of(task), {f"{metric} at width {width}": score for width, score in by_width.items()})
    return TaskResult(
        main=by_width[full_width],
        metric=metric,
        scores={metric: by_width[full_width], **_scores(full)},
        by_width=by_width,
        seconds=full.evaluation_time,
        dataset={
            "path": task.metadata.dataset["path"],
            "revision": full.dataset_revision,
            "splits": list(task.eval_splits),
        },
    )


def _scores(result: "MtebResult") -> dict[str, float]:
    """Return the metrics that ours are compared with, by the same names, and `average_precision`.

    The last is the measure by which pair classification was ranked formerly.
    """
    entries = [entry for of_split in result.scores.values() for entry in of_split]
    names = [name for name in METRICS if all(name in entry for entry in entries)]
    scores = {name: sum(float(entry[name]) for entry in entries) / len(entries) for name in names}
    return scores | ({"average_precision": scores["cosine_ap"]} if "cosine_ap" in scores else {})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
