"""The C library's heap: keep large buffers while texts are encoded, return freed ones during training.

Left alone, glibc maps every buffer of more than 32 MB anew and gives it back at once, and lets go of the top of its
heap as soon as that is free; the kernel then fills each page with zeros again. Encoding makes and frees buffers of the
same few sizes for every chunk, so this costs it processor time (benchmarks/encode_speed.py measures how much), which
`keep_buffers` saves. Training steps have buffers of ever new sizes, of which the heap keeps the pieces; there the
opposite helps: `trim` returns them (benchmarks/memory_over_steps.py).

Both do nothing where the C library is not glibc, and `keep_buffers` does nothing where the environment sets malloc's
parameters.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator

# mallopt's parameters, from malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
# What glibc comes to by itself once a large buffer was freed.
_DEFAULTS = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
_ENVIRONMENT = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


@contextlib.contextmanager
def keep_buffers() -> Iterator[None]:
    """Serve large buffers from the heap and keep what is freed; give all of it back at the end."""
    library = _glibc()
    if library is None or any(name in os.environ for name in _ENVIRONMENT):
        yield
        return
    _set(library, _KEEP)
    try:
        yield
    finally:
        _set(library, _DEFAULTS)
        trim()


def _set(library: ctypes.CDLL, parameters: dict[int, int]) -> None:
    for parameter, value in parameters.items():
        library.mallopt(parameter, value)


def trim() -> None:
    """Return freed pages of the heap to the system; takes milliseconds."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
