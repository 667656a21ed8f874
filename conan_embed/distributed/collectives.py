"""Several processes under `torchrun`, or one: who we are, how we wait, and the collectives that a step needs.

A step's unique texts are shared out, each process embeds its share, and `all_gather_rows` gives every process all
embeddings, with gradient. Each process then works out its rows of the loss. Backwards, the gradient of an embedding is
the sum over the processes that used it, and parameter gradients are summed once a step (train_module.py). So the loss
is that of the whole step, however many processes there are.

Two kinds of waiting. In a step all do the same at the same time, so a collective that takes minutes means that a
process is gone: `start(timeout)` bounds it. While one process tokenises, evaluates or saves, the others may wait for
hours: `barrier` asks the store of the process group instead, where every process leaves a sign of life, so that
even the longest wait ends soon after somebody died or was cut off. How all of them end then: failures.py.
"""

import contextlib
import datetime
import itertools
import math
import os
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from conan_embed.distributed import failures

_TIMEOUT = 10.0  # minutes
_JOIN = datetime.timedelta(minutes=30)  # nodes of a cluster start one after the other
_BEATS = 10  # signs of life in one timeout,
_LONGEST_BEAT = 5.0  # and never more seconds between two


class HeartbeatBarrier:
    """Where the processes of a group meet outside of collectives: a part of the group's store, and signs of life.

    Args:
        store: keys that only this start of the group uses.
        timeout: seconds without a sign of life after which a process counts as lost.
    """

    def __init__(self, store: dist.Store, timeout: float) -> None:
        self.store, self.timeout = store, timeout
        self._turn = itertools.count()
        self._seen = [(0, time.monotonic())] * world_size()  # last sign of each process, and when it came
        self._stopped = threading.Event()
        store.add(f"alive/{rank()}", 1)
        # A connection of its own: a store serves one call of a process at a time.
        self._life = threading.Thread(target=self._live, args=(store.clone(),), daemon=True)  # type: ignore[attr-defined]
        self._life.start()

    def _live(self, store: dist.Store) -> None:
        with contextlib.suppress(dist.DistError):  # the others will miss the sign, and we find out ourselves
            while not self._stopped.wait(self._beat):
                store.add(f"alive/{rank()}", 1)

    @property
    def _beat(self) -> float:
        return min(self.timeout / _BEATS, _LONGEST_BEAT)

    def close(self) -> None:
        self._stopped.set()
        self._life.join(_LONGEST_BEAT)

    def wait(self) -> int:
        """Wait until all processes have come here; return the number of this meeting.

        Raises:
            failures.Lost: one gave no sign of life for `timeout`.
        """
        turn = next(self._turn)
        if self.store.add(f"came/{turn}", 1) == world_size():
            self.store.set(f"all/{turn}", "")
        pause, looked = 0.001, time.monotonic()
        self._seen = [(sign, looked) for sign, _ in self._seen]
        while not self.store.check([f"all/{turn}"]):
            time.sleep(pause)
            pause = min(1.5 * pause, 0.5)
            if time.monotonic() - looked > self._beat:
                looked = time.monotonic()
                self._look_around()
        return turn

    def _look_around(self) -> None:
        signs = [int(sign) for sign in self.store.multi_get([f"alive/{r}" for r in range(world_size())])]
        now = time.monotonic()
        self._seen = [
            (sign, now if sign != before else when)
            for sign, (before, when) in zip(signs, self._seen, strict=True)
        ]
        silent = [number for number, (_, when) in enumerate(self._seen) if now - when > self.timeout]
        if silent:
            raise failures.Lost(f"process {silent[0]} gave no sign of life for {self.timeout / 60:g} minutes")


_barrier: HeartbeatBarrier | None = None


def start(device: str | None = None, *, timeout: float | None = None) -> torch.device:
    """Join the process group that torchrun describes in the environment, if any; return this process's device.

    Args:
        timeout: minutes after which a collective, or a process without a sign of life, counts as lost (10 unless told;
            may be told later, by another call).
    """
    global _barrier
    cuda = torch.cuda.is_available() if device is None else device == "cuda"
    chosen = torch.device("cuda", local_rank()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(chosen)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        minutes = timeout or _TIMEOUT
        store, me, size = next(dist.rendezvous("env://", timeout=_JOIN))
        store.set_timeout(_JOIN)
        name = _name_of_meeting(store, me, size)
        # Tensors on the CPU (the request to stop) are exchanged on GPU machines too.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore(f"{name}/group", store),
            rank=me,
            world_size=size,
            timeout=datetime.timedelta(minutes=minutes),
        )
        failures.watch(dist.PrefixStore(f"{name}/failures", store.clone()), me)
        _barrier = HeartbeatBarrier(dist.PrefixStore(f"{name}/meeting", store), 60 * minutes)
        dist.barrier()  # all have left their first sign of life
    elif timeout is not None and _barrier is not None:
        _barrier.timeout = 60 * timeout
        dist.distributed_c10d._set_pg_timeout(datetime.timedelta(minutes=timeout))
    return chosen


