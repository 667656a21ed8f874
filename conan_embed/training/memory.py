"""Memory of a step: how large its chunks are, and what is kept of them.

A step's activations take so many bytes a token, however it is cut into chunks. Where all of them fit, nothing is
computed twice; where they do not, only one chunk's exist at a time (`recompute`), and its size is bounded by what fits.
On a GPU the bytes are measured once, before the first step. An out-of-memory error that comes nevertheless halves the
chunk, and the step is done again: its numbers do not depend on its chunks.
"""

from dataclasses import dataclass

import numpy as np
import torch

from conan_embed.encoder.model import TOKEN_BUDGET, EmbeddingModel, autocast
from conan_embed.recipes.schema import Recipe
from conan_embed.training import processes

_PROBE_TOKENS = 4096
_USED = 0.8
"""Of the free memory: the rest is for the loss's blocks, gathered embeddings, and what the allocator cannot use."""
_SMALLEST = 256


@dataclass
class Memory:
    """How the texts of a step go through the encoder.

    Attributes:
        chunk_tokens: tokens of a chunk.
        recompute: whether activations are computed again in the backward pass; None: where they do not fit.
        fitting_tokens: tokens whose activations fit at once, on the process with the least memory; None: not measured.
    """

    chunk_tokens: int = TOKEN_BUDGET
    recompute: bool | None = None
    fitting_tokens: int | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "Memory":
        settings = recipe.training
        return cls(settings.chunk_tokens or TOKEN_BUDGET, settings.recompute)

    def recomputes(self, tokens: int) -> bool:
        """Tell whether a step computes activations again, of whose texts one process gets `tokens` tokens at most."""
        if self.recompute is None:
            return self.fitting_tokens is not None and tokens > self.fitting_tokens
        return self.recompute

    def fit(self, fitting_tokens: int) -> None:
        """Take note of how many tokens fit at once, and make chunks no larger than that."""
        self.fitting_tokens = fitting_tokens
        self.chunk_tokens = max(_SMALLEST, min(self.chunk_tokens, fitting_tokens))

    def shrink(self, token_budget: int) -> bool:
        """After an out-of-memory error with chunks of `token_budget`: take half; False where that is no use."""
        if self.recompute is not True:  # the first remedy: it frees far more than smaller chunks do
            self.recompute = True
            return True
        self.chunk_tokens = min(self.chunk_tokens, token_budget) // 2
        return self.chunk_tokens >= _SMALLEST


def measure_fitting_tokens(model: EmbeddingModel, precision: str) -> int:
    """Return how many tokens' activations fit into the GPU's free memory, on the process where the fewest do.

    One chunk goes forward, with all that a backward pass would need, and its peak is compared with what was in use. (A
    backward pass frees as it goes.) Gradients and the moments of AdamW are not there yet: they are set aside.
    """
    held = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    length = min(model.max_length, _PROBE_TOKENS)
    offsets = np.arange(_PROBE_TOKENS // length + 1) * length
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    with autocast(model.device, precision):
        model.embed_tokens(np.zeros(offsets[-1], np.int32), offsets, np.arange(len(offsets) - 1))
    per_token = (torch.cuda.max_memory_allocated(model.device) - before) / offsets[-1]
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    room = _USED * free - 3 * held
    return min(processes.gathered(max(0, int(room / per_token))))
