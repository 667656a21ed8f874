"""Write model folders that every client reads: sentence-transformers from 2 on, text-embeddings-inference, vLLM, ...

The layout is the one from before sentence-transformers 6, which all of them accept. What a client may read of the
length, the prompts or the Matryoshka widths is written to each place where some client looks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from conan_embed.encoder.decoders import needs_eager
from conan_embed.encoder.formats import POOLING_KEYS
from conan_embed.encoder.prompts import is_role_name
from conan_embed.files import read_json, write_json

if TYPE_CHECKING:
    from conan_embed.encoder.dense import Dense
    from conan_embed.encoder.model import EmbeddingModel

# Poolings that we do not have; early versions of text-embeddings-inference and other servers look for them.
_OTHER_POOLING_KEYS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens")
_MODULE = "sentence_transformers.models."
# What transformers saves of how the base's tokenizer was loaded and last called.
_OF_AN_EARLIER_CALL = (
    *("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"),
    *("is_local", "local_files_only", "name_or_path"),
)


def write_layout(folder: Path, model: "EmbeddingModel", details: dict[str, Any]) -> None:
    """Write everything of a model folder but the transformer and the tokenizer, which are in `folder` itself."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    _write_pooling(folder / "1_Pooling", model)
    for layer in model.dense_layers():
        modules.append(("Dense", f"{len(modules)}_Dense"))
        _write_dense(folder / modules[-1][1], layer)
    modules.append(("Normalize", f"{len(modules)}_Normalize"))
    (folder / modules[-1][1]).mkdir(exist_ok=True)
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": _MODULE + kind}
        for number, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    settings: dict[str, Any] = {"max_seq_length": model.max_length, "do_lower_case": model.lowercase}
    if needs_eager(model.encoder):
        settings["model_args"] = {"attn_implementation": "eager"}
    write_json(folder / "sentence_bert_config.json", settings)
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": model.named_prompts.updated(model.prompts) | _prompts_by_dataset(model),
            "default_prompt_name": model.named_prompts.default,
            "similarity_fn_name": "cosine",
        },
    )
    write_json(
        folder / "conan_embed.json", {"widths": list(model.widths), **_prompt_settings(model), **details}
    )


def _prompts_by_dataset(model: "EmbeddingModel") -> dict[str, str]:
    """Return query prompts under the names of data sets, as `prompt_name` of sentence-transformers finds them."""
    named = {}
    for name, prompts in model.dataset_prompts.items():
        changed = [role for role in ("query", "sts") if prompts[role] != model.prompts[role]]
        if changed and not is_role_name(name):
            named[name] = prompts[changed[0]]
    return named


def _prompt_settings(model: "EmbeddingModel") -> dict[str, Any]:
    if model.instruction is None and not model.dataset_prompts:
        return {}
    return {
        "templates": model.templates,
        "instruction": model.instruction,
        "dataset_prompts": model.dataset_prompts,
    }


def _write_pooling(folder: Path, model: "EmbeddingModel") -> None:
    modes = {key: name == model.pooling for name, key in POOLING_KEYS.items()}
    others = dict.fromkeys(_OTHER_POOLING_KEYS, False)
    config = {"word_embedding_dimension": model.hidden, **modes, **others}
    write_json(folder / "config.json", {**config, "include_prompt": model.include_prompt})


