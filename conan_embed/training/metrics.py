"""The logs of a run: metrics.jsonl, evaluation.jsonl and negatives.jsonl, and its trackers (trackers.py)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from conan_embed.evaluation.results import summarise
from conan_embed.files import read_json_lines, write_json_lines, writing
from conan_embed.training.trackers import Tracker

_NAMES = ("metrics", "evaluation", "negatives")


def evaluation_numbers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return what trackers show of an evaluation, from the JSON form of its tasks (`EvaluationResult.to_json`).

    Means of the types and over them, each set's main score, and both again at each Matryoshka width, in groups of
    their own. No name is the beginning of another: some trackers keep a number as a file and a group as a folder.

    Example:
        >>> task = {"main_score": 0.5, "metric": "cosine_spearman", "widths": {"64": 0.4}}
        >>> sorted(evaluation_numbers({"sts/A": task}))  # doctest: +NORMALIZE_WHITESPACE
        ['evaluation/average', 'evaluation/average_of_tasks', 'evaluation/sts', 'evaluation_at_64/average',
         'evaluation_at_64/average_of_tasks', 'evaluation_at_64/sts', 'evaluation_sets/sts/A',
         'evaluation_sets_at_64/sts/A']
    """
    widths = {width for task in results.values() for width in task.get("widths", {})}
    scores_by_suffix = {"": {key: task["main_score"] for key, task in results.items()}} | {
        f"_at_{width}": {key: task["widths"][width] for key, task in results.items()}
        for width in sorted(widths, key=int, reverse=True)
    }
    numbers: dict[str, float] = {}
    for suffix, scores in scores_by_suffix.items():
        numbers |= {f"evaluation{suffix}/{name}": mean for name, mean in summarise(scores).items()}
        numbers |= {f"evaluation_sets{suffix}/{key}": score for key, score in scores.items()}
    return numbers


def _numbers(name: str, row: Mapping[str, Any]) -> dict[str, float]:
    prefix = "" if name == "metrics" else f"{name}/"
    return {
        prefix + key: value for key, value in row.items() if isinstance(value, int | float) and key != "step"
    }


class Log(Protocol):
    """Takes one object at a time, by the name of its file."""

    def write(self, name: str, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class NoLog:
    """The log of a process that is not the main one."""

    def write(self, name: str, row: dict[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MetricsLog:
    """One JSON object a line; opened for a resumed run, it forgets the lines after the checkpoint's step.

    Args:
        folder: the run directory.
        from_step: steps already done; later lines belong to work that a kill undid.
        trackers: get every number too; closed with the log.
    """

    def __init__(self, folder: Path, *, from_step: int, trackers: Sequence[Tracker]) -> None:
        self._files = {}
        for name in _NAMES:
            path = folder / f"{name}.jsonl"
            write_json_lines(path, [row for row in read_json_lines(path) if row["step"] <= from_step])
            self._files[name] = path.open("a", encoding="utf-8")
        self._trackers = trackers

    def write(self, name: str, row: dict[str, Any]) -> None:
        """Append `row` to `name`.jsonl, without the keys that are None; numbers go to the trackers too.

        Raises:
            UserError: the disk is full.
        """
        row = {key: value for key, value in row.items() if value is not None}
        file = self._files[name]
        with writing(file.name):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
        numbers = evaluation_numbers(row["results"]) if name == "evaluation" else _numbers(name, row)
        for tracker in self._trackers:
            with writing(f"{type(tracker).__name__.strip('_')}: the files of this tracker"):
                tracker.log(numbers, row["step"])

    def close(self) -> None:
        for file in self._files.values():
            with writing(file.name):
                file.close()
        for tracker in self._trackers:
            tracker.close()
