"""Several processes under `torchrun`, or one: who we are, how we wait, and the collectives that a step needs.

A step's unique texts are shared out, each process embeds its share, and `gather_rows` gives every process all
embeddings, with gradient. Each process then works out its rows of the loss. Backwards, the gradient of an embedding is
the sum over the processes that used it, and parameter gradients are summed once a step. So the loss is that of the
whole step, however many processes there are.

Two kinds of waiting. In a step all do the same at the same time, so a collective that takes minutes means that a
process is gone: `start(timeout)` bounds it. While one process tokenises, evaluates or saves, the others may wait for
hours: `wait_for_all` asks the store of the process group instead, where every process leaves a sign of life, so that
even the longest wait ends soon after somebody died or was cut off. `ending_together` turns all of this into one
sentence.
"""

import contextlib
import datetime
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from conan_embed.errors import UserError

_BUCKET_ELEMENTS = 32 * 2**20
_JOIN = datetime.timedelta(minutes=30)  # nodes of a cluster start one after the other
_BEATS = 10  # signs of life in one timeout
_LAST_WORDS = 5.0  # seconds to ask the store who failed; it may be out of reach itself


class Lost(UserError):
    """Another process of the group failed, died or cannot be reached."""


class _Meeting:
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
            while not self._stopped.wait(self.timeout / _BEATS):
                store.add(f"alive/{rank()}", 1)

    def close(self) -> None:
        self._stopped.set()
        self._life.join(_LAST_WORDS)

    def everybody(self) -> int:
        """Wait until all processes have come here; return the number of this meeting.

        Raises:
            Lost: one has failed, or gave no sign of life for `timeout`.
        """
        turn = next(self._turn)
        if self.store.add(f"came/{turn}", 1) == world_size():
            self.store.set(f"all/{turn}", "")
        pause, looked = 0.001, time.monotonic()
        self._seen = [(sign, looked) for sign, _ in self._seen]
        while not self.store.check([f"all/{turn}"]):
            time.sleep(pause)
            pause = min(1.5 * pause, 0.5)
            if time.monotonic() - looked > self.timeout / _BEATS:
                looked = time.monotonic()
                self._look_around()
        return turn

    def _look_around(self) -> None:
        if failure := self.failure():
            raise Lost(failure)
        signs = [int(sign) for sign in self.store.multi_get([f"alive/{r}" for r in range(world_size())])]
        now = time.monotonic()
        self._seen = [
            (sign, now if sign != before else when)
            for sign, (before, when) in zip(signs, self._seen, strict=True)
        ]
        silent = [number for number, (_, when) in enumerate(self._seen) if now - when > self.timeout]
        if silent:
            raise Lost(f"process {silent[0]} gave no sign of life for {self.timeout / 60:g} minutes")

    def fail(self, message: str) -> None:
        """Leave the reason why this process ends, if none is there yet."""
        self.store.compare_set("failure", "", message)

    def failure(self) -> str:
        """Return the first reason that a process left, or an empty string."""
        return self.store.get("failure").decode() if self.store.check(["failure"]) else ""


_meeting: _Meeting | None = None


def start(device: str | None = None, *, timeout: float = 10.0) -> torch.device:
    """Join the process group that torchrun describes in the environment, if any; return this process's device.

    Args:
        timeout: minutes after which a collective, or a process without a sign of life, counts as lost.
    """
    global _meeting
    cuda = torch.cuda.is_available() if device is None else device == "cuda"
    chosen = torch.device("cuda", local_rank()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(chosen)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        store, me, size = next(dist.rendezvous("env://", timeout=_JOIN))
        # The bound below holds for joining too, but imports take their time: so join when all are here.
        store.set(f"here/{me}", "")
        store.wait([f"here/{other}" for other in range(size)], _JOIN)
        # Tensors on the CPU (the request to stop) are exchanged on GPU machines too.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore("group", store),
            rank=me,
            world_size=size,
            timeout=datetime.timedelta(minutes=timeout),
        )
        # A group that starts again may find the store as it left it.
        start_of_group = torch.tensor([time.time_ns()])
        dist.broadcast(start_of_group, 0)
        _meeting = _Meeting(dist.PrefixStore(f"start-{start_of_group.item()}", store), 60 * timeout)
        dist.barrier()  # all have left their first sign of life
    return chosen


