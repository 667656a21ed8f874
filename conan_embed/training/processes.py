"""Several processes under `torchrun`, or one: who we are, and the two collectives that a step needs.

A step's unique texts are shared out, each process embeds its share, and `gather_rows` gives every process all
embeddings, with gradient. Each process then works out its rows of the loss. Backwards, the gradient of an embedding is
the sum over the processes that used it, and parameter gradients are summed once a step (trainee.py). So the loss is
that of the whole step, however many processes there are.
"""

import datetime
import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from conan_embed.training import failures


def start(device: str | None = None) -> torch.device:
    """Join the process group that torchrun describes in the environment, if any; return this process's device."""
    cuda = torch.cuda.is_available() if device is None else device == "cuda"
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    chosen = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(chosen)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        # Tensors on the CPU (the request to stop) are exchanged on GPU machines too. Processes may wait long for the
        # first one, while it tokenises or evaluates.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        timeout = datetime.timedelta(hours=12)
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        meeting = _meeting(store, rank, world_size)
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"{meeting}/group", store),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
        failures.watch(dist.PrefixStore(f"{meeting}/failures", store.clone()), rank)
    return chosen


def _meeting(store: dist.Store, rank: int, world_size: int) -> str:
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
    failures.stop_watching()
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return rank() == 0


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def from_first(value: Any) -> Any:
    """Return what the first process gave (anything small that can be pickled)."""
    holder = [value]
    if world_size() > 1:
        dist.broadcast_object_list(holder)
    return holder[0]


def gathered(value: Any) -> list[Any]:
    """Return what every process gave, in their order."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def my_rows(total: int) -> tuple[int, int]:
    """Return start and stop of this process's share of `total` rows."""
    return total * rank() // world_size(), total * (rank() + 1) // world_size()


def gather_rows(local: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return the rows of all processes, one process after the other, with gradient.

    Args:
        local: float [counts[rank], D].
        counts: rows of every process; any of them may be 0.
    """
    return local if world_size() == 1 else _GatherRows.apply(local, list(counts))


class _GatherRows(torch.autograd.Function):
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
