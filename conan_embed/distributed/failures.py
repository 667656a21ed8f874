"""An error on one process ends all of them, with that process's message and no other.

A collective waits for every process, so one that fails alone would leave the others waiting. All of them share the
key-value store in which they met. Who fails first writes its rank and exit status there; a thread of every process
looks there a few times a second, and ends its process with the same status when it finds something. So it does not
matter in which collective the others stand.

What all processes find wrong alike (a recipe, a file) is said by the first of them: the others give it a moment.
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
_LOOK_EVERY = 0.2  # seconds
_GRACE = 0.5  # for a process that is ending by itself
_MOMENT = 1.0  # for the first process to say what all have found
_LINGER = 2.0  # until the others have seen it
_LAST_WORDS = 5.0  # to write to the store; whoever is cut off cannot reach it

_watch: "_Watch | None" = None


class Lost(RuntimeError):
    """Another process of the group died or cannot be reached."""


def watch(store: Any, rank: int) -> None:
    """Begin to watch for failures of other processes; `store` is a torch.distributed store that all of them see."""
    global _watch
    _watch = _Watch(store, rank)


def stop_watching() -> None:
    global _watch
    if _watch is not None:
        _watch.closed.set()
        _watch.thread.join()
        _watch = None


def end(status: int, say: Callable[[], object]) -> NoReturn:
    """End this process; `say` says why, unless another process was first to fail."""
    if _watch is None:
        say()
        sys.exit(status)
    first, status = _watch.claim(status)
    if first:
        say()
        sys.stderr.flush()
        time.sleep(_LINGER)
    _leave(status)


def where() -> str:
    """Return " on process 3" for an error of a process that is not the first, else nothing."""
    return "" if _watch is None or _watch.rank == 0 else f" on process {_watch.rank}"


def several() -> bool:
    """Return whether this process belongs to a group."""
    return _watch is not None


def lost_another(error: BaseException) -> bool:
    """Return whether `error` comes from a collective in which another process was missing."""
    # torch's error classes are known by name: this file is read before every command, and torch is slow to import.
    return isinstance(error, RuntimeError) and (
        any(kind.__name__ in ("Lost", "DistError") for kind in type(error).__mro__)
        or bool(
            re.search(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", str(error), re.IGNORECASE)
        )
    )


class _Watch:
    def __init__(self, store: Any, rank: int) -> None:
        self.store, self.rank = store, rank
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.closed.wait(_LOOK_EVERY):
            try:
                if not self.store.check([_KEY]):
                    continue
                rank, status = map(int, self.store.get(_KEY).split())
            except RuntimeError:  # the store is gone: whoever kept it has ended, and collectives will say so
                return
            if rank == self.rank:
                return
            if not self.closed.wait(_GRACE):
                _leave(status)

    def claim(self, status: int) -> tuple[bool, int]:
        """Return whether this process is the first to fail, and the exit status of whoever is."""
        if self.rank:
            time.sleep(_MOMENT)  # the thread may end the process meanwhile
        answers: list[bytes] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):
                answers.append(self.store.compare_set(_KEY, "", f"{self.rank} {status}"))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_LAST_WORDS)
        if not answers:  # rather said twice than not at all
            return True, status
        rank, status = map(int, answers[0].split())
        return rank == self.rank, status


def _leave(status: int) -> NoReturn:
    """End without tidying up: threads of a broken process group may never come back."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