def _write_dense(folder: Path, layer: "Dense") -> None:
    config = {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        "activation_function": layer.activation_name,
    }
    write_json(folder / "config.json", config)
    tensors = {
        f"linear.{name}": tensor.detach().contiguous().cpu() for name, tensor in layer.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def make_config_portable(folder: Path, *, widths: Sequence[int], dropout: dict[str, float]) -> None:
    """Change `config.json`, as transformers 5 wrote it, so that every client reads it.

    Dropout was a setting of our run: those who train the model elsewhere find the base model's own. vLLM serves
    narrower embeddings only where `matryoshka_dimensions` says which.
    """
    path = folder / "config.json"
    config = {**read_json(path), **dropout}
    config.pop("matryoshka_dimensions", None)
    if len(widths) > 1:
        config["matryoshka_dimensions"] = list(widths)
    write_json(path, {**config, **_old_modernbert_keys(config), **_old_rotary_keys(config)})


def _old_modernbert_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return what transformers 4 and text-embeddings-inference read of ModernBERT.

    Version 5 moved what its rotary embeddings and local attention are told by into other keys. Without the old ones
    text-embeddings-inference does not start, and transformers 4 takes ModernBERT-base's values for the model's.
    """
    if config["model_type"] != "modernbert":
        return {}
    is_global = [kind == "full_attention" for kind in config["layer_types"]]
    every = next((layer for layer, is_one in enumerate(is_global) if layer and is_one), len(is_global))
    if is_global != [layer % every == 0 for layer in range(len(is_global))]:
        return {}  # a pattern that the old keys cannot say
    rotary = config["rope_parameters"]
    return {
        "global_attn_every_n_layers": every,
        "global_rope_theta": rotary["full_attention"]["rope_theta"],
        "local_rope_theta": rotary["sliding_attention"]["rope_theta"],
    }


def _old_rotary_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return what transformers 4, text-embeddings-inference and others read of a decoder's rotary positions.

    Without these keys they take the default of the family for the model's own base, and embed wrongly.
    """
    rotary = config.get("rope_parameters") or {}
    if "rope_theta" in rotary:
        scaling = {name: value for name, value in rotary.items() if name != "rope_theta"}
        scaled = scaling.get("rope_type", "default") != "default"
        return {"rope_theta": rotary["rope_theta"], **({"rope_scaling": scaling} if scaled else {})}
    if config["model_type"] != "gemma3_text":
        return {}
    is_global = [kind == "full_attention" for kind in config["layer_types"]]
    every = is_global.index(True) + 1 if any(is_global) else len(is_global) + 1
    repeats = is_global == [(layer + 1) % every == 0 for layer in range(len(is_global))]
    return {
        "rope_theta": rotary["full_attention"]["rope_theta"],
        "rope_local_base_freq": rotary["sliding_attention"]["rope_theta"],
        **({"sliding_window_pattern": every, "_sliding_window_pattern": every} if repeats else {}),
    }


def make_tokenizer_portable(folder: Path, model: "EmbeddingModel") -> None:
    """Change the tokenizer's files, as transformers 5 wrote them, so that every client reads them.

    Transformers 4 does not know version 5's name for a tokenizer without a class of its own, and gives token types to
    encoders that take none (DistilBERT) unless told otherwise; an embedding has a single token type anyway. Clients
    that pool by themselves cut texts at `model_max_length`, some at what tokenizer.json says, fastembed at the smaller
    of `model_max_length` and a `max_length` that the base may have. Tokenizer classes that make their normalizer or
    template anew would lose the lower-casing or the end token that we put there.
    """
    path = folder / "tokenizer_config.json"
    config = {key: value for key, value in read_json(path).items() if key not in _OF_AN_EARLIER_CALL}
    if config.get("tokenizer_class") == "TokenizersBackend" or (
        model.changed_tokenizer and model.tokenizer.is_fast
    ):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if model.tokenizer.padding_side != config.get("padding_side", "right"):
        config["padding_side"] = model.tokenizer.padding_side
    inputs, max_length = ["input_ids", "attention_mask"], model.max_length
    write_json(path, {**config, "model_input_names": inputs, "model_max_length": max_length})
    # transformers 5 left this file; fastembed asks for it.
    write_json(folder / "special_tokens_map.json", model.tokenizer.special_tokens_map)
    path = folder / "tokenizer.json"
    if path.exists():
        side = "Left" if config.get("truncation_side") == "left" else "Right"
        cut = {"direction": side, "max_length": max_length, "strategy": "LongestFirst", "stride": 0}
        write_json(path, {**read_json(path), "truncation": cut, "padding": None})
