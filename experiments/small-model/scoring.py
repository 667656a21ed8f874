"""Scores of the small model: on the development sets, and once on the evaluation sets by mteb's own classes.

Every result is written as soon as it is known, task by task on the evaluation sets, so that scoring too goes on where it
was stopped. All models read texts of the same length, that of the base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, cast

import numpy as np
from result_file import kept

from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.benchmarks import evaluate_benchmark
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.evaluation.discovery import discover
from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.results import EvaluationResult, TaskResult, summarise
from conan_embed.evaluation.statistics import Estimate, paired_differences, with_mean


@dataclass(frozen=True)
class FinalScores:
    """What one column has on the evaluation sets.

    Attributes:
        by_mteb: main scores and widths, by mteb's classes.
        own: the same by this package's metrics, with the items that intervals need.
    """

    by_mteb: EvaluationResult
    own: EvaluationResult

    @property
    def largest_deviation(self) -> float:
        """The largest difference between a main score of mteb's classes and ours, a fraction of one."""
        return max(abs(self.by_mteb[task].main - self.own[task].main) for task in self.own)

    def to_json(self) -> dict[str, Any]:
        return {"by_mteb": self.by_mteb.to_json(), "own": self.own.to_json()}


class RememberingModel:
    """A model that encodes each text once, whoever asks: mteb's classes and ours ask for the same texts.

    Args:
        folder: holds the file of embeddings while the model is in use.
    """

    def __init__(self, model: EmbeddingModel, folder: Path) -> None:
        self._model, self.cache = model, CachedEncoder(model, folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, texts: Sequence[str], *, prompt: str = "", **_: Any) -> np.ndarray:
        return self.cache.encode(texts, prompt=prompt)


def load(model: Path, length: int) -> EmbeddingModel:
    return EmbeddingModel.load(model, max_length=length).to(collectives.start())


def development_scores(
    model: Path, folder: Path, result: Path, *, length: int, widths: Sequence[int]
) -> EvaluationResult:
    """Return the scores on the development sets, computed once."""

    def compute() -> dict[str, Any]:
        return evaluate(load(model, length), folder, widths=widths, items=True).to_json()

    return EvaluationResult.from_json(kept(result, compute, f"{result.stem}: development sets"))


def final_scores(
    model: Path, folder: Path, output: Path, *, length: int, widths: Sequence[int]
) -> FinalScores:
    """Return the scores on the evaluation sets, each task computed once, by mteb's classes and by ours.

    Raises:
        UserError: a task failed; what is there stays.
    """
    loaded: EmbeddingModel | None = None
    own: dict[str, TaskResult] = {}

    def one_task(task: str) -> dict[str, Any]:
        nonlocal loaded
        loaded = loaded or load(model, length)
        remembering = RememberingModel(loaded, output)
        with remembering.cache:
            encoder = cast(EmbeddingModel, remembering)
            by_mteb = evaluate_benchmark(
                encoder, output / "mteb", local=folder, tasks=[task], widths=widths, name=str(model)
            )
            if by_mteb.missing:
                raise UserError(f"{task}: mteb failed, see above; run the same command to try again.")
            ours = evaluate(encoder, folder, tasks=[task], items=True)
        return {"by_mteb": by_mteb[task].to_json(), "own": ours[task].to_json()}

    by_mteb: dict[str, TaskResult] = {}
    for task in discover(folder):
        path = output / f"{task.key.replace('/', '-')}.json"
        scores = kept(path, lambda key=task.key: one_task(key), f"{output.name}: {task.key}")  # type: ignore[misc]
        by_mteb[task.key], own[task.key] = (TaskResult.from_json(scores[side]) for side in ("by_mteb", "own"))
    prompts = dict(EmbeddingModel.load(model).prompts)
    result = EvaluationResult(model.name, max(widths), prompts, by_mteb, tuple(widths), benchmark="local")
    return FinalScores(result, replace(result, tasks=own, widths=(), benchmark=None))


def choice_score(result: EvaluationResult, tasks: Sequence[str], width: int | None = None) -> float:
    """Return the mean of development sets that choices are made by: retrieval counts as much as all graded sets."""
    main = {task: result[task].main if width is None else result[task].by_width[width] for task in tasks}
    return summarise(main)["average"]


def type_mean(result: EvaluationResult, type_: str, tasks: Sequence[str]) -> float:
    return mean(result[task].main for task in tasks if task.startswith(f"{type_}/"))


def estimates(results: Sequence[EvaluationResult], tasks: Sequence[str]) -> dict[str, list[Estimate]]:
    """Return how far each result lies above the first, for every task, type and `average`, with its interval.

    The intervals are over test items, each paired with itself; tasks without items (clustering) add nothing to them.
    """
    scores = {task: np.stack([_items(result[task]) for result in results])[:, None] for task in tasks}
    return paired_differences(scores, against=0)


def _items(task: TaskResult) -> np.ndarray:
    return np.array([task.main]) if task.items is None else with_mean(np.array(task.items), task.main)


def retention(base: EvaluationResult, column: EvaluationResult) -> Mapping[str, Estimate]:
    """Return what was demanded of retrieval: the differences from the base of `average`, of retrieval and reranking,
    and of SciFact and both directions of XQuAD.
    """
    tasks = [task for task in base if task.startswith(("retrieval/", "reranking/"))]
    all_of_them = estimates([base, column], tasks)
    special = [task for task in tasks if task.partition("/")[2].startswith(("SciFact", "XQuAD"))]
    return {name: all_of_them[name][1] for name in ("average", *special)}
