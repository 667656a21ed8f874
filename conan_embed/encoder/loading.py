"""Model folders and hub names to models, and back.

Loading reads the folder's layout (formats.py), lets transformers make encoder and tokenizer, and puts the folder's own
settings where the caller gave none. Saving writes a folder that the usual clients read, with its card.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from conan_embed.console import console
from conan_embed.encoder.adapter import (
    ADAPTER_CONFIG,
    adapter_base,
    merge_adapter,
    merged_weights,
    save_adapter,
)
from conan_embed.encoder.card import Interface, write_card
from conan_embed.encoder.decoders import append_end_token, check_attention, set_attention, set_padding_side
from conan_embed.encoder.dense import Dense, check_chain
from conan_embed.encoder.formats import ModelLayout, read_layout
from conan_embed.encoder.positions import usable_positions
from conan_embed.encoder.prompts import asks_for_instruction, published_prompts
from conan_embed.encoder.self_test import check_finite
from conan_embed.encoder.tokenizer import lowercase
from conan_embed.encoder.weight_files import missing_weights
from conan_embed.encoder.writing import make_config_portable, make_tokenizer_portable, write_layout
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, read_object

if TYPE_CHECKING:
    from conan_embed.encoder.model import EmbeddingModel

    Model = TypeVar("Model", bound=EmbeddingModel)

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.py", "README.md"]


def load(
    model_class: "type[Model]",
    base: str | Path,
    *,
    pooling: str | None,
    attention: str | None,
    end_token: bool | None,
    include_prompt: bool | None,
    dense_width: int | None,
    widths: Sequence[int] | None,
    prompts: dict[str, str] | None,
    instruction: str | None,
    max_length: int | None,
    dropout: float | None,
    trust_remote_code: bool,
) -> "Model":
    """Load a model from a folder or the hub; see `EmbeddingModel.load`."""
    folder = local_folder(str(base))
    layout = read_layout(folder)
    base_of_adapter = adapter_base(layout.transformer)
    if base_of_adapter is None:
        check_folder(str(base), layout.transformer, trust_remote_code)
    else:
        check_folder(base_of_adapter, weights_folder(base_of_adapter), trust_remote_code)
    encoder, tokenizer, original_dropout, missing, redirected = _load_transformer(
        str(base), layout, dropout, attention, trust_remote_code
    )
    check_finite(encoder, str(base))
    if layout.lowercase:
        lowercase(tokenizer)
    check_chain(folder, layout.dense, encoder.config.hidden_size)
    _check_dense_width(base, layout, dense_width)
    pooling = pooling or layout.pooling or "mean"
    check_attention(encoder, attention)
    becomes_last = pooling == "last" and layout.pooling != "last"
    appended = append_end_token(tokenizer, becomes_last if end_token is None else end_token)
    if becomes_last:
        set_padding_side(tokenizer, encoder)
    model = model_class(
        encoder,
        tokenizer,
        pooling=pooling,
        include_prompt=layout.include_prompt if include_prompt is None else include_prompt,
        dense_width=dense_width,
        dense_layers=[Dense.of(layer) for layer in layout.dense],
        widths=layout.widths if widths is None else widths,
        prompts={**layout.prompts.by_role(), **layout.templates, **_prompts(base, layout, prompts)},
        instruction=_noted_instruction(layout, prompts) if instruction is None else instruction,
        max_length=max_length or _length_in_positions(layout, encoder),
    )
    model.original_dropout, model.named_prompts = original_dropout, layout.prompts
    model.lowercase, model.dataset_prompts = layout.lowercase, dict(layout.dataset_prompts)
    model.changed_tokenizer = layout.lowercase or appended
    if redirected:  # clients of an adapter read the config of its base
        model.only_merged = f"the base does not attend in the direction of model.attention: {attention}"
    elif base_of_adapter is not None:
        model.only_merged = f"the base {base} is an adapter itself"
    for name in missing & model.unused_weights.keys():  # drawn at random, not the base's own
        del model.unused_weights[name]
    _warn_of_similarity(str(base), layout)
    return model


def _noted_instruction(layout: ModelLayout, prompts: dict[str, str] | None) -> str | None:
    """Return the folder's instruction, unless none of the prompts asks for one any more."""
    return layout.instruction if asks_for_instruction({**layout.templates, **(prompts or {})}) else None


def _prompts(base: str | Path, layout: ModelLayout, given: dict[str, str] | None) -> dict[str, str]:
    """Return the prompts that were given; where neither caller nor folder names any, those of the published model."""
    if given is not None or layout.prompts.by_name or layout.templates:
        return given or {}
    published = published_prompts(base)
    if published:
        console.print(
            f"{base}: names no prompts; queries begin with {published['query']!r} and passages with "
            f"{published['passage']!r}, as this model was trained. model.prompts gives others."
        )
    return published


def _load_transformer(
    base: str, layout: ModelLayout, dropout: float | None, attention: str | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, float], set[str], bool]:
    folder, trust = layout.transformer, {"trust_remote_code": trust_remote_code}
    base_of_adapter = adapter_base(folder)
    weights = folder if base_of_adapter is None else weights_folder(base_of_adapter)
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(weights, **layout.config_settings, **trust)
            original_dropout = _set_dropout(config, dropout)
            redirected = set_attention(config, attention)
            encoder, report = AutoModel.from_pretrained(
                weights,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **trust,
            )
            if base_of_adapter is not None:
                encoder = merge_adapter(encoder, folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, **layout.tokenizer_settings, **trust)
        except UserError:
            raise
        except Exception as error:  # the libraries raise many kinds; each means that the model is unusable
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{base}: the model cannot be loaded: {reason}") from error
    _check_all_weights_present(base, report["missing_keys"])
    return encoder, tokenizer, original_dropout, set(report["missing_keys"]), redirected


