"""Copies between main memory and a GPU that nobody waits for.

A GPU works through a queue. Whatever asks it for a value (`.item()`, `.tolist()`, a boolean mask, a copy from or to
ordinary memory) waits until the queue is empty, and then the GPU waits for the program. So a step keeps all that it
must know (which rows, how many) on the CPU, sends index tensors ahead through pinned memory (`to_device`), and reads
its results once (`AsyncHostCopy`). On CPUs both do nothing.
"""

import os

import numpy as np
import torch


def choose_device(name: str | None = None) -> torch.device:
    """Return this process's device: "cpu", "cuda" or "mps" (Apple) by `name` or the environment, else a GPU if any.

    The variable is CONAN_EMBED_DEVICE. Of several GPUs a process of torchrun takes that of its local rank; several
    processes use no mps, since they exchange what is in main memory.
    """
    name = name or os.environ.get("CONAN_EMBED_DEVICE")
    if torch.cuda.is_available() if name is None else name == "cuda":
        return torch.device("cuda", local_rank())
    mps = torch.backends.mps.is_available() if name is None else name == "mps"
    return torch.device("mps" if mps and "WORLD_SIZE" not in os.environ else "cpu")


def local_rank() -> int:
    """Return this process's rank on its node, as torchrun says; who starts processes otherwise has them on one node."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("RANK") or 0)


def search_device() -> torch.device:
    """Return where a search by matrix products runs: this process's GPU, else the CPU (also beside one of Apple's)."""
    chosen = choose_device()
    return chosen if chosen.type == "cuda" else torch.device("cpu")


def to_device(values: np.ndarray | torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return `values` on `device`; on a GPU the copy is queued, from pinned memory, and nobody waits for it."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if torch.device(device).type == "mps" and tensor.dtype == torch.float64:  # which Apple's GPUs do not have
        tensor = tensor.float()
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class AsyncHostCopy:
    """A tensor on its way to main memory: made when all work on it is queued, and read when it is needed."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._values = tensor.detach()
        if tensor.device.type == "cuda":
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor.detach(), non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def numpy(self) -> np.ndarray:
        """Wait for the copy and return it; this is the one synchronisation of a step."""
        if self._done is not None:
            self._done.synchronize()
        return self._values.cpu().numpy()
