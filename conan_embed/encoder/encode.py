"""Texts to embeddings: tokenise, pack, embed in chunks, normalise each Matryoshka width.

Shapes: N texts, T tokens, D embedding width.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from conan_embed.console import progress_bar
from conan_embed.encoder.formats import check_widths
from conan_embed.errors import UserError

if TYPE_CHECKING:
    from conan_embed.encoder.model import EmbeddingModel

TOKEN_BUDGET = 16_384
"""Tokens of one packed chunk: large enough for full-speed matrix products, small enough for memory."""

PRECISIONS = ("float32", "bfloat16")
_TOKENIZE_BATCH = 4096


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which matrix products run in `precision` ("float32" or "bfloat16")."""
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision!r} is unknown; expected {' or '.join(PRECISIONS)}.")
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenise texts, special tokens included, cut to `max_length`.

    Returns:
        int32 [T] all tokens end to end, and int64 [N + 1] where each text begins.
    """
    tokens, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(texts), _TOKENIZE_BATCH):
        ids = tokenizer(
            list(texts[start : start + _TOKENIZE_BATCH]),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        tokens.append(np.fromiter(chain.from_iterable(ids), np.int32, int(counts.sum())))
        lengths.append(counts)
    return np.concatenate(tokens), np.cumsum(np.concatenate(lengths))


def tokenizer_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return everything that decides a text's tokens except the length.

    A fast tokenizer also writes down how it was called last (truncation, padding); that is left out.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps(state | {"truncation": None, "padding": None})


@torch.inference_mode()
def encode(
    model: "EmbeddingModel",
    texts: Sequence[str],
    *,
    prompt: str,
    widths: Sequence[int] | None,
    precision: str,
    token_budget: int,
    show_progress: bool,
) -> Any:
    """Return the embeddings of `texts`; see `EmbeddingModel.encode`."""
    check_widths(widths or (), model.width)
    tokens, offsets = model.tokenize([prompt + text for text in texts] if prompt else texts)
    with (
        _evaluation_mode(model),
        autocast(model.device, precision),
        _progress(len(texts), show_progress) as on_chunk,
    ):
        embedding_ND = model.embed_tokens(
            tokens, offsets, np.arange(len(texts)), token_budget=token_budget, on_chunk=on_chunk
        ).float()
    if widths is None:
        return _normalize(embedding_ND)
    return {width: _normalize(embedding_ND[:, :width]) for width in widths}


def _normalize(embedding_ND: torch.Tensor) -> np.ndarray:
    return nn.functional.normalize(embedding_ND, dim=1).cpu().numpy()


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def _progress(num_texts: int, show: bool) -> Iterator[Callable[[int], None] | None]:
    if not show:
        yield None
        return
    with progress_bar(transient=True) as progress:
        task = progress.add_task("encoding", total=num_texts, note="")
        yield lambda count: progress.advance(task, count)
