"""The barrier waits for slow processes without end, and not at all for dead ones."""

import threading
import time

import pytest
import torch.distributed as dist

from conan_embed.distributed.failures import PeerLost
from conan_embed.distributed.heartbeat import HeartbeatBarrier

TIMEOUT = 0.6  # seconds


@pytest.fixture
def group():
    """Barriers of two processes, here of two threads, over one store."""
    server = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    barriers = [
        HeartbeatBarrier(dist.TCPStore("127.0.0.1", server.port, 1), rank, 2, TIMEOUT) for rank in range(2)
    ]
    yield barriers
    for barrier in barriers:
        barrier.close()


def test_a_slow_process_is_waited_for_beyond_the_timeout(group):
    arrived = []

    def come_late():
        time.sleep(2.5 * TIMEOUT)
        arrived.append(time.monotonic())
        group[1].wait()

    late = threading.Thread(target=come_late)
    late.start()
    group[0].wait()
    assert arrived and time.monotonic() >= arrived[0]
    late.join()


def test_nobody_passes_before_all_have_arrived_and_rounds_do_not_mix(group):
    passed = [0, 0]

    def pass_through(rank):
        for _ in range(20):
            group[rank].wait()
            passed[rank] += 1
            assert abs(passed[0] - passed[1]) <= 1

    other = threading.Thread(target=pass_through, args=(1,))
    other.start()
    pass_through(0)
    other.join()
    assert passed == [20, 20]


def test_a_process_without_a_heartbeat_is_lost(group):
    group[1].close()
    started = time.monotonic()
    with pytest.raises(PeerLost, match=r"process 1 sent no heartbeat for 0\.01 minutes"):
        group[0].wait()
    assert TIMEOUT <= time.monotonic() - started < 10 * TIMEOUT
