"""Arms side by side, each in a process of its own.

A process does not outlive the one that started it: it saves a checkpoint and leaves.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from conan_embed.ablation.job import Job
from conan_embed.console import console, progress_bar
from conan_embed.errors import UserError
from conan_embed.training.signals import stop_requested

_POLL_INTERVAL = 1.0  # seconds between two looks at the processes, and between two requests to stop
_context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU


def run_in_parallel(pending: Sequence[Job], jobs: int, run_job: Callable[[Job], None]) -> None:
    """Run `jobs` arms at a time; the first that fails, or a request to stop, ends the others with a checkpoint.

    Args:
        run_job: what each process does with its job; importable by name.

    Raises:
        UserError: an arm failed, or somebody asked to stop.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    waiting, running = list(pending), dict[int, tuple[BaseProcess, Job]]()
    free = list(range(jobs))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_requested())
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("arms", total=len(pending), note="")
        stack.callback(_terminate, running)
        while waiting or running:
            while free and (job := next((job for job in waiting if job.ready), None)) is not None:
                waiting.remove(job)
                slot = free.pop(0)
                process: BaseProcess = _context.Process(
                    target=_in_process, args=(run_job, job, slot, threads), daemon=True
                )
                process.start()
                running[slot] = process, job
            assert running, f"nothing to start {waiting[0]} from"
            bar.update(task, note="; ".join(str(job) for _, job in running.values()))
            wait([process.sentinel for process, _ in running.values()], timeout=_POLL_INTERVAL)
            if stop.is_set():
                raise UserError("stopped on request; the same command resumes from the checkpoints.")
            for slot, (process, job) in list(running.items()):
                if process.exitcode is None:
                    continue
                del running[slot]
                free.append(slot)
                if process.exitcode or not job.result.exists():
                    raise UserError(f"{job}: failed; {job.log} ends: {_last_line(job.log)}")
                console.print(f"{job}: done")
                bar.advance(task)


def _terminate(running: dict[int, tuple[BaseProcess, Job]]) -> None:
    for process, _ in running.values():
        process.terminate()  # the training loop saves a checkpoint and ends
    for process, _ in running.values():
        process.join()


def _in_process(run_job: Callable[[Job], None], job: Job, slot: int, threads: int) -> None:
    """Run a job as one of several processes; its output goes to the job's log."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(slot % torch.cuda.device_count())
    try:
        run_job(job)
    except UserError as error:
        console.print(f"error {error}", soft_wrap=True, markup=False)
        sys.exit(2)


def _exit_with_parent() -> None:
    """Ask this process to stop when the one that started it has ended, in whatever way."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while True:  # more than once: the loop may just have looked for the last time
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_POLL_INTERVAL)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "(nothing)").removeprefix("error ")
