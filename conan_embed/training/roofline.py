"""How fast this device could train at best: the matrix product alone, measured.

A training step spends 6 floating-point operations per token and weight of the encoder's matrices (2 forward, 4
backward). The rate of a bfloat16 product at the encoder's own shapes, divided by that, is a number of tokens per second
that no trainer can pass; real tokens per second over it says how much of the device is used.
"""

import time

import torch

from conan_embed.encoder.model import EmbeddingModel

_ROWS = 8192


def matmul_flops(hidden: int, inner: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Return floating-point operations per second of [8192, hidden] x [hidden, inner], the best of many tries."""
    left, right = (torch.randn(rows, hidden, device=device).to(dtype) for rows in (_ROWS, inner))
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        product = torch.nn.functional.linear(left, right)
        product[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - before)
    return 2 * _ROWS * hidden * inner / best


def matmul_peak_tokens_per_second(model: EmbeddingModel, precision: str, *, seconds: float = 0.5) -> float:
    """Return the tokens per second of a step that is nothing but its matrix products."""
    weights = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and "embedding" not in name
    )
    inner = getattr(model.encoder.config, "intermediate_size", 4 * model.hidden)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return matmul_flops(model.hidden, inner, model.device, dtype, seconds) / (6 * weights)
