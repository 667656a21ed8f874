"""Tasks of a benchmark shared by processes: one that takes longer than the group's timeout loses nobody."""

import json
import time
from pathlib import Path

import pytest

from conan_embed.distributed import collectives
from conan_embed.evaluation import benchmarks
from tests.support.evaluation_fakes import small_tables, write_tables
from tests.support.many_processes import start_world
from tests.tiny_models import make_tiny_model

pytest.importorskip("mteb")
TIMEOUT = 4.0  # seconds


def evaluate_slowly(folder: Path) -> None:
    """Evaluate two tasks, the second of which takes more than twice the timeout of the group."""
    collectives.start("cpu", timeout=TIMEOUT / 60)
    compute = benchmarks._compute_task

    def compute_slowly(*arguments):
        if collectives.rank() == 1:
            time.sleep(2.5 * TIMEOUT)
        return compute(*arguments)

    benchmarks._compute_task = compute_slowly
    result = benchmarks.evaluate_benchmark(make_tiny_model("bert"), folder / "out", local=folder / "sets")
    (folder / f"{collectives.rank()}.json").write_text(json.dumps(result.to_json()))


def test_a_task_may_outlast_the_timeout_of_the_group(tmp_path):
    tables = {key: rows for key, rows in small_tables().items() if key.startswith("sts")}
    write_tables(tmp_path / "sets", tables)
    started = time.monotonic()
    assert start_world(2, evaluate_slowly, tmp_path) == [0, 0]
    assert time.monotonic() - started > 2 * TIMEOUT
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert set(first["tasks"]) == {"sts/Small", "sts/Other"} and first["missing"] == []
    assert first == second
