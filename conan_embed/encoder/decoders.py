"""Language models as embedders: the direction of attention, the end token, the side of padding.

A decoder reads from left to right, so its last token is the only one that has seen the whole text: `pooling: last`
takes it, and wants a token there that always is the same. `attention: bidirectional` lets every token see all others
instead, as LLM2Vec and EmbeddingGemma do.
"""

import itertools
from typing import Any

from tokenizers import processors
from torch import nn
from transformers import PreTrainedTokenizerBase

from conan_embed.errors import UserError

ATTENTION = ("causal", "bidirectional")
_OWN_KEY = ("gemma3_text",)


def set_attention(config: Any, attention: str | None) -> bool:
    """Write the direction of attention into a transformers config; None leaves the model's own.

    Gemma 3 has a key of its own, the others obey transformers' `is_causal`.

    Returns:
        whether the config says something else now.
    """
    if attention is None:
        return False
    if attention not in ATTENTION:
        raise UserError(f"model.attention: {attention!r} is unknown; expected {' or '.join(ATTENTION)}.")
    key, value = "is_causal", attention == "causal"
    if config.model_type in _OWN_KEY:
        key, value = "use_bidirectional_attention", not value
    changed = bool(getattr(config, key, key == "is_causal")) != value
    if changed:
        setattr(config, key, value)
    return changed


def apply_direction(encoder: nn.Module) -> None:
    """Tell the attention layers that a config with `is_causal: false` lets every token see all others."""
    if getattr(encoder.config, "is_causal", True):
        return
    for module in encoder.modules():
        if hasattr(module, "is_causal"):
            setattr(module, "is_causal", False)  # noqa: B010 (modules declare no such attribute)


def is_causal(encoder: nn.Module) -> bool:
    """Return whether tokens see only those before them."""
    return any(getattr(module, "is_causal", False) for module in encoder.modules())


def check_attention(encoder: nn.Module, attention: str | None) -> None:
    """Raise UserError where `causal` was asked of an encoder that always reads in both directions."""
    apply_direction(encoder)
    if attention is not None and is_causal(encoder) != (attention == "causal"):
        raise UserError(
            f"model.attention: {attention} is not supported by {type(encoder).__name__}; expected no such setting."
        )


def needs_eager(encoder: nn.Module) -> bool:
    """Return whether clients must attend with transformers' eager function to get the direction right.

    Where a batch holds no padding, transformers' other functions ask the layer and not the config, and there a decoder
    is always causal.
    """
    return not getattr(encoder.config, "is_causal", True)


def append_end_token(tokenizer: PreTrainedTokenizerBase, wanted: bool) -> bool:
    """Let the tokenizer end every text with its end token, also where a text is cut.

    Returns:
        whether the tokenizer was changed: not where it ends texts with a special token already.

    Raises:
        UserError: it has no end token, or is written in Python.
    """
    if not wanted or _ends_with_special(tokenizer):
        return False
    name, end = type(tokenizer).__name__, tokenizer.eos_token
    if end is None:
        raise UserError(
            f"model.base: {name} has no end token for last-token pooling; expected eos_token in tokenizer_config.json, "
            "or model.end_token: false."
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"model.base: {name}, a tokenizer written in Python, does not end texts with {end!r} for last-token "
            "pooling; expected a fast one (tokenizer.json), or model.end_token: false."
        )
    ids = tokenizer("a")["input_ids"]
    start = [*itertools.takewhile(tokenizer.all_special_ids.__contains__, ids)]
    special = {token: tokenizer.convert_ids_to_tokens(token) for token in (*start, tokenizer.eos_token_id)}
    # Its own processor may put tokens in front: one template puts both, since two in a row are counted wrongly.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*(special[token] for token in start), "$A", end],
        pair=["$A", "$B:1", f"{end}:1"],
        special_tokens=[(name, token) for token, name in special.items()],
    )
    return True


def _ends_with_special(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[-1] in tokenizer.all_special_ids


def set_padding_side(tokenizer: PreTrainedTokenizerBase, encoder: nn.Module) -> None:
    """Pad a new last-token decoder on the left, where its users look for the last token at position -1.

    Positions that are counted from the left edge (GPT-2, OPT) would count the padding: they stay as they are.
    """
    if getattr(encoder.config, "rope_parameters", None) and is_causal(encoder):
        tokenizer.padding_side = "left"
