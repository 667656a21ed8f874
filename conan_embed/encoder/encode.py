"""Texts to embeddings: tokenise, pack, embed in chunks, normalise each Matryoshka width.

Shapes: N texts, T tokens, D embedding width.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from conan_embed.console import progress_bar
from conan_embed.encoder.formats import check_widths
from conan_embed.errors import NotFinite, UserError

if TYPE_CHECKING:
    from conan_embed.encoder.model import EmbeddingModel

TOKEN_BUDGET = 16_384
"""Tokens of one packed chunk: large enough for full-speed matrix products, small enough for memory."""

PRECISIONS = ("float32", "bfloat16")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which matrix products run in `precision` ("float32" or "bfloat16")."""
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision!r} is unknown; expected {' or '.join(PRECISIONS)}.")
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


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
    tokens, offsets = model.tokenize([prompt + text for text in texts] if prompt else texts, prompt=prompt)
    check_not_empty(texts, offsets)
    with (
        _evaluation_mode(model),
        autocast(model.device, precision),
        _progress(len(texts), show_progress) as on_chunk,
    ):
        embedding_ND = model.embed_tokens(
            tokens, offsets, np.arange(len(texts)), token_budget=token_budget, on_chunk=on_chunk
        ).float()
    check_embeddings(embedding_ND, texts)
    if widths is None:
        return _normalize(embedding_ND)
    return {width: _normalize(embedding_ND[:, :width]) for width in widths}


def check_not_empty(texts: Sequence[str], offsets: np.ndarray) -> None:
    """Raise UserError where a text has no token, naming the first such text."""
    lengths = np.diff(offsets)
    if not lengths.all():
        text = texts[int(lengths.argmin())]
        raise UserError(
            f"text {text[:80]!r}: the tokenizer drops all of it and adds no special tokens; expected a text of at "
            "least one token."
        )


def check_embeddings(embedding_ND: torch.Tensor, texts: Sequence[str]) -> None:
    """Raise NotFinite where an embedding is not made of finite numbers, naming the first such text."""
    finite_N = torch.isfinite(embedding_ND).all(dim=1)
    if not finite_N.all():
        text = texts[int(finite_N.long().argmin())]
        raise NotFinite(
            f"the embeddings of {int((~finite_N).sum())} of {len(texts)} texts are not finite numbers, for instance "
            f"of {text[:80]!r}; expected neither NaN nor infinity (is float32 precision needed?)."
        )


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
