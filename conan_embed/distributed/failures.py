"""An error on one process ends all of them, with the message of that process and no other.

A collective waits for every process, so one that fails alone would leave the others waiting. All of them share the
key-value store of the process group. The first to fail writes its rank and exit status there. A thread of every process
reads it a few times a second and ends its process with the same status, whichever collective it waits in.

A mistake that all processes find (in a recipe, in a file) is reported by process 0: the others give it a moment.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

_KEY = "failed"
_POLL_INTERVAL = 0.2  # seconds, like all below
_EXIT_GRACE = 0.5  # for a process that is ending by itself
_MAIN_FIRST = 1.0  # for process 0 to report what all have found
_LINGER = 2.0  # until the others have seen it
_STORE_TIMEOUT = 5.0  # to write to the store, which a process that was cut off cannot reach

_watch: "_Watch | None" = None


class PeerLost(RuntimeError):
    """Another process of the group died or cannot be reached."""


def watch(store: Any, rank: int) -> None:
    """Watch for failures of other processes; `store` is a torch.distributed store that all of them share."""
    global _watch
    _watch = _Watch(store, rank)


def stop_watching() -> None:
    """Stop the thread of `watch`."""
    global _watch
    if _watch is not None:
        _watch.closed.set()
        _watch.thread.join()
        _watch = None


def exit_all(status: int, report: Callable[[], object]) -> NoReturn:
    """End this process, and with it the group; `report` prints the reason unless another process failed first."""
    if _watch is None:
        report()
        sys.exit(status)
    first, status = _watch.claim(status)
    if first:
        report()
        sys.stderr.flush()
        time.sleep(_LINGER)
    _exit_now(status)


def process_suffix() -> str:
    """Return " on process 3" for messages of a process other than 0, else an empty string."""
    return "" if _watch is None or _watch.rank == 0 else f" on process {_watch.rank}"


def in_group() -> bool:
    """Return whether this process belongs to a group."""
    return _watch is not None


def is_peer_failure(error: BaseException) -> bool:
    """Return whether `error` comes from a collective in which another process was missing."""
    # torch's error classes are known by name: this file is read before every command, and torch is slow to import.
    return isinstance(error, RuntimeError) and (
        any(kind.__name__ in ("PeerLost", "DistError") for kind in type(error).__mro__)
        or bool(
            re.search(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", str(error), re.IGNORECASE)
        )
    )


class _Watch:
    def __init__(self, store: Any, rank: int) -> None:
        self.store, self.rank = store, rank
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._poll, daemon=True)
        self.thread.start()

    def _poll(self) -> None:
        while not self.closed.wait(_POLL_INTERVAL):
            try:
                if not self.store.check([_KEY]):
                    continue
                rank, status = map(int, self.store.get(_KEY).split())
            except RuntimeError:  # the store ended with the process that held it; collectives will notice
                return
            if rank == self.rank:
                return
            if not self.closed.wait(_EXIT_GRACE):
                _exit_now(status)

    def claim(self, status: int) -> tuple[bool, int]:
        """Return whether this process is the first to fail, and the exit status of the one that is."""
        if self.rank:
            time.sleep(_MAIN_FIRST)  # the thread may end the process meanwhile
        answers: list[bytes] = []

        def write() -> None:
            with contextlib.suppress(RuntimeError):
                answers.append(self.store.compare_set(_KEY, "", f"{self.rank} {status}"))

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(_STORE_TIMEOUT)
        if not answers:  # rather reported twice than not at all
            return True, status
        rank, status = map(int, answers[0].split())
        return rank == self.rank, status


def _exit_now(status: int) -> NoReturn:
    """End without clean-up: threads of a broken process group may never return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
