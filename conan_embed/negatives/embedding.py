"""Embedding texts of the store with the model as it is now, the work shared out over the processes."""

from collections.abc import Callable

import numpy as np
import torch
import xxhash

from conan_embed.console import progress_bar
from conan_embed.device import to_device
from conan_embed.distributed import collectives
from conan_embed.distributed.placement import shares
from conan_embed.encoder.encode import TOKEN_BUDGET, autocast
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.passes import num_passes
from conan_embed.errors import UserError
from conan_embed.texts.store import TextStore

Embed = Callable[[np.ndarray, str], torch.Tensor]
"""Text ids int64 [N] and a word for the progress bar to float32 [N, D], rows of length 1."""


def embed_with(
    model: EmbeddingModel, store: TextStore, precision: str, chunk_tokens: int | None = None
) -> Embed:
    """Return a function that embeds texts of the store, without gradient, rows of length 1.

    Each process embeds its share of the texts, and every process gets all rows.
    """
    budget = chunk_tokens or TOKEN_BUDGET

    @torch.no_grad()
    def embed(text_ids: np.ndarray, description: str) -> torch.Tensor:
        was_training = model.training
        model.eval()
        parts = shares(
            store.lengths(text_ids), np.zeros(len(text_ids), bool), collectives.world_size(), "balanced"
        )
        mine = text_ids[parts[collectives.rank()]]
        with autocast(model.device, precision), progress_bar(transient=True) as progress:
            task = progress.add_task(description, total=len(mine), note="", visible=bool(description))
            rows = model.embed_tokens(
                store.tokens,
                store.offsets,
                mine,
                token_budget=budget,
                num_passes=num_passes(model, store, [text_ids[part] for part in parts], budget),
                on_chunk=lambda count: progress.advance(task, count),
            )
        model.train(was_training)
        if description:  # long enough for a progress bar: shares are not ready at the same time
            collectives.barrier()
        rows = torch.nn.functional.normalize(rows.float(), dim=1)
        if description and not collectives.all_true(bool(torch.isfinite(rows).all())):
            raise UserError(
                f"{description}: an embedding is not a finite number; expected a model whose all are."
            )
        all_rows = collectives.all_gather_rows(rows, [len(part) for part in parts])
        return all_rows[to_device(np.argsort(np.concatenate(parts)), all_rows.device)]

    return embed


class EmbedOnce:
    """An `Embed` of a model that does not change: texts asked for again, in the same order, are not embedded again.

    Mining and a new bank of passages read the same embeddings, and these are most of the time before the first step.
    Memory: all rows that were asked for, until the object goes.
    """

    def __init__(self, embed: Embed) -> None:
        self.embed = embed
        self._rows: dict[int, torch.Tensor] = {}

    def __call__(self, text_ids: np.ndarray, description: str) -> torch.Tensor:
        key = xxhash.xxh3_64_intdigest(text_ids.astype(np.int64).tobytes())
        if key not in self._rows:
            self._rows[key] = self.embed(text_ids, description)
        return self._rows[key]
