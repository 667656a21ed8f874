"""The frozen linear layers under an adapter, in 4 bits (QLoRA, Dettmers et al. 2023): NF4 by bitsandbytes.

A weight is one of 16 levels of a normal distribution, times the largest number of its block of 64; these largest
numbers are kept in 8 bits. That makes 4.13 bits a weight in place of 32. A product unpacks one layer at a time. The
adapter, embeddings and norms stay float32; so do layers whose rows are not whole blocks, for which bitsandbytes 0.50
mixes up the blocks on CPUs.
"""

from types import ModuleType

import torch
from torch import nn

from conan_embed.errors import UserError

_BLOCK = 64


def _bitsandbytes() -> ModuleType:
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            "model.lora.bits: 4 needs the package bitsandbytes, which is not installed; expected pip install "
            "'conan-embed[lora-4bit]'."
        ) from None
    return bitsandbytes


class Linear4bit(nn.Linear):
    """A frozen linear layer with a packed weight (uint8 [out x in / 2, 1]); it computes in autocast's precision.

    Args:
        layer: the layer as it was.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        packed, self.quant_state = _bitsandbytes().functional.quantize_4bit(
            layer.weight.detach(), quant_type="nf4", blocksize=_BLOCK, compress_statistics=True
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        self.quant_state.to(x.device)
        product: torch.Tensor = _bitsandbytes().matmul_4bit(
            x.to(dtype), self.weight, bias=bias, quant_state=self.quant_state
        )
        return product

    def unpacked(self) -> torch.Tensor:
        """Return the weight as it is computed with, float32 [out, in]."""
        self.quant_state.to(self.weight.device)
        weight: torch.Tensor = _bitsandbytes().functional.dequantize_4bit(self.weight.data, self.quant_state)
        return weight


def pack_layers(encoder: nn.Module) -> None:
    """Put a `Linear4bit` in place of each linear layer with rows of whole blocks.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    layers = [
        (name, module)
        for name, module in encoder.named_modules()
        if type(module) is nn.Linear and module.in_features % _BLOCK == 0
    ]
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(parent), last, Linear4bit(layer))
