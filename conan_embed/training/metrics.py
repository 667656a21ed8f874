"""The logs of a run: metrics.jsonl, evaluation.jsonl and negatives.jsonl, and its trackers (trackers.py)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from conan_embed.files import read_json_lines, write_json_lines, writing
from conan_embed.training.trackers import Tracker

_NAMES = ("metrics", "evaluation", "negatives")


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
        numbers = {
            key if name == "metrics" else f"{name}/{key}": value
            for key, value in row.items()
            if isinstance(value, int | float) and key != "step"
        }
        if name == "evaluation":
            numbers = {f"evaluation/{key}": value for key, value in row["summary"].items()}
        for tracker in self._trackers:
            with writing(f"{type(tracker).__name__.strip('_')}: the files of this tracker"):
                tracker.log(numbers, row["step"])

    def close(self) -> None:
        for file in self._files.values():
            with writing(file.name):
                file.close()
        for tracker in self._trackers:
            tracker.close()
