"""LoRA: train small low-rank updates of an encoder's linear layers instead of the layers (Hu et al. 2021).

    W x  becomes  W x + scale B A x        A [rank, in], B [out, rank], scale = alpha / rank

peft puts the adapter into the encoder, which stays the user's own in every other respect: packing, mining and
evaluation go through it. The base is frozen, so gradients, AdamW's moments and checkpoints hold the adapter (and the
dense layers) only. The model is saved merged, as any other, or as an adapter beside the name of its base.
"""

import copy
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from conan_embed.encoder.four_bit import Linear4bit, pack_layers
from conan_embed.errors import UserError
from conan_embed.files import read_json, read_object, write_json

if TYPE_CHECKING:
    from conan_embed.encoder.model import EmbeddingModel
    from conan_embed.recipes.sections import Lora

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"
_PREFIX = "base_model.model."  # of every name in a saved adapter
_LINEAR = (nn.Linear, Conv1D)


@dataclass(frozen=True)
class Adapter:
    """A model's adapter.

    Attributes:
        config: peft's.
        save_as: "merged" or "adapter".
    """

    config: Any
    save_as: str


def add_lora(model: "EmbeddingModel", settings: "Lora", base: str) -> None:
    """Put a LoRA adapter into the model's encoder and freeze everything else but the dense layers.

    A starts random (torch's global generator) and B at zero, so that the model computes what it did before.

    Args:
        base: folder or hub name of the encoder, noted in a saved adapter (a folder with its whole path).

    Raises:
        UserError: peft (or, for 4 bits, bitsandbytes) is not installed, the targets are no linear layers of the
            encoder, or the model cannot be saved as an adapter.
    """
    peft = _peft()
    if settings.save == "adapter" and model.only_merged:
        raise UserError(
            f"model.lora.save: found adapter, expected merged: {model.only_merged}, and a saved adapter holds nothing "
            "but its own weights."
        )
    targets = target_layers(model.encoder, settings.targets)
    if settings.bits == 4:
        pack_layers(model.encoder)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        target_modules=targets,
        # Clients that load BERT with its pooler would look for an adapter of it.
        exclude_modules=sorted({name.rsplit(".", 1)[0] for name in model.unused_weights}) or None,
        fan_in_fan_out=_is_conv1d(model.encoder, targets),
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=_from_anywhere(base),
    )
    model.encoder.requires_grad_(False)
    with warnings.catch_warnings():
        # The excluded pooler is in clients' models, not in ours.
        warnings.filterwarnings("ignore", message="You have passed exclude_modules")
        peft.inject_adapter_in_model(config, model.encoder, _NAME)
    model.adapter = Adapter(config, settings.save)


def _peft() -> ModuleType:
    # peft imports bitsandbytes where it is installed, and that asks for a kernel that only the hub has.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        import peft
    except ImportError:
        raise UserError(
            "model.lora: needs the package peft, which is not installed; expected pip install 'conan-embed[lora]'."
        ) from None
    return peft


def target_layers(encoder: nn.Module, targets: str | list[str]) -> list[str]:
    """Return the names of the linear layers to adapt, as short as peft takes them.

    Args:
        targets: "all" linear layers, those of the "attention", or names such as ["q_proj", "v_proj"].

    Raises:
        UserError: no layer has such a name.
    """
    layers = [name for name, module in encoder.named_modules() if isinstance(module, _LINEAR)]
    if targets == "all":
        return _suffixes(layers, layers)
    if targets == "attention":
        blocks = [name for name, module in encoder.named_modules() if "Attention" in type(module).__name__]
        chosen = [name for name in layers if any(name.startswith(f"{block}.") for block in blocks)]
        if chosen:
            return _suffixes(chosen, layers)
        targets = [targets]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            known = ", ".join(_suffixes(layers, layers))
            raise UserError(
                f"model.lora.targets: found {target!r}, expected names of linear layers: {known}."
            )
    return list(targets)


def _suffixes(chosen: list[str], layers: list[str]) -> list[str]:
    """Return the last parts of the chosen names, or whole names where others end alike."""
    short = sorted({name.rsplit(".", 1)[-1] for name in chosen})
    alike = [name for name in layers if name.rsplit(".", 1)[-1] in short]
    return short if len(alike) == len(chosen) else sorted(chosen)


def _is_conv1d(encoder: nn.Module, targets: list[str]) -> bool:
    """GPT-2 keeps its weights transposed."""
    kinds = {
        type(module)
        for name, module in encoder.named_modules()
        if isinstance(module, _LINEAR) and any(name == t or name.endswith(f".{t}") for t in targets)
    }
    return kinds == {Conv1D}


# ------------------------------------------------------------------------------------------------------------ saving


