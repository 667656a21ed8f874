"""Read model folders: everything in them that changes an embedding is honoured, or refused by name.

A folder of sentence-transformers is `modules.json`, which lists a Transformer, a Pooling, perhaps Dense layers and a
Normalize, plus prompts in `config_sentence_transformers.json`; every version's file names and keys are read. A folder
without `modules.json` is one of plain transformers. Weights are read from safetensors only: a pickle can run code.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conan_embed.encoder.dense import DenseLayer, check_input_and_output, check_keys, read_dense_layer
from conan_embed.encoder.prompts import Prompts, read_prompts
from conan_embed.errors import UserError
from conan_embed.files import read_json, read_object

POOLINGS = ("cls", "mean", "last")
POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}
_DEFAULT_LENGTH = (
    512  # of plain transformers folders, which say what the encoder can, not what it was made for
)

_TRANSFORMER_FILES = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
# Keys of those files, by what is done with them. Others are refused, and so are these with other values than theirs.
_MODEL_SETTINGS, _TOKENIZER_SETTINGS = ("model_args", "model_kwargs"), ("tokenizer_args", "processor_kwargs")
_CONFIG_SETTINGS = ("config_args", "config_kwargs")
_READ = ("max_seq_length", "do_lower_case", "modality_config", "unpad_inputs")
_ONLY_VALUES: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "tokenizer_name_or_path": (None,),
    "processing_kwargs": (None, {}),
    **dict.fromkeys(("query_length", "document_length", "query_expansion"), (None,)),
}
_POOLING_CONFIG_KEYS = ("word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt")
# Arguments of `from_pretrained` that change where and how weights are loaded, not what they compute.
_HARMLESS_MODEL_SETTINGS = frozenset(
    {
        *(
            "torch_dtype",
            "dtype",
            "attn_implementation",
            "device_map",
            "low_cpu_mem_usage",
            "use_safetensors",
        ),
        *("trust_remote_code", "add_pooling_layer", "revision", "cache_dir", "token", "local_files_only"),
    }
)


@dataclass(frozen=True)
class ModelLayout:
    """What a model folder says beside the transformer itself.

    Attributes:
        transformer: the folder with `config.json` and the tokenizer.
        pooling: one of POOLINGS, or None where the folder does not say.
        include_prompt: the tokens of the prompt are pooled with those of the text.
        dense: the layers after pooling, in order.
        prompts: text put before the texts of each role, and the folder's own names for them.
        max_length: tokens, or None.
        widths: Matryoshka prefixes; empty where the folder does not say.
        lowercase: texts are lower-cased before the tokenizer sees them.
        tokenizer_settings, config_settings: arguments for transformers' tokenizer and config.
        templates, instruction, dataset_prompts: see `EmbeddingModel`.
        similarity: that the model was made for ("cosine", "dot", ...); embeddings count as normalised if it says so.
    """

    transformer: Path
    pooling: str | None = None
    include_prompt: bool = True
    dense: tuple[DenseLayer, ...] = ()
    prompts: Prompts = field(default_factory=Prompts)
    max_length: int | None = None
    widths: tuple[int, ...] = ()
    lowercase: bool = False
    tokenizer_settings: dict[str, Any] = field(default_factory=dict)
    config_settings: dict[str, Any] = field(default_factory=dict)
    similarity: str = "cosine"
    templates: dict[str, str] = field(default_factory=dict)
    instruction: str | None = None
    dataset_prompts: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def width(self) -> int | None:
        """Numbers of an embedding where a dense layer sets it."""
        return self.dense[-1].out_features if self.dense else None


def read_layout(folder: Path) -> ModelLayout:
    """Read a local model folder, of sentence-transformers or of plain transformers.

    Raises:
        UserError: the folder is no model, asks for something that we do not do, or has pickled weights only.
    """
    if not (folder / "modules.json").exists():
        if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
            raise UserError(f"{folder}: not a model: it holds neither modules.json nor config.json.")
        length = _tokenizer_length(folder)
        return ModelLayout(
            folder, max_length=length and min(length, _DEFAULT_LENGTH), widths=_widths(folder, folder)
        )
    modules = _modules(folder)
    (_, transformer), (_, pooling), *after = modules
    normalized = bool(after) and after[-1][0] == "Normalize"
    prompts, similarity = read_prompts(folder / "config_sentence_transformers.json")
    dense = tuple(read_dense_layer(path) for kind, path in after if kind == "Dense")
    return ModelLayout(
        transformer,
        pooling=(mode := _pooling(pooling / "config.json")),
        # The last token is the same with the prompt or without.
        include_prompt=mode == "last"
        or bool(read_object(pooling / "config.json").get("include_prompt", True)),
        dense=dense,
        prompts=prompts,
        widths=_widths(folder, transformer),
        # Of vectors of length 1 the dot product is the cosine, and distances order them alike.
        similarity="cosine" if normalized and similarity in ("dot", "euclidean") else similarity,
        **_transformer_settings(transformer),
        **_prompt_settings(folder),
    )


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return kind and folder of each module, in order."""
    path = folder / "modules.json"
    listed = read_json(path)
    if not isinstance(listed, list) or not all(map(_is_module, listed)):
        raise UserError(f"{path}: expected a list of modules, each with its type and path.")
    modules = [(module["type"], folder / module["path"]) for module in listed]
    for type_, _ in modules:
        if not type_.startswith("sentence_transformers."):
            raise UserError(
                f"{path}: module {type_!r} is code of the model's own, which is not run; expected modules of "
                "sentence-transformers."
            )
    kinds = [type_.rsplit(".", 1)[-1] for type_, _ in modules]
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise UserError(
                f"{path}: module {kind!r} is not supported; expected Transformer, Pooling, Dense and Normalize."
            )
    middle = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or set(middle) > {"Dense"}:
        raise UserError(
            f"{path}: modules in the order {', '.join(kinds)}; expected Transformer, Pooling, any Dense, Normalize."
        )
    if kinds[-1] == "Normalize" and (path := modules[-1][1] / "config.json").exists():
        check_input_and_output(path, read_object(path))
    return [(kind, path) for kind, (_, path) in zip(kinds, modules, strict=True)]


