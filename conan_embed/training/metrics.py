"""What a run writes down of itself: JSON lines always, and whatever trackers it has (trackers.py)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conan_embed.files import read_json_lines, write_text
from conan_embed.training.trackers import Tracker


class MetricsLog:
    """One JSON object a line; opened for a resumed run, it forgets the lines after the checkpoint's step.

    Args:
        folder: the run directory.
        from_step: steps already done; later lines belong to work that a kill undid.
        trackers: get every number too; closed with the log.
    """

    def __init__(self, folder: Path, *, from_step: int, trackers: Sequence[Tracker]) -> None:
        self._files = {}
        for name in ("metrics", "evaluation", "negatives"):
            path = folder / f"{name}.jsonl"
            kept = [line for line in read_json_lines(path) if line["step"] <= from_step]
            write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
            self._files[name] = path.open("a", encoding="utf-8")
        self._trackers = trackers

    def write(self, name: str, line: dict[str, Any]) -> None:
        """Append `line` to `name`.jsonl, without the keys that are None; numbers go to the trackers too."""
        line = {key: value for key, value in line.items() if value is not None}
        file = self._files[name]
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        numbers = {
            key if name == "metrics" else f"{name}/{key}": value
            for key, value in line.items()
            if isinstance(value, int | float) and key != "step"
        }
        if name == "evaluation":
            numbers = {f"evaluation/{key}": value for key, value in line["summary"].items()}
        for tracker in self._trackers:
            tracker.log(numbers, line["step"])

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        for tracker in self._trackers:
            tracker.close()
