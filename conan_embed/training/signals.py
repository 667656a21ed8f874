"""A polite end: SIGTERM (pre-emption) and Ctrl-C become a flag that is read between two steps."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class StopFlag:
    """Set from a signal handler, which must not take a lock (as `threading.Event` does)."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


@contextlib.contextmanager
def stop_requested() -> Iterator[StopFlag]:
    """Yield a flag that SIGTERM and Ctrl-C set while the block runs.

    A second Ctrl-C interrupts at once. (A second SIGTERM does not: batch systems and torchrun both send one.)
    """
    flag = StopFlag()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, _: Any) -> None:
        flag.set()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, handle)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