def _is_module(value: Any) -> bool:
    return (
        isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("path"), str)
    )


def _transformer_settings(folder: Path) -> dict[str, Any]:
    """Read sentence_bert_config.json, or the file of one of its older names."""
    path = next((folder / name for name in _TRANSFORMER_FILES if (folder / name).exists()), None)
    config = {} if path is None else read_object(path)
    for key, value in config.items():
        _check_transformer_key(path, key, value)
    tokenizer_settings = _settings(config, _TOKENIZER_SETTINGS)
    length = config.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise UserError(f"{path}: max_seq_length: found {length!r}, expected a number of tokens.")
    length = length or tokenizer_settings.get("model_max_length")
    return {
        "max_length": int(length) if length else _tokenizer_length(folder),
        "lowercase": bool(config.get("do_lower_case")),
        "tokenizer_settings": tokenizer_settings,
        "config_settings": _settings(config, _CONFIG_SETTINGS),
    }


def _settings(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    merged = {key: value for name in names for key, value in (config.get(name) or {}).items()}
    return {
        key: value for key, value in merged.items() if key != "trust_remote_code"
    }  # that is the user's to say


def _check_transformer_key(path: Path | None, key: str, value: Any) -> None:
    if key in _MODEL_SETTINGS:
        other = sorted(set(value or {}) - _HARMLESS_MODEL_SETTINGS)
        if other:
            raise UserError(f"{path}: {key}: {other[0]} is not supported; expected none.")
    elif key == "modality_config":
        text = (value or {}).get("text", {"method": "forward"})
        if (
            text.get("method") != "forward"
            or text.get("method_output_name", "last_hidden_state") != "last_hidden_state"
        ):
            raise UserError(f"{path}: {key}: found {text} for texts; expected forward and last_hidden_state.")
    elif key in _ONLY_VALUES:
        if value not in _ONLY_VALUES[key]:
            raise UserError(f"{path}: {key}: {value!r} is not supported; expected {_ONLY_VALUES[key][0]!r}.")
    elif key not in (*_READ, *_TOKENIZER_SETTINGS, *_CONFIG_SETTINGS):
        raise UserError(f"{path}: unknown key {key!r}; expected a setting that sentence-transformers writes.")


def _tokenizer_length(folder: Path) -> int | None:
    """The length that the tokenizer cuts at; a huge number stands for none."""
    path = folder / "tokenizer_config.json"
    length = read_object(path).get("model_max_length") if path.exists() else None
    return int(length) if length is not None and length < 1e9 else None


def _pooling(path: Path) -> str:
    config = read_object(path)
    check_keys(
        path, config, {*_POOLING_CONFIG_KEYS, *(key for key in config if key.startswith("pooling_mode_"))}
    )
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    if "pooling_mode" in config:  # sentence-transformers 6: one name, or several
        mode = config["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else mode
    names = {key: name for name, key in POOLING_KEYS.items()} | {
        "cls": "cls",
        "mean": "mean",
        "lasttoken": "last",
    }
    if len(modes) != 1 or modes[0] not in names:
        raise UserError(
            f"{path}: pooling {' and '.join(modes) or 'none'} is not supported; expected one of {', '.join(POOLINGS)}."
        )
    return names[modes[0]]


def _prompt_settings(folder: Path) -> dict[str, Any]:
    path = folder / "conan_embed.json"
    noted = read_json(path) if path.exists() else {}
    return {name: noted[name] for name in ("templates", "instruction", "dataset_prompts") if name in noted}


def _widths(folder: Path, transformer: Path) -> tuple[int, ...]:
    """Matryoshka widths as we note them, or as other trainers keep them and vLLM reads them."""
    path = folder / "conan_embed.json"
    if path.exists():
        return _as_widths(path, "widths")
    path = transformer / "config.json"
    return _as_widths(path, "matryoshka_dimensions") if path.exists() else ()


def _as_widths(path: Path, key: str) -> tuple[int, ...]:
    widths = read_object(path).get(key) or ()
    if not isinstance(widths, list | tuple) or not all(type(width) is int for width in widths):
        raise UserError(f"{path}: {key}: found {widths!r}, expected a list of widths.")
    return tuple(widths)


def check_widths(widths: Any, width: int) -> tuple[int, ...]:
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
