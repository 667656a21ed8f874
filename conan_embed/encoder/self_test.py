"""A new model proves itself: packed texts come out as its own attention gives them one by one.

Packing assumes that a layer works on single tokens, that only attention looks at others, and that attention asks for
nothing which `attention.packed_attention` does not do. Encoders for which this does not hold would train and embed
wrongly without a word. So a few made-up texts go through the encoder twice, packed and one by one with transformers'
own eager attention, and every hidden state is compared: some milliseconds for small models.

Shapes: T tokens, H hidden.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from conan_embed.encoder.attention import PACKED_ATTENTION, stock_attention
from conan_embed.encoder.packing import Packed, pack_flat
from conan_embed.encoder.positions import num_token_rows
from conan_embed.errors import UserError

if TYPE_CHECKING:
    from conan_embed.encoder.model import EmbeddingModel

_LENGTHS = (3, 9, 9, 21)  # tokens; a window that is not much longer adds a text that exceeds it
_LONGEST = 256
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
_KNOWN_LAYERS = ("full_attention", "sliding_attention")
_IDENTITY_POSITIONS = (None, "absolute")


def check_supported(encoder: PreTrainedModel) -> None:
    """Refuse, by name, encoders that packing cannot serve.

    Raises:
        UserError: no text encoder, an attention of its own, or layers that mix neighbouring tokens.
    """
    name, config = type(encoder).__name__, encoder.config
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model.base: {name} is an encoder with a decoder; expected one text encoder.")
    if not hasattr(config, "hidden_size") or getattr(encoder, "main_input_name", "") != "input_ids":
        raise UserError(
            f"model.base: {name} is no text encoder; expected a model from tokens to hidden states."
        )
    other_layers = sorted(set(getattr(config, "layer_types", None) or ()) - set(_KNOWN_LAYERS))
    if other_layers:
        raise UserError(
            f"model.base: {name} has layers of the kind {other_layers[0]!r}, which look at other tokens in a way that "
            f"cannot be packed; expected {' and '.join(_KNOWN_LAYERS)}."
        )
    if getattr(config, "trigram_input", False):
        raise UserError(
            f"model.base: {name} mixes the embeddings of neighbouring tokens (trigram_input), so that packed texts "
            "would see each other; expected an encoder in which attention alone looks at other tokens."
        )
    _check_position_type(encoder)
    if not getattr(encoder, "_supports_attention_backend", False):
        raise UserError(
            f"model.base: {name} has an attention (or another way to mix tokens) of its own and cannot be packed; "
            "expected one that transformers' AttentionInterface serves (BERT, RoBERTa, DistilBERT, ModernBERT, ...)."
        )


def _check_position_type(encoder: PreTrainedModel) -> None:
    """transformers 5 gave up relative positions in BERT and its kin, and ignores the key."""
    kind = getattr(encoder.config, "position_embedding_type", None)
    if kind not in _IDENTITY_POSITIONS and not any(
        hasattr(m, "position_embedding_type") for m in encoder.modules()
    ):
        raise UserError(
            f"model.base: config.json asks for position_embedding_type: {kind!r}, which {type(encoder).__name__} "
            "ignores; expected absolute positions."
        )


def check_finite(encoder: nn.Module, name: str) -> None:
    """Raise UserError where a weight is not a finite number."""
    for weight_name, weight in encoder.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(
                f"{name}: the weights {weight_name} hold NaN or infinity; expected finite numbers."
            )


@torch.no_grad()
def check_packing(model: "EmbeddingModel") -> None:
    """Compare packed texts with the encoder's own attention, text by text.

    Raises:
        UserError: they differ, or the encoder cannot embed texts at all.
    """
    encoder, was_training = model.encoder, model.encoder.training
    encoder.eval()
    try:
        _compare(model, _made_up_texts(model))
    except UserError:
        raise
    except Exception as error:  # whatever a foreign encoder raises means that it cannot be used
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"model.base: {type(encoder).__name__} cannot embed texts: {reason}") from error
    finally:
        encoder.train(was_training)


def _made_up_texts(model: "EmbeddingModel") -> list[np.ndarray]:
    window = max(
        (_window(model.encoder.config, name) for name in ("sliding_window", "local_attention")), default=0
    )
    lengths = [*_LENGTHS, window + 8] if 0 < window < _LONGEST else [*_LENGTHS]
    size = num_token_rows(model.encoder)
    ordinary = np.setdiff1d(
        np.arange(min(size, 4096)), [*model.tokenizer.all_special_ids, *_padding_ids(model)]
    )
    numbers = np.arange(sum(lengths)) * 7919
    tokens = np.resize(ordinary, size)[numbers % size] if len(ordinary) else numbers % size
    texts = np.split(tokens.astype(np.int64), np.cumsum(lengths)[:-1])
    return sorted((text[: model.max_length] for text in texts), key=len)


def _window(config: object, name: str) -> int:
    return getattr(config, name, None) or 0


def _padding_ids(model: "EmbeddingModel") -> list[int]:
    padding = model.encoder.config.pad_token_id
    return [] if padding is None else [padding]


def _compare(model: "EmbeddingModel", texts: Sequence[np.ndarray]) -> None:
    encoder = model.encoder
    with stock_attention(encoder, "eager"):
        expected = [_own_hidden_states(encoder, text, model.device) for text in texts]
    assert encoder.config._attn_implementation == PACKED_ATTENTION
    together = model.hidden_states(_packed(texts, model.device)).split([len(text) for text in texts])
    if not all(torch.isfinite(hidden_TH).all() for hidden_TH in (*expected, *together)):
        raise UserError(f"model.base: the hidden states of {type(encoder).__name__} are NaN or infinity.")
    difference = max(map(_relative_difference, together, expected))
    if difference <= _TOLERANCE.get(together[0].dtype, 0.1):
        return
    alone = [model.hidden_states(_packed([text], model.device)) for text in texts]
    mixing = max(map(_relative_difference, alone, expected)) < difference / 10
    reason = (
        "its layers mix neighbouring tokens" if mixing else "its attention or its positions differ from ours"
    )
    raise UserError(
        f"model.base: {type(encoder).__name__} cannot be packed: {reason}{_convolutions(encoder)} (packed texts come "
        f"out otherwise than one by one, relative difference {difference:.1g})."
    )


def _own_hidden_states(encoder: PreTrainedModel, text: np.ndarray, device: torch.device) -> torch.Tensor:
    ids_1T = torch.from_numpy(text)[None].to(device)
    return encoder(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T)).last_hidden_state[0]


def _packed(texts: Sequence[np.ndarray], device: torch.device) -> Packed:
    return pack_flat(np.concatenate(texts), np.array([len(text) for text in texts]), device)


def _relative_difference(found_TH: torch.Tensor, expected_TH: torch.Tensor) -> float:
    return float((found_TH - expected_TH).norm() / expected_TH.norm().clamp(min=1e-12))


def _convolutions(encoder: nn.Module) -> str:
    names = {type(module).__name__ for module in encoder.modules() if isinstance(module, nn.Conv1d)}
    return f" ({', '.join(sorted(names))})" if names else ""
