"""Dense layers after pooling: a linear map and, in some published models, an activation.

A layer trained here has a bias and no activation, as in the paper. Layers of a loaded model keep what they have.
"""

import torch
from torch import nn

from conan_embed.encoder.formats import ACTIVATIONS, NO_DENSE_ACTIVATION, DenseLayer


class Dense(nn.Linear):
    """A linear layer with an activation that works on single numbers."""

    def __init__(
        self, in_features: int, out_features: int, activation_name: str = NO_DENSE_ACTIVATION
    ) -> None:
        super().__init__(in_features, out_features)
        self.activation_name = activation_name
        self.activation = ACTIVATIONS[activation_name]()

    @classmethod
    def of(cls, layer: DenseLayer) -> "Dense":
        """Return a layer read from a folder; one without a bias is one with zeros."""
        out_features, in_features = layer.tensors["weight"].shape
        dense = cls(in_features, out_features, layer.activation)
        nn.init.zeros_(dense.bias)
        dense.load_state_dict(layer.tensors, strict=False)
        return dense

    def forward(self, embedding_ND: torch.Tensor) -> torch.Tensor:
        return self.activation(super().forward(embedding_ND))

    def cut(self, width: int) -> "Dense":
        """Return the layer that gives the first `width` numbers of this one."""
        narrow = Dense(self.in_features, width, self.activation_name)
        with torch.no_grad():
            narrow.weight.copy_(self.weight[:width])
            narrow.bias.copy_(self.bias[:width])
        return narrow
