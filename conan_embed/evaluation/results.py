"""What an evaluation returns: scores of tasks, their means, and their form as JSON.

result = evaluate(model, "eval/")
result["retrieval/faq"].main            0.71, a fraction of one
result["retrieval/faq"].scores          {"ndcg_at_10": 0.71, "recall_at_10": ...}
result.average, result.by_type          the mean of the types' means; {"retrieval": 0.71, "sts": 0.8}
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conan_embed.errors import NotFinite, UserError
from conan_embed.evaluation.discovery import TYPES
from conan_embed.files import read_json

_OTHER_KEYS = ("main_score", "metric", "rows", "seconds", "widths", "items", "dataset", "stored", "content")


@dataclass(frozen=True)
class TaskResult:
    """Scores of one task, as fractions of one.

    Attributes:
        main: the main score, `scores[metric]`.
        metric: its name.
        scores: every metric by name, at the full width.
        by_width: the main score of each width that was asked for.
        rows: queries, pairs or texts that were scored; None where mteb does not say.
        seconds: how long it took.
        items: numbers whose mean is the main score (`evaluate(..., items=True)`), or None.
        dataset: of a task of mteb, where its data comes from (path, revision, splits).
        content: a hash of the data that was scored, and of the `limit` on it; None where it is not known.
        stored: the metrics of stored vectors ("int8 384") that were asked for.
    """

    main: float
    metric: str
    scores: Mapping[str, float]
    by_width: Mapping[int, float] = field(default_factory=dict)
    rows: int | None = None
    seconds: float | None = None
    items: Sequence[float] | None = None
    dataset: Mapping[str, Any] | None = None
    content: str | None = None
    stored: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the task as files have it: `main_score`, `metric`, the metrics by name, and whatever else is known."""
        others = {
            "rows": self.rows,
            "widths": {str(width): score for width, score in self.by_width.items()} or None,
            "items": None if self.items is None else list(self.items),
            "dataset": None if self.dataset is None else dict(self.dataset),
            "content": self.content,
            "stored": {form: dict(scores) for form, scores in self.stored.items()} or None,
            "seconds": self.seconds,
        }
        known = {name: value for name, value in others.items() if value is not None}
        return {"main_score": self.main, "metric": self.metric, **self.scores, **known}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TaskResult":
        return cls(
            value["main_score"],
            value["metric"],
            {name: score for name, score in value.items() if name not in _OTHER_KEYS},
            {int(width): score for width, score in value.get("widths", {}).items()},
            **{name: value.get(name) for name in ("rows", "seconds", "items", "dataset", "content")},
            stored=value.get("stored", {}),
        )


@dataclass(frozen=True)
class EvaluationResult(Mapping[str, TaskResult]):
    """The results of a model on several tasks: a mapping of keys such as `"sts/STSB"` to `TaskResult`.

    Attributes:
        model: its name.
        width: of its embeddings.
        prompts: that were put before texts, by role.
        tasks: by key, in the order of `TYPES` and names.
        widths: the widths that were scored as well.
        benchmark, precision: of an evaluation through mteb.
        missing: keys of the tasks that failed; None where a failure ends the evaluation.
    """

    model: str
    width: int
    prompts: Mapping[str, str]
    tasks: Mapping[str, TaskResult]
    widths: tuple[int, ...] = ()
    benchmark: str | None = None
    precision: str | None = None
    missing: Sequence[str] | None = None

    def __getitem__(self, key: str) -> TaskResult:
        return self.tasks[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def summary(self) -> dict[str, float]:
        """Means of the main scores: of each type by its name, `average` and `average_of_tasks`; see `summarise`."""
        return summarise({key: task.main for key, task in self.items()})

    @property
    def average(self) -> float:
        """The mean of the types' means (mteb's "Mean (TaskType)")."""
        return self.summary["average"]

    @property
    def by_type(self) -> dict[str, float]:
        """The mean main score of each type."""
        summary = self.summary
        return {type_: summary[type_] for type_ in types_of(self)}

    def summary_at(self, width: int) -> dict[str, float]:
        """Return `summary` for one of `widths`."""
        return summarise({key: task.by_width[width] for key, task in self.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the result as `conan-embed evaluate --output` writes it."""
        value: dict[str, Any] = {
            "model": self.model,
            "width": self.width,
            "prompts": dict(self.prompts),
            "tasks": {key: task.to_json() for key, task in self.items()},
            "summary": self.summary,
        }
        if self.widths:
            value["widths"] = {str(width): self.summary_at(width) for width in self.widths}
        if self.precision is not None:
            value["precision"] = self.precision
        if self.missing is not None:
            value |= {"benchmark": self.benchmark, "missing": list(self.missing)}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "EvaluationResult":
        """Read what `to_json` returned."""
        return cls(
            value["model"],
            value["width"],
            value.get("prompts", {}),
            {key: TaskResult.from_json(task) for key, task in value["tasks"].items()},
            tuple(int(width) for width in value.get("widths", {})),
            *(value.get(name) for name in ("benchmark", "precision", "missing")),
        )


def read_result(path: str | Path) -> EvaluationResult:
    """Read what `conan-embed evaluate --output` wrote.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        return EvaluationResult.from_json(read_json(path))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: found no results of an evaluation, expected what --output wrote.") from None


def check_finite(key: str, scores: Mapping[str, float]) -> None:
    """Raise NotFinite if a score of a task is no number."""
    for name, score in scores.items():
        if not math.isfinite(score):
            raise NotFinite(f"{key}: {name} is {score}, expected a finite number.")


def summarise(main_scores: Mapping[str, float]) -> dict[str, float]:
    """Average the main scores of tasks (`{"sts/STSB": 0.7, ...}`).

    Returns:
        The mean of each type that occurs, under its name; `average`, the mean of these (mteb's "Mean (TaskType)"), in
        which each type counts the same; `average_of_tasks`, the mean of all tasks ("Mean (Task)").
    """
    means = {
        type_: float(np.mean([score for key, score in main_scores.items() if type_of(key) == type_]))
        for type_ in types_of(main_scores)
    }
    return {
        **means,
        "average": float(np.mean(list(means.values()))),
        "average_of_tasks": float(np.mean(list(main_scores.values()))),
    }


def type_of(key: str) -> str:
    """Return the type of a task: `sts` for `sts/STSB`."""
    return key.split("/", 1)[0]


def types_of(keys: Iterable[str]) -> list[str]:
    """Return the types that occur, in the order of `TYPES`; mteb has others, which come last."""
    types = dict.fromkeys(map(type_of, keys))
    return [*(type_ for type_ in TYPES if type_ in types), *(type_ for type_ in types if type_ not in TYPES)]
