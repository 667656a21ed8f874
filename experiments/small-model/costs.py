"""What the small model cost: seconds of everything that was done, tokens of what was trained, a GPU estimate.

WORK/costs.jsonl    one line for each piece of work, also of one that was interrupted: what, seconds, CPU seconds
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.files import read_json_lines

GPU_FLOPS = 989e12  # an H100's dense bfloat16 products, as published
GPU_SHARE = 0.1  # of them: steps of 7,000 tokens are far too small for more
GPU_SECONDS_PER_STEP = 0.1  # at least: launching the kernels of 12 layers, forward, backward and optimizer


@contextmanager
def spent(work: Path, what: str) -> Iterator[None]:
    """Note the seconds, and the CPU seconds of this process, that the block takes, however it ends."""
    started, cpu = time.time(), time.process_time()
    try:
        yield
    finally:
        line = {"what": what, "seconds": time.time() - started, "cpu_seconds": time.process_time() - cpu}
        work.mkdir(parents=True, exist_ok=True)
        with (work / "costs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Cost:
    """One kind of work.

    Attributes:
        pieces: how often it was begun, interruptions included.
        hours: on the clock of a machine that other work shared; cpu_hours: of all cores together.
        steps, tokens: of training; 0 of other work.
    """

    what: str
    pieces: int
    hours: float
    cpu_hours: float
    steps: int = 0
    tokens: int = 0


def read_costs(work: Path) -> list[Cost]:
    """Return the cost of each kind of work, in the order in which it was begun first."""
    lines = read_json_lines(work / "costs.jsonl")
    costs = []
    for what in dict.fromkeys(line["what"] for line in lines):
        own = [line for line in lines if line["what"] == what]
        hours, cpu_hours = (sum(line[key] for line in own) / 3600 for key in ("seconds", "cpu_seconds"))
        pieces = sum(line["seconds"] >= 1 for line in own)  # what was there was only read
        metrics = work / what.removeprefix("train ") / "metrics.jsonl"
        steps = pl.read_ndjson(metrics) if what.startswith("train ") and metrics.exists() else pl.DataFrame()
        tokens = int(steps["tokens"].sum()) if len(steps) else 0
        costs.append(Cost(what, pieces, hours, cpu_hours, len(steps), tokens))
    return costs


def matrix_weights(model: EmbeddingModel) -> int:
    """Return the number of weights that a token is multiplied by."""
    matrices = (
        weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embedding" not in name
    )
    return sum(weight.numel() for weight in matrices)


def gpu_hours(costs: list[Cost], weights: int) -> float:
    """Return the hours on one GPU, calculated.

    Training: 6 operations a token and weight at a tenth of the published rate, and no step faster than its launches.
    Mining and scoring: their CPU hours, as many times faster as training is. What only reads and filters stays as it is.
    """
    training = [cost for cost in costs if cost.tokens]
    seconds = [
        max(6 * weights * cost.tokens / (GPU_FLOPS * GPU_SHARE), cost.steps * GPU_SECONDS_PER_STEP)
        for cost in training
    ]
    cpu_hours = sum(cost.cpu_hours for cost in training)
    faster = cpu_hours / (sum(seconds) / 3600) if cpu_hours else 1.0
    rest = (
        cost.cpu_hours / (faster if cost.what.startswith(("mine", "score")) else 1)
        for cost in costs
        if not cost.tokens
    )
    return sum(seconds) / 3600 + sum(rest)