def weights_folder(base: str) -> Path:
    """Return the folder with `config.json` and the weights of a model of either layout."""
    return read_layout(local_folder(base)).transformer


def _check_all_weights_present(base: str, missing_keys: set[str]) -> None:
    missing = sorted(name for name in missing_keys if not name.startswith("pooler."))
    if missing:  # transformers would draw them at random
        raise UserError(
            f"{base}: the weights of {len(missing)} tensors are missing, for instance {missing[0]}."
        )


def check_folder(base: str, folder: Path, trust_remote_code: bool) -> None:
    """Refuse what transformers would pass over without a word.

    Raises:
        UserError: pickled weights only, code of the model's own without leave to run it, an adapter, quantised weights.
    """
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{base}: {missing_weights(folder, base)}")
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(f"{base}: the base of an adapter holds an adapter itself; expected whole weights.")
    for name in ("config.json", "tokenizer_config.json"):
        config = read_object(folder / name) if (folder / name).exists() else {}
        if config.get("auto_map") and not trust_remote_code:
            raise UserError(
                f"{folder / name}: the model comes with code of its own (auto_map); model.trust_remote_code: true runs "
                f"it, and without the key transformers' own {config.get('model_type', 'class')} is used."
            )
        if config.get("quantization_config"):
            raise UserError(
                f"{folder / name}: quantization_config is not supported; expected unquantised weights."
            )


def _length_in_positions(layout: ModelLayout, encoder: PreTrainedModel) -> int | None:
    return None if layout.max_length is None else min(layout.max_length, usable_positions(encoder))


def _check_dense_width(base: str | Path, layout: ModelLayout, dense_width: int | None) -> None:
    if layout.dense and dense_width not in (None, layout.width):
        raise UserError(
            f"model.dense_width: {dense_width} was asked for, but {base} has a dense layer of {layout.width}; expected "
            "that width or no setting."
        )


def _warn_of_similarity(base: str, layout: ModelLayout) -> None:
    if layout.similarity != "cosine":
        console.print(
            f"{base}: made for the similarity {layout.similarity!r} of vectors of any length "
            "(config_sentence_transformers.json); here its vectors have length 1 and are compared, trained and "
            "saved by cosine."
        )


def _set_dropout(config: Any, value: float | None) -> dict[str, float]:
    """Set every dropout of the encoder to `value` (None: leave them); return the model's own, to be saved with it."""
    original = {
        name: setting
        for name, setting in vars(config).items()
        if ("dropout" in name or name.endswith("pdrop"))  # resid_pdrop, embd_pdrop, attn_pdrop of GPT-2's kin
        and type(setting) in (float, int)  # a config may say 0; `True` is no probability
        and "classifier" not in name
    }
    for name, setting in original.items():
        setattr(config, name, setting if value is None else value)
    return original


def save(model: "EmbeddingModel", folder: Path, *, details: dict[str, Any] | None, card: Path | None) -> None:
    """Write the model's folder; see `EmbeddingModel.save`."""
    check_replaceable(folder)
    with atomic_write(folder) as aside:
        aside.mkdir()
        adapter = model.adapter if model.adapter is not None and model.adapter.save_as == "adapter" else None
        with quiet_transformers():
            if adapter is not None:
                save_adapter(model.encoder, adapter, aside)
            else:
                # transformers notes the attention function in the config only in memory; nothing of ours is saved.
                weights = (
                    model.encoder.state_dict() if model.adapter is None else merged_weights(model.encoder)
                )
                model.encoder.save_pretrained(
                    aside, state_dict=weights | model.unused_weights, safe_serialization=True
                )
            model.tokenizer.save_pretrained(aside)
        for name, data in model.vocabulary_files.items():
            (aside / name).write_bytes(data)
        if adapter is None:
            make_config_portable(aside, widths=model.widths, dropout=model.original_dropout)
        make_tokenizer_portable(aside, model)
        write_layout(aside, model, details or {})
        interface = Interface(model.prompts, model.width, model.widths, model.max_length)
        write_card(aside, interface, details or {}, earlier=card)


def check_replaceable(folder: str | Path) -> None:
    """Refuse to write a model over a folder that holds something else: all of it would be removed.

    Raises:
        UserError: the folder is neither empty nor a model folder of ours or of sentence-transformers.
    """
    folder = Path(folder)
    is_model = any((folder / name).is_file() for name in ("modules.json", "conan_embed.json"))
    if folder.is_dir() and any(folder.iterdir()) and not is_model:
        raise UserError(
            f"{folder}: is there already and holds no modules.json; expected a new folder, or one of a model, "
            "which is replaced."
        )


def is_path(base: str) -> bool:
    """Return whether `base` is a folder of this machine, or a name that the hub cannot have."""
    return Path(base).expanduser().is_dir() or base.startswith((".", "/", "~")) or base.count("/") > 1


def local_folder(base: str) -> Path:
    """Return the folder of a model, downloaded from the hub where `base` is a hub name.

    Raises:
        UserError: no such folder, or the hub does not have it.
    """
    if Path(base).expanduser().is_dir():
        return Path(base).expanduser()
    if is_path(base):
        raise UserError(f"model.base: {base}: no such folder.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"model.base: {base!r} is no folder and cannot be downloaded from the hub: {reason}"
        ) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and its warning about the pooler that we leave out on purpose."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