def stop() -> None:
    """Leave the process group."""
    global _meeting
    if _meeting is not None:
        _meeting.close()
        _meeting = None
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """End all processes when one fails (a context, or a decorator): the others say what it said.

    A process that fails leaves its message for the others and ends, which breaks the collective that they are in, or
    are coming to.

    Raises:
        Lost: another process failed, died or cannot be reached.
    """
    try:
        yield
    except Exception as error:
        meeting = _meeting
        if meeting is None:
            raise
        if not _is_of_exchange(error):
            message = f"process {rank()} failed: {error}"
            _in_time(lambda: meeting.fail(message))
            raise
        reason = _in_time(meeting.failure) or (
            str(error).rstrip(".") if isinstance(error, Lost) else f"lost the others: {_first_line(error)}"
        )
        raise Lost(
            f"process {rank()} of {world_size()} stopped: {reason.rstrip('.')}. "
            "The same command goes on from the last checkpoint."
        ) from error


def _is_of_exchange(error: Exception) -> bool:
    # gloo's errors have no class of their own, but name the file of its source.
    return isinstance(error, (Lost, dist.DistError)) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". This is typically")[0]


def _in_time(ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns, or None where it takes too long or fails: the store may be out of reach."""
    answers: list[Any] = []

    def run() -> None:
        with contextlib.suppress(dist.DistError):
            answers.append(ask())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_LAST_WORDS)
    return answers[0] if answers else None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return rank() == 0


def local_rank() -> int:
    """Return this process's number on its node (without torchrun all processes are of one node)."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def node_size() -> int:
    """Return how many processes there are on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_first_of_node() -> bool:
    return local_rank() == 0


def wait_for_all() -> None:
    """Wait until all processes have come here, however long one of them works alone.

    Raises:
        Lost: one failed, died or was cut off.
    """
    if _meeting is not None:
        _meeting.everybody()


def from_first_of_node(value: str | None) -> str:
    """Return the `value` of the first process of this node to all processes of the node; waits for all nodes.

    Args:
        value: the others' is not looked at.
    """
    if _meeting is None:
        assert value is not None
        return value
    key = f"node/{os.environ.get('GROUP_RANK', 0)}"
    if is_first_of_node():
        assert value is not None
        _meeting.store.set(key, value)
    _meeting.everybody()
    value = _meeting.store.get(key).decode()
    _meeting.everybody()  # before the key is used again
    return value


def everywhere(statement: bool) -> bool:
    """Is `statement` true on every process? The answer is the same on all of them."""
    return sum_over_processes(torch.tensor(float(statement))).item() == world_size()


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def my_rows(total: int) -> tuple[int, int]:
    """Return start and stop of this process's share of `total` rows."""
    return rows_of(total, rank())


def rows_of(total: int, process: int) -> tuple[int, int]:
    """Return start and stop of a process's share of `total` rows."""
    return total * process // world_size(), total * (process + 1) // world_size()


def gather_rows(local: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return the rows of all processes, one process after the other, with gradient.

    Args:
        local: float [counts[rank], D].
        counts: rows of every process; any of them may be 0.
    """
    return local if world_size() == 1 else _GatherRows.apply(local, list(counts))


def gather_arrays(local: np.ndarray, total: int) -> np.ndarray:
    """Return the rows of all processes in order, where each has the rows `my_rows(total)` of an array."""
    if world_size() == 1:
        return local
    counts = [stop - start for start, stop in (rows_of(total, number) for number in range(world_size()))]
    rows = torch.from_numpy(np.ascontiguousarray(local)).reshape(len(local), math.prod(local.shape[1:]))
    return gather_rows(rows, counts).numpy().reshape(total, *local.shape[1:])


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


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients of the parameters over the processes, in buckets; a missing gradient counts as zero."""
    if world_size() == 1:
        return
    bucket: list[torch.nn.Parameter] = []
    elements = 0
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter)
        elements += parameter.numel()
        if elements >= _BUCKET_ELEMENTS:
            _sum_bucket(bucket)
            bucket, elements = [], 0
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(bucket: list[torch.nn.Parameter]) -> None:
    gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    for gradient, summed in zip(
        gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True
    ):
        gradient.copy_(summed)
