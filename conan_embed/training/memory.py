"""Give freed memory back to the operating system.

Every step has another number of tokens, so its buffers have other sizes, and glibc keeps the pieces of freed ones: a
run that needs 0.6 GB held 1.2 GB after 24 steps, and went on growing (docs/log.md). A trim costs milliseconds.
"""

import ctypes
import ctypes.util
from collections.abc import Callable


def _find_trim() -> Callable[[int], int] | None:
    name = ctypes.util.find_library("c")
    return getattr(ctypes.CDLL(name), "malloc_trim", None) if name else None


_trim = _find_trim()


def give_back_freed() -> None:
    """Return freed heap pages to the system, where the C library can (glibc)."""
    if _trim is not None:
        _trim(0)
