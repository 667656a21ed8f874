"""Large buffers are kept while texts are encoded, and not afterwards."""

import json
import os
import subprocess
import sys

import pytest

from conan_embed import heap

pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="a matter of glibc")

# In a process of its own: the heap of one that ran other tests has places of all sizes. 64 MB a buffer, eight of them,
# after the first few, until the heap has found a place for them.
SCRIPT = """
import json, resource, torch
from conan_embed import heap

def fresh_pages():
    for _ in range(16):
        torch.empty(16_000_000).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(16_000_000).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
with heap.kept():
    inside = fresh_pages()
after = fresh_pages()
try:
    with heap.kept():
        raise RuntimeError
except RuntimeError:
    pass
print(json.dumps([inside, after, fresh_pages()]))
"""


def test_buffers_are_kept_inside_and_new_outside_also_after_an_error():
    environment = {name: value for name, value in os.environ.items() if name not in heap._ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    inside, after, after_an_error = json.loads(done.stdout)
    # Pages may be larger than 4 kB, so counts are compared with each other only.
    assert inside < after / 10 and inside < after_an_error / 10


def test_who_set_glibc_up_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    monkeypatch.setattr(heap, "_set", lambda *_: pytest.fail("changed nevertheless"))
    with heap.kept():
        pass
