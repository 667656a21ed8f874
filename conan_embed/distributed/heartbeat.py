"""A barrier that is patient with slow processes and quick to notice dead ones.

A collective that takes minutes means that a process is gone, so collectives have a timeout. But while one process
tokenises, evaluates or saves, the others may have to wait for hours. They wait at this barrier: a counter in the key
value store of the process group, where every process also leaves a heartbeat. A process whose heartbeat stops is lost,
and then the wait ends.
"""

import contextlib
import itertools
import threading
import time

import torch.distributed as dist

from conan_embed.distributed.failures import PeerLost

_BEATS_PER_TIMEOUT = 10
_LONGEST_INTERVAL = 5.0  # seconds between two heartbeats


class HeartbeatBarrier:
    """The barrier of one process group.

    Args:
        store: keys that only this start of the group uses.
        rank, world_size: of this process in the group.
        timeout: seconds without a heartbeat after which a process counts as lost.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout: float) -> None:
        self.store, self.timeout = store, timeout
        self._key, self._keys = f"alive/{rank}", [f"alive/{other}" for other in range(world_size)]
        self._round = itertools.count()
        self._last_seen = [
            (0, time.monotonic())
        ] * world_size  # last heartbeat of each process, and when it changed
        self._closed = threading.Event()
        store.add(self._key, 1)
        # A connection of its own: a store serves one call of a process at a time.
        self._thread = threading.Thread(target=self._send_heartbeats, args=(store.clone(),), daemon=True)  # type: ignore[attr-defined]
        self._thread.start()

    def _send_heartbeats(self, store: dist.Store) -> None:
        with contextlib.suppress(
            dist.DistError
        ):  # the others will miss it, and this process finds out by itself
            while not self._closed.wait(self._interval):
                store.add(self._key, 1)

    @property
    def _interval(self) -> float:
        return min(self.timeout / _BEATS_PER_TIMEOUT, _LONGEST_INTERVAL)

    def close(self) -> None:
        """Stop the heartbeat."""
        self._closed.set()
        self._thread.join(_LONGEST_INTERVAL)

    def wait(self) -> None:
        """Wait until all processes have arrived.

        Raises:
            PeerLost: a process had no heartbeat for `timeout` seconds.
        """
        number = next(self._round)
        if self.store.add(f"arrived/{number}", 1) == len(self._keys):
            self.store.set(f"complete/{number}", "")
        pause, checked = 0.001, time.monotonic()
        self._last_seen = [(beat, checked) for beat, _ in self._last_seen]
        while not self.store.check([f"complete/{number}"]):
            time.sleep(pause)
            pause = min(1.5 * pause, 0.5)
            if time.monotonic() - checked > self._interval:
                checked = time.monotonic()
                self._check_heartbeats()

    def _check_heartbeats(self) -> None:
        beats = [int(beat) for beat in self.store.multi_get(self._keys)]
        now = time.monotonic()
        self._last_seen = [
            (beat, now if beat != before else when)
            for beat, (before, when) in zip(beats, self._last_seen, strict=True)
        ]
        lost = [rank for rank, (_, when) in enumerate(self._last_seen) if now - when > self.timeout]
        if lost:
            raise PeerLost(f"process {lost[0]} sent no heartbeat for {self.timeout / 60:g} minutes")
