"""Dense layers after pooling: a linear map and, in some published models, an activation.

A layer trained here has a bias and no activation, as in the paper. Layers of a loaded model keep what they have.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conan_embed.encoder.weight_files import read_tensors
from conan_embed.errors import UserError
from conan_embed.files import read_object

ACTIVATIONS: dict[str, type[torch.nn.Module]] = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        torch.nn.Identity,
        torch.nn.Tanh,
        torch.nn.ReLU,
        torch.nn.GELU,
        torch.nn.SiLU,
        torch.nn.Sigmoid,
    )
}
"""Activations of Dense layers. All work on single numbers, so a prefix of an embedding can be cut from the weights."""

NO_DENSE_ACTIVATION = "torch.nn.modules.linear.Identity"
_DENSE_CONFIG_KEYS = (
    *("in_features", "out_features", "bias", "activation_function"),
    *("module_input_name", "module_output_name", "use_residual"),
)


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer after pooling.

    Attributes:
        tensors: "weight" [out, in] and perhaps "bias" [out].
        activation: a key of ACTIVATIONS.
    """

    tensors: dict[str, torch.Tensor]
    activation: str = NO_DENSE_ACTIVATION

    @property
    def in_features(self) -> int:
        return self.tensors["weight"].shape[1]

    @property
    def out_features(self) -> int:
        return self.tensors["weight"].shape[0]


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


# --------------------------------------------------------------------------------------------- from folders


def read_dense_layer(folder: Path) -> DenseLayer:
    """Read the folder of a Dense module.

    Raises:
        UserError: settings that are not supported, or weights that are no linear layer.
    """
    path = folder / "config.json"
    config = read_object(path)
    check_keys(path, config, _DENSE_CONFIG_KEYS)
    activation = str(
        config.get("activation_function", "torch.nn.modules.activation.Tanh")
    )  # the library's default
    if activation not in ACTIVATIONS:
        raise UserError(
            f"{path}: activation {activation!r} is not supported; expected one of {', '.join(ACTIVATIONS)}."
        )
    check_input_and_output(path, config)
    if config.get("use_residual"):
        raise UserError(f"{path}: use_residual is not supported; expected a plain linear layer.")
    tensors = read_tensors(folder / "model.safetensors")
    tensors = {name.removeprefix("linear."): tensor for name, tensor in tensors.items()}
    _check_dense_tensors(folder / "model.safetensors", tensors, config)
    return DenseLayer(tensors, activation)


def _check_dense_tensors(path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Refuse tensors that are no linear layer, or another one than `config` says, or not finite."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    out_features, in_features = shapes.get("weight", (0,)) if len(shapes.get("weight", ())) == 2 else (0, 0)
    expected: dict[str, tuple[Any, ...]] = {
        "weight": (config.get("out_features", out_features), config.get("in_features", in_features))
    }
    if "bias" in shapes:
        expected["bias"] = expected["weight"][:1]
    if shapes != expected:
        raise UserError(f"{path}: found the tensors {shapes}, expected those of a linear layer, {expected}.")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: the weights {name} hold NaN or infinity; expected finite numbers.")


def check_chain(folder: Path, layers: Sequence[DenseLayer], hidden: int) -> None:
    """Refuse dense layers that do not take what the module before them gives.

    Args:
        hidden: width of the encoder.
    """
    for number, layer in enumerate(layers, 2):
        if layer.in_features != hidden:
            raise UserError(
                f"{folder}: module {number} takes {layer.in_features} numbers, but the one before it gives {hidden}."
            )
        hidden = layer.out_features


def check_input_and_output(path: Path, config: dict[str, Any]) -> None:
    """Refuse a module that reads or writes another feature than the embedding."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UserError(
                f"{path}: {key}: {config[key]!r} is not supported; expected 'sentence_embedding'."
            )


def check_keys(path: Path, config: dict[str, Any], known: Collection[str]) -> None:
    """Refuse a config with a key that is not `known`."""
    for key in config:
        if key not in known:
            raise UserError(
                f"{path}: unknown key {key!r}; expected a setting that sentence-transformers writes."
            )
