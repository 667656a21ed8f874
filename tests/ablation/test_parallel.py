"""Jobs in processes of their own: at most so many at a time, each after what it starts from, none left behind."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conan_embed.ablation import parallel
from conan_embed.ablation.arms import Arm
from conan_embed.ablation.job import Job
from conan_embed.ablation.parallel import run_in_parallel
from conan_embed.device import choose_device
from conan_embed.distributed import collectives
from conan_embed.errors import UserError


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """These processes do nothing that a forked one could not, and start at once."""
    monkeypatch.setattr(parallel, "_context", multiprocessing.get_context("fork"))
    monkeypatch.setattr(parallel, "_POLL_INTERVAL", 0.05)


def job(folder: Path, name: str, after: Job | None = None) -> Job:
    recipe = SimpleNamespace(output=str(folder / name / "seed-0"))
    return Job(Arm(name, ()), 0, recipe, None, after and after.result)  # type: ignore[arg-type]


def write_span(job: Job) -> None:
    """Note when this job ran; what it starts from must be there."""
    assert job.ready
    start = time.monotonic()
    time.sleep(0.1)
    job.result.with_suffix(".tmp").write_text(f"{start} {time.monotonic()}")
    job.result.with_suffix(".tmp").rename(job.result)


def span(job: Job) -> tuple[float, float]:
    start, end = map(float, job.result.read_text().split())
    return start, end


@pytest.mark.parametrize("at_a_time", [1, 2, 9])
def test_no_more_jobs_run_at_once_than_asked_for_and_each_after_its_base(
    tmp_path: Path, at_a_time: int
) -> None:
    base = job(tmp_path, "基")
    jobs = [job(tmp_path, "later", base), base, *(job(tmp_path, f"other{number}") for number in range(3))]
    run_in_parallel(jobs, at_a_time, write_span)
    spans = [span(each) for each in jobs]
    assert spans[0][0] >= spans[1][1], "it starts from the model of the other"
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) <= at_a_time


def test_nothing_to_run_ends_at_once_and_a_base_that_never_comes_is_no_endless_wait(tmp_path: Path) -> None:
    run_in_parallel([], 2, write_span)
    with pytest.raises(AssertionError, match="nothing to start later, seed 0 from"):
        run_in_parallel([job(tmp_path, "later", job(tmp_path, "absent"))], 2, write_span)


def note_device(job: Job) -> None:
    """Read data as a job does, and note the GPU of this process."""
    assert collectives.is_local_main_process() and collectives.node_size() == 1
    time.sleep(0.2)  # so that both GPUs are taken
    job.result.write_text(str(choose_device()))


def test_jobs_side_by_side_take_different_gpus_and_are_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONAN_EMBED_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    jobs = [job(tmp_path, name) for name in ("one", "two", "three", "four")]
    run_in_parallel(jobs, 2, note_device)
    devices = [each.result.read_text() for each in jobs]
    assert set(devices) == {"cuda:0", "cuda:1"}
    assert devices[0] != devices[1] and devices[2] != devices[3]


def fail(job: Job) -> None:
    """`slow` waits to be ended; the others fail in their own ways."""
    if job.arm.name == "slow":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process has its parent's
        time.sleep(20)
    os.write(1, "read 模型\n".encode())
    if job.arm.name == "killed":
        os.kill(os.getpid(), 9)
    if job.arm.name == "exit":
        sys.exit(3)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("killed", "read 模型"),
        ("exit", "read 模型"),
        ("without a result", "read 模型"),
    ],
)
def test_a_job_that_fails_ends_the_others_and_its_last_words_are_said(
    tmp_path: Path, name: str, last: str
) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"{name}, seed 0: failed; .*seed-0\.log ends: {last}$"):
        run_in_parallel([job(tmp_path, "slow"), job(tmp_path, name), job(tmp_path, "next")], 2, fail)
    assert time.monotonic() - started < 15 and not multiprocessing.active_children()
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize(
    ("log", "last"),
    [
        (b"one\ntwo\n\n  \n", "two"),
        (b"error no model\n", "no model"),
        (b"", "(nothing)"),
        ("未完".encode()[:-1], "未\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_the_last_words_of_a_log_are_its_last_line_that_is_not_empty(
    tmp_path: Path, log: bytes, last: str
) -> None:
    (tmp_path / "log").write_bytes(log)
    assert parallel._last_line(tmp_path / "log") == last
    assert parallel._last_line(tmp_path / "absent") == "(nothing)"
