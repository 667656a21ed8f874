"""Weights in oneDNN's own layout while texts are encoded on a CPU in bfloat16.

`torch.autocast` casts each weight anew for every chunk where no gradient is wanted, and oneDNN then lays it out in
blocks anew for every product. Both are done once here, for as long as the chunks of one call last: encoding gets faster
by a tenth (benchmarks/encode_speed.py). Training leaves it alone, since its weights change.
"""

import contextlib
import functools
import platform
from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import nn

_ROWS = 4096
"""Rows of a product that the layout is chosen for: the tokens of a chunk. Other numbers give the same products."""


@functools.cache
def _available() -> bool:
    """Tell whether this torch has the operators, and this processor their bfloat16; they are not public ones."""
    operators = torch.ops.mkldnn
    needed = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return (
        torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
        and all(hasattr(operators, name) for name in needed)
        and operators._is_mkldnn_bf16_supported()
    )


def _serves(device: torch.device) -> bool:
    return (
        device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and _available()
    )


@contextlib.contextmanager
def prepacked_weights(encoder: nn.Module) -> Iterator[None]:
    """Let the linear layers of `encoder` multiply with blocked bfloat16 copies of their weights; no gradient.

    Results are those of autocast but for the order in which products are added up. Does nothing outside of bfloat16
    autocast on a CPU, and leaves alone what is not a plain float32 `nn.Linear` (sharded, adapted or compiled layers).
    """
    device = next(encoder.parameters()).device
    layers = [layer for layer in encoder.modules() if _is_plain(layer)] if _serves(device) else []
    for layer in layers:
        vars(layer)["forward"] = _Product(layer)  # hides the method of the class
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and layer.weight.dtype == torch.float32
        and "forward" not in vars(layer)
    )


class _Product:
    """The forward pass of one linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        weight = layer.weight.detach().to(torch.bfloat16)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self._bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(torch.bfloat16)
        return torch.ops.mkldnn._linear_pointwise(tensor, self._weight, self._bias, "none", [], "")