@torch.no_grad()
def merged_weights(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Return the encoder's weights under its own names, with the adapter added to those that it changes.

    The encoder stays as it is: merging in place and back again would change the last bits of the base. A base in 4 bits
    is saved as the float32 weights that were trained with.
    """
    weights = encoder.state_dict()
    for name, module in encoder.named_modules():
        if isinstance(module, Linear4bit):
            weights[f"{name}.weight"] = module.unpacked()
    for name, layer in _adapted(encoder):
        for key in [key for key in weights if key.startswith(f"{name}.")]:
            del weights[key]
        weights |= {f"{name}.{key}": value for key, value in _merged(layer).items()}
    return weights


def _merged(layer: Any) -> dict[str, torch.Tensor]:
    """Return the state dict of an adapted layer's base with the adapter in it."""
    base = layer.get_base_layer()
    if isinstance(base, Linear4bit):
        bias = {} if base.bias is None else {"bias": base.bias}
        return {"weight": base.unpacked() + layer.get_delta_weight(_NAME), **bias}
    merged = copy.deepcopy(layer)
    merged.merge()
    state: dict[str, torch.Tensor] = merged.get_base_layer().state_dict()
    return state


def _adapted(encoder: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in encoder.named_modules() if isinstance(module, LoraLayer))


def save_adapter(encoder: nn.Module, adapter: Adapter, folder: Path) -> None:
    """Write the adapter's weights and config as peft, transformers and sentence-transformers read them."""
    peft = _peft()
    weights = peft.get_peft_model_state_dict(encoder, adapter_name=_NAME)
    tensors = {f"{_PREFIX}{name}": w.detach().contiguous().cpu() for name, w in weights.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = copy.deepcopy(adapter.config)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    # peft writes sets in no particular order.
    written = read_json(folder / ADAPTER_CONFIG)
    write_json(folder / ADAPTER_CONFIG, {**written, "target_modules": sorted(written["target_modules"])})


# ----------------------------------------------------------------------------------------------------------- loading


def _from_anywhere(base: str) -> str:
    """Return a folder's whole path: an adapter is loaded from other working directories, too. A hub name stays."""
    folder = Path(base).expanduser()
    return str(folder.resolve()) if folder.is_dir() else base


def adapter_base(folder: Path) -> str | None:
    """Return folder or hub name of the base of a saved adapter, None where `folder` holds whole weights.

    Raises:
        UserError: an adapter of another kind, with pickled weights, or that does not name its base.
    """
    path = folder / ADAPTER_CONFIG
    if not path.exists():
        return None
    config = read_object(path)
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {config.get('peft_type')!r} is not supported; expected 'LORA'.")
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{folder}: expected the adapter's weights in {ADAPTER_WEIGHTS}.")
    base = config.get("base_model_name_or_path")
    if not base:
        raise UserError(f"{path}: base_model_name_or_path is missing; expected the adapter's base model.")
    return str(base)


def merge_adapter(encoder: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the encoder with a saved adapter merged into its weights.

    Adapters of a model with a head name the encoder in front of each layer ("model.layers.0...", "bert.encoder...").

    Raises:
        UserError: weights of the adapter that the encoder has no place for, or the other way round.
    """
    peft = _peft()
    path = folder / ADAPTER_WEIGHTS
    with safe_open(path, "pt") as file:
        names = set(file.keys())
    head = f"{encoder.base_model_prefix}."
    has_head = not hasattr(encoder, encoder.base_model_prefix) and all(
        name.startswith(_PREFIX + head) for name in names
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
        adapted = peft.PeftModel.from_pretrained(
            encoder, str(folder), key_mapping={f"^{re.escape(head)}": ""} if has_head else None
        )
    if has_head:
        names = {_PREFIX + name.removeprefix(_PREFIX + head) for name in names}
    _check_names(path, names, {*peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)})
    return cast(PreTrainedModel, adapted.merge_and_unload())


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    """Refuse what peft passes over: an adapter that does not fit leaves the base as it is."""
    for names, reason in ((found - expected, "unknown"), (expected - found, "missing")):
        if names:
            raise UserError(
                f"{path}: the adapter does not fit its base: {len(names)} of its weights are {reason}, for instance "
                f"{min(names)}; expected names such as {min(expected, default='none')}."
            )


def frozen_identity(model: nn.Module) -> dict[str, str]:
    """Return a hash of the weights that are not trained, by what it is; empty where all are.

    Checkpoints leave these weights out: an adapter goes with one base.
    """
    frozen = [(name, weight) for name, weight in model.named_parameters() if not weight.requires_grad]
    if not frozen:
        return {}
    key = xxhash.xxh3_128()
    for name, weight in frozen:
        key.update(name.encode())
        key.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {"base model (frozen weights)": key.hexdigest()}