def _name_of_meeting(store: dist.Store, rank: int, world_size: int) -> str:
    """Return a name for this meeting of the processes that no earlier one had.

    torchrun keeps one store through all its restarts, and what an earlier group left there, addresses and failures,
    must not be taken for this one's. So every process shows a fresh word of its own, and the first answers it with the
    name. (The restart count in the environment will not do: it is each node's own.)
    """
    word = uuid.uuid4().hex
    if rank:
        store.set(f"word/{rank}", word)
        name = store.get(f"answer/{word}").decode()  # waits until it is there
        store.add(f"{name}/answered", 1)
        return name
    while store.add(f"{word}/answered", 0) < world_size - 1:
        for other in range(1, world_size):
            if store.check([f"word/{other}"]):  # perhaps of an earlier meeting: then nobody hears the answer
                store.set(f"answer/{store.get(f'word/{other}').decode()}", word)
        time.sleep(0.02)
    return word


def stop() -> None:
    """Leave the process group."""
    global _barrier
    failures.stop_watching()
    if _barrier is not None:
        _barrier.close()
        _barrier = None
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    return rank() == 0


def local_rank() -> int:
    """Return this process's number on its node (without torchrun all processes are of one node)."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def node_size() -> int:
    """Return how many processes there are on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_local_main_process() -> bool:
    return local_rank() == 0


def barrier() -> None:
    """Wait until all processes have come here, however long one of them works alone.

    Raises:
        failures.Lost: one died or was cut off.
    """
    if _barrier is not None:
        _barrier.wait()


def broadcast_on_node(value: str | None) -> str:
    """Return the `value` of the first process of this node to all processes of the node; waits for all nodes.

    Args:
        value: the others' is not looked at.
    """
    if _barrier is None:
        assert value is not None
        return value
    key = f"node/{os.environ.get('GROUP_RANK', 0)}"
    if is_local_main_process():
        assert value is not None
        _barrier.store.set(key, value)
    _barrier.wait()
    value = _barrier.store.get(key).decode()
    _barrier.wait()  # before the key is used again
    return value


def all_true(statement: bool) -> bool:
    """Is `statement` true on every process? The answer is the same on all of them."""
    return all_reduce_sum(torch.tensor(float(statement))).item() == world_size()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast_object(value: Any) -> Any:
    """Return what the first process gave (anything small that can be pickled)."""
    holder = [value]
    if world_size() > 1:
        dist.broadcast_object_list(holder)
    return holder[0]


def all_gather_object(value: Any) -> list[Any]:
    """Return what every process gave, in their order."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def rank_slice(total: int) -> tuple[int, int]:
    """Return start and stop of this process's share of `total` rows."""
    return slice_of(total, rank())


def slice_of(total: int, process: int) -> tuple[int, int]:
    """Return start and stop of a process's share of `total` rows."""
    return total * process // world_size(), total * (process + 1) // world_size()


def all_gather_rows(local: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return the rows of all processes, one process after the other, with gradient.

    Args:
        local: float [counts[rank], D].
        counts: rows of every process; any of them may be 0.
    """
    return local if world_size() == 1 else _AllGatherRows.apply(local, list(counts))


def all_gather_array(local: np.ndarray, total: int) -> np.ndarray:
    """Return the rows of all processes in order, where each has the rows `rank_slice(total)` of an array."""
    if world_size() == 1:
        return local
    counts = [stop - start for start, stop in (slice_of(total, number) for number in range(world_size()))]
    rows = torch.from_numpy(np.ascontiguousarray(local)).reshape(len(local), math.prod(local.shape[1:]))
    return all_gather_rows(rows, counts).numpy().reshape(total, *local.shape[1:])


class _AllGatherRows(torch.autograd.Function):
    """Unequal shares are padded to the largest for the exchange; the gradient is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.counts = counts
        longest = max(counts)
        padded = torch.cat([local, local.new_zeros(longest - len(local), local.shape[1])])
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded.contiguous())
        return torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        start = sum(ctx.counts[: rank()])
        return gradient[start : start + ctx.counts[rank()]], None
