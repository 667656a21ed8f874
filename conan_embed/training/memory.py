"""Memory of a step: how large its chunks are, and what is kept of them.

A step's activations take so many bytes a token, however it is cut into chunks. Where all of them fit, nothing is
computed twice; where they do not, only one chunk's exist at a time (`activation_checkpointing`), and its size is
bounded by what fits.
The bytes are measured once, before the first step. An out-of-memory error that comes nevertheless halves the chunk, and
the step is done again: its numbers do not depend on its chunks. (On a CPU there is none: where main memory ends, Linux
ends the process.)
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.distributed.tensor import DTensor

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.encoder.encode import TOKEN_BUDGET, autocast
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.recipes.sections import Training

_PROBE_TOKENS = {"cuda": 4096, "cpu": 1024}
_GPU_CHUNK_TOKENS = 65_536
"""The most on a GPU, where launching the kernels of many small chunks takes longer than their work."""
_USED = 0.8
"""Of the free memory: the rest is for the loss's blocks, gathered embeddings, and what the allocator cannot use."""
_SMALLEST = 256


@dataclass
class Memory:
    """How the texts of a step go through the encoder.

    Attributes:
        chunk_tokens: tokens of a chunk.
        activation_checkpointing: whether activations are computed again in the backward pass; None: where they do
            not fit.
        fitting_tokens: tokens whose activations fit at once, on the process with the least memory; None: not measured.
        is_given: whether the recipe says how large chunks are.
    """

    chunk_tokens: int = TOKEN_BUDGET
    activation_checkpointing: bool | None = None
    fitting_tokens: int | None = None
    is_given: bool = False

    @classmethod
    def of(cls, settings: Training, device: torch.device) -> "Memory":
        largest = _GPU_CHUNK_TOKENS if device.type == "cuda" else TOKEN_BUDGET
        chunk_tokens, is_given = settings.chunk_tokens or largest, settings.chunk_tokens is not None
        return cls(chunk_tokens, settings.activation_checkpointing, is_given=is_given)

    def checkpoints_activations(self, tokens: int) -> bool:
        """Tell whether a step computes activations again, of whose texts one process gets `tokens` tokens at most."""
        if self.activation_checkpointing is None:
            return self.fitting_tokens is not None and tokens > self.fitting_tokens
        return self.activation_checkpointing

    def fit(self, fitting_tokens: int, *, before: int | None = None) -> None:
        """Take note of how many tokens fit at once, and make chunks no larger than that unless the recipe says how.

        Args:
            before: tokens of a chunk before the run was interrupted. It keeps them, into the reserve if need be: the
                free memory is never quite the same, and sums over other chunks are rounded otherwise.
        """
        self.fitting_tokens = fitting_tokens
        if self.is_given:
            return
        self.chunk_tokens = min(self.chunk_tokens, before or self.chunk_tokens)
        if self.chunk_tokens <= (fitting_tokens / _USED if before else fitting_tokens):
            return
        self.chunk_tokens = min(self.chunk_tokens, max(_SMALLEST, fitting_tokens))
        if collectives.is_main_process():
            console.print(
                f"memory: the activations of {fitting_tokens:,} tokens fit at once, so chunks have at most "
                f"{self.chunk_tokens:,} tokens; training.chunk_tokens sets another number."
            )

    def shrink(self, token_budget: int) -> bool:
        """After an out-of-memory error with chunks of `token_budget`: take half; False where that is no use."""
        if (
            self.activation_checkpointing is not True
        ):  # the first remedy: it frees far more than smaller chunks do
            self.activation_checkpointing = True
            return True
        self.chunk_tokens = min(self.chunk_tokens, token_budget) // 2
        return self.chunk_tokens >= _SMALLEST


