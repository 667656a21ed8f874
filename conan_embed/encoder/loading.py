"""Model folders and hub names to models, and back.

Loading reads the folder's layout (formats.py), lets transformers make encoder and tokenizer, and puts the folder's own
settings where the caller gave none. Saving writes a folder that the usual clients read, with its card.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from conan_embed.encoder.card import Interface, write_card
from conan_embed.encoder.formats import (
    ModelLayout,
    make_config_portable,
    make_tokenizer_portable,
    read_layout,
    write_layout,
)
from conan_embed.encoder.positions import usable_positions
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, read_json, write_json

if TYPE_CHECKING:
    from conan_embed.encoder.model import EmbeddingModel

    Model = TypeVar("Model", bound=EmbeddingModel)

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.py"]


def load(
    model_class: "type[Model]",
    base: str | Path,
    *,
    pooling: str | None,
    dense_width: int | None,
    widths: Sequence[int] | None,
    prompts: dict[str, str] | None,
    max_length: int | None,
    dropout: float | None,
    trust_remote_code: bool,
) -> "Model":
    """Load a model from a folder or the hub; see `EmbeddingModel.load`."""
    layout = read_layout(local_folder(str(base)))
    encoder, tokenizer, original_dropout = _load_transformer(str(base), layout, dropout, trust_remote_code)
    model = model_class(
        encoder,
        tokenizer,
        pooling=pooling or layout.pooling or "mean",
        dense_width=dense_width or layout.dense_width,
        widths=layout.widths if widths is None else widths,
        prompts={**layout.prompts, **(prompts or {})},
        max_length=max_length or _length_in_positions(layout, encoder.config),
    )
    model.original_dropout = original_dropout
    _load_dense(model, layout, base)
    return model


def _load_transformer(
    base: str, layout: ModelLayout, dropout: float | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, float]]:
    folder, trust = layout.transformer, {"trust_remote_code": trust_remote_code}
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, **trust)
            original_dropout = _set_dropout(config, dropout)
            encoder, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **trust,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
        except Exception as error:  # the libraries raise many kinds; each means that the model is unusable
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{base}: the model cannot be loaded: {reason}") from error
    _check_all_weights_present(base, report["missing_keys"])
    return encoder, tokenizer, original_dropout


def _check_all_weights_present(base: str, missing_keys: set[str]) -> None:
    missing = sorted(name for name in missing_keys if not name.startswith("pooler."))
    if missing:  # transformers would draw them at random
        raise UserError(
            f"{base}: the weights of {len(missing)} tensors are missing, for instance {missing[0]}."
        )


def _length_in_positions(layout: ModelLayout, config: Any) -> int | None:
    return None if layout.max_length is None else min(layout.max_length, usable_positions(config))


def _load_dense(model: "EmbeddingModel", layout: ModelLayout, base: str | Path) -> None:
    if layout.dense is None or model.dense is None:
        return
    if model.dense.weight.shape != layout.dense["weight"].shape:
        raise UserError(
            f"model.dense_width: {model.width} was asked for, but {base} has a dense layer of "
            f"{layout.dense_width}; expected that width or no setting."
        )
    nn.init.zeros_(model.dense.bias)  # a layer without a bias is one with zeros
    model.dense.load_state_dict(layout.dense, strict=False)


def _set_dropout(config: Any, value: float | None) -> dict[str, float]:
    """Set every dropout of the encoder to `value` (None: leave them); return the model's own, to be saved with it."""
    original = {
        name: setting
        for name, setting in vars(config).items()
        if "dropout" in name and isinstance(setting, float) and "classifier" not in name
    }
    for name, setting in original.items():
        setattr(config, name, setting if value is None else value)
    return original


def save(model: "EmbeddingModel", folder: Path, *, details: dict[str, Any] | None, card: Path | None) -> None:
    """Write the model's folder; see `EmbeddingModel.save`."""
    with atomic_write(folder) as aside:
        aside.mkdir()
        with quiet_transformers():
            # transformers notes the attention function in the config only in memory; nothing of ours is saved.
            model.encoder.save_pretrained(aside, safe_serialization=True)
            model.tokenizer.save_pretrained(aside)
        # Dropout was a setting of our run; those who train the model elsewhere find the base model's own.
        write_json(aside / "config.json", {**read_json(aside / "config.json"), **model.original_dropout})
        make_config_portable(aside)
        make_tokenizer_portable(aside)
        write_layout(
            aside,
            hidden=model.hidden,
            pooling=model.pooling,
            dense=model.dense,
            prompts=model.prompts,
            max_length=model.max_length,
            widths=model.widths,
            details=details,
        )
        interface = Interface(model.prompts, model.width, model.widths, model.max_length)
        write_card(aside, interface, details or {}, earlier=card)


def local_folder(base: str) -> Path:
    """Return the folder of a model, downloaded from the hub where `base` is a hub name.

    Raises:
        UserError: no such folder, or the hub does not have it.
    """
    if Path(base).expanduser().is_dir():
        return Path(base).expanduser()
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
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
