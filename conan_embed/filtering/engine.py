"""Run a step over all shards: on this machine by Daft's native runner, on a cluster by its Ray runner.

A step is a function of one shard's name that reads and writes files under the output folder (on a cluster: a
folder that all machines see) and returns a few counts. Daft decides who does which shard; it moves no pairs,
so its memory does not grow with the data and a shard that is done stays done.
"""

import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from conan_embed.errors import UserError

Runner = Literal["native", "ray"]
Step = Callable[[int], dict[str, Any]]
_chosen: Runner | None = None


class _Worker:
    """What Daft makes one of in each process; a step's user errors travel as values, since Daft would wrap
    them.
    """

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, shards: Any) -> list[str]:
        answers = []
        for shard in shards.to_pylist():
            try:
                answers.append(json.dumps({"shard": shard, **self.step(shard)}))
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
    # A process has one runner for its life; the first call chooses it.
    global _chosen
    if _chosen is None:
        (daft.set_runner_ray if runner == "ray" else daft.set_runner_native)()
        _chosen = runner
    elif _chosen != runner:
        raise UserError(
            f"this process already runs Daft's {_chosen} runner; start a new one for the {runner} runner."
        )
    return daft


def run_step(
    step: Step, shards: Sequence[int], *, runner: Runner, workers: int, gpus: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Yield what `step` returns for each shard, as they finish (any order), with its `shard`.

    Args:
        step: a function that can be pickled.
        workers: how many run at once, each in a process of its own (one: in a thread of this process).
        gpus: what a worker needs, for Ray to place it.

    Raises:
        UserError: the step raised one; or Daft or Ray is not installed.
    """
    if not shards:
        return
    # One thread of polars a worker: the shards are the parallelism. Read when a worker process
    # starts.
    for name in ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    daft = _import_daft(runner)
    call = daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)(_Worker.__call__)
    worker_class = type("ShardWorker", (), {"__init__": _Worker.__init__, "__call__": call})
    workers = min(workers, len(shards))
    own_process = runner == "ray" or workers > 1
    worker = daft.cls(worker_class, max_concurrency=workers, use_process=own_process, gpus=gpus)(step)
    frame = daft.from_pydict({"shard": list(shards)}).into_batches(1)
    if runner == "ray":
        frame = daft.from_pydict({"shard": list(shards)}).into_partitions(len(shards))
    for row in frame.select(worker(frame["shard"]).alias("answer")).iter_rows():
        answer = json.loads(row["answer"])
        if "user_error" in answer:
            raise UserError(answer["user_error"])
        if "failure" in answer:
            raise RuntimeError(f"a step failed in a worker:\n{answer['failure']}")
        yield answer