def measure_fitting_tokens(model: EmbeddingModel, precision: str, sharding: str = "none") -> int:
    """Return how many tokens' activations fit into the free memory, on the process where the fewest do.

    One chunk goes forward, with all that a backward pass would need. (A backward pass frees as it goes.) Gradients and
    the moments of AdamW are not there yet: this process's share of them is set aside.

    Args:
        model: in pieces already, where `sharding` cuts it.
        sharding: `training.sharding`.
    """
    if model.device.type == "cuda":
        per_token = _peak_per_token(model, precision)
        free, _ = torch.cuda.mem_get_info(model.device)
    else:
        per_token = activation_bytes_per_token(model, precision)
        free = free_main_memory() // collectives.node_size()
    room = _USED * free - _gradient_and_moment_bytes(model, sharding)
    return min(collectives.all_gather_object(max(0, int(room / per_token))))


def _gradient_and_moment_bytes(model: EmbeddingModel, sharding: str) -> float:
    """Bytes of what this process will hold beside its parameters: their gradients, and AdamW's two moments."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    pieces = [each.to_local() if isinstance(each, DTensor) else each for each in trained]
    gradients = sum(piece.numel() * piece.element_size() for piece in pieces)
    owners = collectives.world_size() if sharding == "optimizer" else 1
    return gradients + 2 * gradients / owners


def _probe(model: EmbeddingModel, precision: str, texts: int, length: int) -> torch.Tensor:
    offsets = np.arange(texts + 1) * length
    with autocast(model.device, precision):
        return model.embed_tokens(np.zeros(offsets[-1], np.int32), offsets, np.arange(texts))


def _peak_per_token(model: EmbeddingModel, precision: str) -> float:
    """Bytes a token on a GPU while a chunk goes forward in training mode, workspace included.

    From the peaks of two numbers of texts: their difference belongs to the tokens; what is the same for both (bfloat16
    copies of the weights, workspaces of the libraries) is needed once a chunk.
    """
    length = min(model.max_length, _PROBE_TOKENS["cuda"] // 2)
    most = _PROBE_TOKENS["cuda"] // length
    with _training(model), torch.random.fork_rng(devices=[model.device]):  # dropout draws
        _peak(model, precision, 1, length)  # afterwards workspaces and compiled code are there
        fewer, more = (_peak(model, precision, texts, length) for texts in (most // 2, most))
    torch.cuda.empty_cache()
    per_token = (more - fewer) / ((most - most // 2) * length)
    once = max(0.0, more - per_token * most * length)
    return per_token + once / TOKEN_BUDGET


def _peak(model: EmbeddingModel, precision: str, texts: int, length: int) -> int:
    """Bytes on a GPU: the peak while a chunk goes forward, compared with what was in use before."""
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    _probe(model, precision, texts, length)
    return torch.cuda.max_memory_allocated(model.device) - before


@contextlib.contextmanager
def _training(model: EmbeddingModel) -> Iterator[None]:
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)


def activation_bytes_per_token(model: EmbeddingModel, precision: str) -> float:
    """Return the bytes per token that a forward pass saves for its backward pass, in training mode, on any device.

    The difference between two numbers of texts: what is kept once (weights, and their casts) does not count.
    """
    length = min(model.max_length, _PROBE_TOKENS["cpu"])
    most = max(2, _PROBE_TOKENS["cpu"] // length)
    with _training(model), torch.random.fork_rng(devices=[]):  # dropout draws
        fewer, more = (_saved_bytes(model, precision, texts, length) for texts in (most // 2, most))
    return (more - fewer) / ((most - most // 2) * length)


def _saved_bytes(model: EmbeddingModel, precision: str, texts: int, length: int) -> int:
    storages: dict[int, int] = {}  # by address: several tensors may be views of one storage

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        embeddings = _probe(model, precision, texts, length)
    del embeddings  # until here nothing was freed, so no address was used twice
    return sum(storages.values())


def free_main_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process may still take: of the machine, or of the container if that has less."""
    free = int(psutil.virtual_memory().available)
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),  # of version 2 of control groups, of version 1
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            stat = (groups / used).with_name("memory.stat").read_text(encoding="ascii")
            reclaimed = dict(line.split() for line in stat.splitlines())[cached]
            left = int((groups / limit).read_text(encoding="ascii"))
            left += int(reclaimed) - int((groups / used).read_text(encoding="ascii"))
        except (OSError, KeyError, ValueError):  # no such group, or no limit ("max")
            continue
        free = min(free, max(0, left))
    return free
