"""The process group under `torchrun`, or a single process: rank and world size, waiting, and the collectives of a step.

The unique texts of a step are divided over the processes. Each process embeds its share, and `all_gather_rows` gives
every process all embeddings, with gradient. Each process then computes its rows of the loss. In the backward pass the
gradient of an embedding is the sum over the processes that used it, and parameter gradients are summed once a step
(training/train_module.py). So the loss is that of the whole step, whatever the number of processes.

Two kinds of waiting. In a step all processes do the same at the same time, so a collective that takes minutes means
that a process is gone: `start(timeout)` bounds it. While one process tokenises, evaluates or saves, the others may wait
for hours: they do so at `barrier` (heartbeat.py). How all of them end when one fails: failures.py.
"""

import datetime
import math
import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from conan_embed.device import choose_device, local_rank
from conan_embed.distributed import failures
from conan_embed.distributed.heartbeat import HeartbeatBarrier

_TIMEOUT = 10.0  # minutes
_JOIN = datetime.timedelta(minutes=30)  # nodes of a cluster do not start at the same moment

_barrier: HeartbeatBarrier | None = None


def start(device: str | None = None, *, timeout: float | None = None) -> torch.device:
    """Join the process group that torchrun describes in the environment, if any; return this process's device.

    Args:
        device: "cpu", "cuda" or "mps" (Apple); None: what CONAN_EMBED_DEVICE says, else a GPU if there is one. Several
            processes use no mps.
        timeout: minutes after which a collective has failed, or a process without a heartbeat is lost (10 by default;
            a later call may change it).
    """
    global _barrier
    chosen = choose_device(device)
    cuda = chosen.type == "cuda"
    if cuda:
        torch.cuda.set_device(chosen)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        minutes = timeout or _TIMEOUT
        store, me, size = next(dist.rendezvous("env://", timeout=_JOIN))
        store.set_timeout(_JOIN)
        name = _unique_group_name(store, me, size)
        # Tensors on the CPU (the request to stop) are exchanged on GPU machines too.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore(f"{name}/group", store),
            rank=me,
            world_size=size,
            timeout=datetime.timedelta(minutes=minutes),
        )
        failures.watch(dist.PrefixStore(f"{name}/failures", store.clone()), me)
        _barrier = HeartbeatBarrier(dist.PrefixStore(f"{name}/barrier", store), me, size, 60 * minutes)
        dist.barrier()  # all have sent their first heartbeat
    elif timeout is not None and _barrier is not None:
        _barrier.timeout = 60 * timeout
        dist.distributed_c10d._set_pg_timeout(datetime.timedelta(minutes=timeout))
    return chosen


def _unique_group_name(store: dist.Store, rank: int, world_size: int) -> str:
    """Return a name for this process group that no earlier one had.

    torchrun keeps one store through all its restarts, and what an earlier group left there (addresses, failures) must
    not be read by this one. So every process offers a random token, and process 0 answers each token with the name.
    (The restart count in the environment will not do: each node has its own.)
    """
    token = uuid.uuid4().hex
    if rank:
        store.set(f"token/{rank}", token)
        name = store.get(f"answer/{token}").decode()  # waits until it is there
        store.add(f"{name}/answered", 1)
        return name
    while store.add(f"{token}/answered", 0) < world_size - 1:
        for other in range(1, world_size):
            if store.check([f"token/{other}"]):  # perhaps of an earlier group: then nobody reads the answer
                store.set(f"answer/{store.get(f'token/{other}').decode()}", token)
        time.sleep(0.02)
    return token


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


def node_size() -> int:
    """Return the number of processes on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if world_size() > 1 else 1


def is_local_main_process() -> bool:
    # A process alone may have a local rank, too: it says which GPU is its own.
    return world_size() == 1 or local_rank() == 0


def barrier() -> None:
    """Wait until all processes have arrived, however long one of them works alone.

    Raises:
        failures.PeerLost: a process died or was cut off.
    """
    if _barrier is not None:
        _barrier.wait()


def broadcast_on_node(value: str | None) -> str:
    """Return the `value` of this node's local main process to all processes of the node; waits for all nodes.

    Args:
        value: read on the local main process only.
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
    """Return, on every process, whether `statement` is true on all of them."""
    return all_reduce_sum(torch.tensor(float(statement))).item() == world_size()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast_object(value: Any) -> Any:
    """Return the `value` of process 0 on every process (anything small that can be pickled)."""
    holder = [value]
    if world_size() > 1:
        dist.broadcast_object_list(holder)
    return holder[0]


def all_gather_object(value: Any) -> list[Any]:
    """Return the values of all processes, by rank."""
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
