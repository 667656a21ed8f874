"""The folder layout that sentence-transformers and text-embeddings-inference read, and nothing else of them.

A model is `modules.json`, which lists a Transformer, a Pooling, perhaps a Dense and a Normalize folder, plus the
prompts in `config_sentence_transformers.json`. We read the layout of every sentence-transformers version and write
the one from before version 6, which all of them and TEI accept. Weights are read from safetensors only: a pickle can
run code.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from conan_embed.errors import UserError, suggestion
from conan_embed.files import read_json, write_json

POOLINGS = ("cls", "mean", "last")
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}
# Poolings that we do not have; early versions of text-embeddings-inference and other servers want to be told so.
_OTHER_POOLING_KEYS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens")
_MODULE = "sentence_transformers.models."
_IDENTITY = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True)
class ModelLayout:
    """What a model folder says beside the transformer itself.

    Attributes:
        transformer: the folder with `config.json` and the tokenizer.
        pooling: one of POOLINGS, or None where the folder does not say.
        dense: weights of the linear layer after pooling ("weight" [out, in], "bias" [out]), or None.
        prompts: text put before queries, passages and the texts of STS pairs.
        max_length: tokens, or None.
        widths: Matryoshka prefixes, widest first; empty where the folder does not say.
    """

    transformer: Path
    pooling: str | None = None
    dense: dict[str, torch.Tensor] | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    max_length: int | None = None
    widths: tuple[int, ...] = ()

    @property
    def dense_width(self) -> int | None:
        return None if self.dense is None else self.dense["weight"].shape[0]


def read_layout(folder: Path) -> ModelLayout:
    """Read a local model folder, of sentence-transformers or of plain transformers.

    Raises:
        UserError: the folder is no model, or holds a module that we do not know, or only pickled weights.
    """
    if not (folder / "modules.json").exists():
        if not (folder / "config.json").exists():
            raise UserError(f"{folder}: not a model: it holds neither modules.json nor config.json.")
        return ModelLayout(folder)
    layout = ModelLayout(folder)
    for module in read_json(folder / "modules.json"):
        kind = str(module["type"]).rsplit(".", 1)[-1]
        path = folder / module["path"]
        if kind == "Transformer":
            layout = replace(layout, transformer=path, max_length=_max_length(path))
        elif kind == "Pooling":
            layout = replace(layout, pooling=_pooling(path / "config.json"))
        elif kind == "Dense" and layout.dense is None:
            layout = replace(layout, dense=_dense(path))
        elif kind == "Dense":
            raise UserError(f"{folder / 'modules.json'}: found two Dense modules, expected at most one.")
        elif kind != "Normalize":
            raise UserError(
                f"{folder / 'modules.json'}: module {kind!r} is not supported; "
                "expected Transformer, Pooling, Dense and Normalize."
            )
    return replace(layout, prompts=_prompts(folder), widths=_widths(folder))


def _max_length(transformer: Path) -> int | None:
    path = transformer / "sentence_bert_config.json"
    length = read_json(path).get("max_seq_length") if path.exists() else None
    path = transformer / "tokenizer_config.json"
    if (
        length is None and path.exists()
    ):  # where sentence-transformers 6 keeps it; a huge number stands for none
        length = read_json(path).get("model_max_length")
    return int(length) if length is not None and length < 1e9 else None


def _pooling(path: Path) -> str:
    config = read_json(path)
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    if "pooling_mode" in config:  # sentence-transformers 6: one name, or several
        found = config["pooling_mode"]
        modes = [found] if isinstance(found, str) else found
    names = {key: name for name, key in _POOLING_KEYS.items()} | {
        "cls": "cls",
        "mean": "mean",
        "lasttoken": "last",
    }
    if len(modes) != 1 or modes[0] not in names:
        found = " and ".join(modes) or "none"
        raise UserError(f"{path}: pooling {found} is not supported; expected one of {', '.join(POOLINGS)}.")
    if not config.get("include_prompt", True):
        raise UserError(
            f"{path}: include_prompt: false is not supported; expected prompts that are pooled too."
        )
    return names[modes[0]]


def _dense(folder: Path) -> dict[str, torch.Tensor]:
    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function", _IDENTITY))
    if not activation.endswith("Identity"):
        raise UserError(
            f"{folder / 'config.json'}: activation {activation!r} is not supported; expected Identity."
        )
    if config.get("use_residual"):
        raise UserError(
            f"{folder / 'config.json'}: use_residual is not supported; expected a plain linear layer."
        )
    tensors = read_tensors(folder / "model.safetensors")
    return {name.removeprefix("linear."): tensor for name, tensor in tensors.items()}


def _prompts(folder: Path) -> dict[str, str]:
    path = folder / "config_sentence_transformers.json"
    found = read_json(path).get("prompts") or {} if path.exists() else {}
    prompts = {
        "query": found.get("query") or "",
        "passage": found.get("passage") or found.get("document") or "",
    }
    # Symmetric tasks have no prompt of their own in most published models; theirs is the query's then (as in E5).
    return {**prompts, "sts": prompts["query"] if found.get("sts") is None else found["sts"]}


def _widths(folder: Path) -> tuple[int, ...]:
    path = folder / "conan_embed.json"
    return tuple(read_json(path).get("widths", ())) if path.exists() else ()


def write_layout(
    folder: Path,
    *,
    hidden: int,
    pooling: str,
    dense: torch.nn.Linear | None,
    prompts: dict[str, str],
    max_length: int,
    widths: tuple[int, ...],
    details: dict[str, Any] | None = None,
) -> None:
    """Write everything of a model folder but the transformer and the tokenizer, which stand in `folder` itself."""
    names = [("Transformer", ""), ("Pooling", "1_Pooling")]
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": hidden,
            **{key: name == pooling for name, key in _POOLING_KEYS.items()},
            **dict.fromkeys(_OTHER_POOLING_KEYS, False),
        },
    )
    if dense is not None:
        names.append(("Dense", "2_Dense"))
        write_json(
            folder / "2_Dense" / "config.json",
            {
                "in_features": dense.in_features,
                "out_features": dense.out_features,
                "bias": dense.bias is not None,
                "activation_function": _IDENTITY,
            },
        )
        tensors = {
            f"linear.{name}": tensor.detach().contiguous().cpu()
            for name, tensor in dense.state_dict().items()
        }
        save_file(tensors, folder / "2_Dense" / "model.safetensors", metadata={"format": "pt"})
    normalize = f"{len(names)}_Normalize"
    names.append(("Normalize", normalize))
    (folder / normalize).mkdir(exist_ok=True)
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": _MODULE + kind}
            for number, (kind, path) in enumerate(names)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": prompts["query"], "document": prompts["passage"], "sts": prompts["sts"]},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    write_json(folder / "conan_embed.json", {"widths": list(widths), **(details or {})})


def make_config_portable(folder: Path) -> None:
    """Change `config.json`, as transformers 5 wrote it, so that transformers 4 and text-embeddings-inference read it.

    Version 5 moved what ModernBERT's rotary embeddings and local attention are told by into other keys. Without the old
    ones text-embeddings-inference does not start, and transformers 4 takes ModernBERT-base's values for the model's.
    """
    path = folder / "config.json"
    config = read_json(path)
    if config["model_type"] != "modernbert":
        return
    is_global = [kind == "full_attention" for kind in config["layer_types"]]
    every = next((layer for layer, is_one in enumerate(is_global) if layer and is_one), len(is_global))
    if is_global != [layer % every == 0 for layer in range(len(is_global))]:
        return  # a pattern that the old keys cannot say
    rotary = config["rope_parameters"]
    old = {
        "global_attn_every_n_layers": every,
        "global_rope_theta": rotary["full_attention"]["rope_theta"],
        "local_rope_theta": rotary["sliding_attention"]["rope_theta"],
    }
    write_json(path, {**config, **old})


def make_tokenizer_portable(folder: Path) -> None:
    """Change `tokenizer_config.json`, as transformers 5 wrote it, so that transformers 4 loads it too.

    Version 4 does not know version 5's name for a tokenizer without a class of its own, and gives token types to
    encoders that take none (DistilBERT) unless told otherwise. An embedding has a single token type anyway.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, {**config, "model_input_names": ["input_ids", "attention_mask"]})


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: the file is missing (perhaps there is a pickle instead) or is not whole.
    """
    if not path.exists():
        pickles = [*path.parent.glob("*.bin"), *path.parent.glob("*.pt"), *path.parent.glob("*.ckpt")]
        found = f"found only the pickled {pickles[0].name}" if pickles else "no such file"
        raise UserError(
            f"{path}: {found}; weights are read from safetensors only, since a pickle can run code."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}.") from None


def check_prompts(prompts: dict[str, str], known: tuple[str, ...] = ("query", "passage", "sts")) -> None:
    """Raise UserError for a prompt of a role that does not exist."""
    for role in prompts:
        if role not in known:
            raise UserError(
                f"model.prompts: unknown role {role!r}; expected {json.dumps(known)}{suggestion(role, known)}."
            )


def check_widths(widths: Sequence[int], width: int) -> tuple[int, ...]:
    """Return the Matryoshka widths, widest first, the full `width` among them.

    Raises:
        UserError: a width outside 1 to `width`.
    """
    for w in widths:
        if not 0 < w <= width:
            raise UserError(
                f"model.widths: {w} is outside the model's embedding width; expected 1 to {width}."
            )
    return tuple(sorted({*widths, width}, reverse=True))
