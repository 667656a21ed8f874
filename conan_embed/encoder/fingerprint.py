"""A hash of all that a model's embeddings depend on: the key under which embeddings and scores are kept."""

import json
from typing import TYPE_CHECKING

import torch
import xxhash

if TYPE_CHECKING:
    from conan_embed.encoder.model import EmbeddingModel


def fingerprint(model: "EmbeddingModel") -> str:
    """Return 32 hexadecimal digits that change with whatever changes an embedding of `model`.

    That is weights, config, pooling, dense layers with their activations, prompts, max length, and the tokenizer with
    the side at which it cuts. Precision is not the model's: who keeps results of several puts it beside.
    """
    config = {name: value for name, value in model.encoder.config.to_dict().items() if name[0] != "_"}
    config |= model.original_dropout  # that of a run changes no embedding
    weights = _without_untrained_adapter(model.state_dict())
    shapes = {name: f"{tuple(weight.shape)} {weight.dtype}" for name, weight in weights.items()}
    dense = [layer.activation_name for layer in model.dense_layers()]
    settings = [model.pooling, model.include_prompt, dense, model.max_length, sorted(model.prompts.items())]
    key = xxhash.xxh3_128(json.dumps([config, shapes, settings], sort_keys=True, default=str).encode())
    for weight in weights.values():
        key.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    key.update(model.tokenizer_text().encode())
    return key.hexdigest()


def _without_untrained_adapter(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out an adapter that adds nothing yet: its second matrices are zero, and the first drawn by a seed."""
    if any(bool(weight.any()) for name, weight in weights.items() if ".lora_B." in name):
        return weights
    return {name: weight for name, weight in weights.items() if ".lora_" not in name}
