"""Large buffers are kept while texts are encoded, and not afterwards."""

import resource
import sys

import pytest
import torch

from conan_embed import heap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")

ROUNDS, FLOATS = 8, 16_000_000  # 64 MB a buffer


@pytest.fixture(autouse=True)
def left_alone(monkeypatch):
    for name in heap._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    if heap._glibc() is None:
        pytest.skip("another C library")


def fresh_pages():
    """Return how many pages the kernel had to find for so many buffers, made and freed one by one, after the first."""
    for _ in range(4):  # until the heap has found a place for them
        torch.empty(FLOATS).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        torch.empty(FLOATS).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_buffers_are_kept_inside_and_new_outside():
    pages = ROUNDS * 4 * FLOATS // resource.getpagesize()
    with heap.kept():
        inside = fresh_pages()
    assert inside < pages / 10
    assert fresh_pages() > pages / 2


def test_an_error_ends_it_too():
    with pytest.raises(RuntimeError, match="inside"), heap.kept():
        raise RuntimeError("inside")
    assert fresh_pages() > ROUNDS * 4 * FLOATS // resource.getpagesize() / 2


def test_who_set_glibc_up_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    monkeypatch.setattr(heap, "_set", lambda *_: pytest.fail("changed nevertheless"))
    with heap.kept():
        pass
