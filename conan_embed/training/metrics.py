"""What a run writes down of itself: `metrics.jsonl` always, TensorBoard by default."""

import json
from pathlib import Path
from typing import Any

from conan_embed.files import read_json_lines, write_text


class MetricsLog:
    """One JSON object a line; opened for a resumed run, it forgets the lines after the checkpoint's step.

    Args:
        folder: the run directory.
        from_step: steps already done; later lines belong to work that a kill undid.
    """

    def __init__(self, folder: Path, *, from_step: int, tensorboard: bool) -> None:
        self._files = {}
        for name in ("metrics", "evaluation", "negatives"):
            path = folder / f"{name}.jsonl"
            kept = [line for line in read_json_lines(path) if line["step"] <= from_step]
            write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
            self._files[name] = path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / "tensorboard", purge_step=from_step + 1)

    def write(self, name: str, line: dict[str, Any]) -> None:
        """Append `line` to `name`.jsonl, without the keys that are None; numbers go to TensorBoard too."""
        line = {key: value for key, value in line.items() if value is not None}
        file = self._files[name]
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        if self._board is not None:
            for key, value in line.items():
                if isinstance(value, int | float) and key != "step":
                    self._board.add_scalar(key if name == "metrics" else f"{name}/{key}", value, line["step"])

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()
