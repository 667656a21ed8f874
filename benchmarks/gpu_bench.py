"""What the parts of benchmarks/gpu.sh share: device, sizes, clock, and how a result is printed."""

import argparse
import gc
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_models import MAX_LENGTH, NEGATIVES, model_folder, rows

if TYPE_CHECKING:
    from benchmarks.stepping import Stepping


class Bench:
    """Where and how large."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.small: bool = arguments.small
        self.folder: Path = arguments.folder
        self.argument: str = arguments.argument
        self.cuda = self.device.type == "cuda"
        self.few, self.many = (4, 8) if self.small else (64, 1024)  # queries of a step

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], *, limit: float = 2.0, most: int = 30) -> float:
        """Return the median seconds of `work`, after two calls to warm up."""
        for _ in range(2):
            work()
        self.wait()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < limit and len(times) < most):
            started = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - started)
        return median(times)

    def reset_peak(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 1e9 if self.cuda else None

    def rows(self) -> Path:
        """Return the file of the rows that all parts train on; the first that asks writes it."""
        path = self.folder / f"rows-{self.many}.parquet"
        if not path.exists():
            aside = path.with_suffix(".tmp")
            rows(self.many).write_parquet(aside)
            aside.rename(path)
        return path

    def stepping(self, size: str, queries: int, **training: Any) -> AbstractContextManager["Stepping"]:
        """Return a model in training on those rows, which are tokenised once for all parts."""
        from benchmarks.stepping import stepping

        return stepping(
            model_folder(size, self.folder),
            self.rows(),
            queries=queries,
            negatives=NEGATIVES,
            max_length=MAX_LENGTH,
            device=self.device,
            cache=self.folder / "cache",
            **training,
        )


def say(**facts: Any) -> None:
    """Print one result."""
    print(json.dumps(facts), flush=True)
