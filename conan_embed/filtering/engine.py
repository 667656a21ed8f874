"""Run a step over all shards: on this machine by Daft's native runner, on a cluster by its Ray runner.

A step is a function of a shard's number that reads and writes files under the output folder (on a cluster, one that all
machines see) and returns two counts. Daft assigns shards to workers. It moves no pairs, so its memory does not grow
with the data, and finished shards stay finished.
"""

import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from conan_embed.errors import UserError

Runner = Literal["native", "ray"]


@dataclass(frozen=True)
class Progress:
    """What a step returns: the pairs of its shard before and after."""

    rows: int
    kept: int


Step = Callable[[int], Progress]
_active_runner: Runner | None = None


class _Worker:
    """Daft makes one in each process. A step's errors are returned as values, since Daft would wrap them."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, shards: Any) -> list[str]:
        answers = []
        for shard in shards.to_pylist():
            try:
                answers.append(json.dumps({"progress": asdict(self.step(shard))}))
            except UserError as error:
                answers.append(json.dumps({"user_error": str(error)}))
            except Exception:
                answers.append(json.dumps({"failure": traceback.format_exc()}))
        return answers


def _import_daft(runner: Runner) -> Any:
    # Daft and Ray report imports and runs to their makers unless told not to before they are imported.
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
    os.environ["SCARF_NO_ANALYTICS"] = "1"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    try:
        import daft
    except ImportError:
        raise UserError("filtering needs Daft: pip install 'conan-embed[filter]'.") from None
    if runner == "ray":
        try:
            import ray  # noqa: F401
        except ImportError:
            raise UserError("the Ray runner needs Ray: pip install 'conan-embed[filter-ray]'.") from None
    # A process keeps its first runner for life.
    global _active_runner
    if _active_runner is None:
        (daft.set_runner_ray if runner == "ray" else daft.set_runner_native)()
        _active_runner = runner
    elif _active_runner != runner:
        raise UserError(
            f"this process already runs Daft's {_active_runner} runner; start a new one for the {runner} runner."
        )
    return daft


def run_step(step: Step, shards: Sequence[int], *, runner: Runner, workers: int) -> Iterator[Progress]:
    """Yield what `step` returns for each shard, in the order in which they finish.

    Args:
        step: a function that can be pickled.
        workers: how many run at once, each in a process of its own (a single one: in a thread of this process).

    Raises:
        UserError: the step raised one; or Daft or Ray is not installed.
    """
    if not shards:
        return
    # One polars thread per worker, since shards run in parallel; read when a worker process starts.
    for name in ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    daft = _import_daft(runner)
    call = daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)(_Worker.__call__)
    worker_class = type("ShardWorker", (), {"__init__": _Worker.__init__, "__call__": call})
    workers = min(workers, len(shards))
    own_process = runner == "ray" or workers > 1
    worker = daft.cls(worker_class, max_concurrency=workers, use_process=own_process)(step)
    frame = daft.from_pydict({"shard": list(shards)}).into_batches(1)
    if runner == "ray":
        frame = daft.from_pydict({"shard": list(shards)}).into_partitions(len(shards))
    for row in frame.select(worker(frame["shard"]).alias("answer")).iter_rows():
        answer = json.loads(row["answer"])
        if "user_error" in answer:
            raise UserError(answer["user_error"])
        if "failure" in answer:
            raise RuntimeError(f"a step failed in a worker:\n{answer['failure']}")
        yield Progress(**answer["progress"])
