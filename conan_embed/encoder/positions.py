"""How many tokens and positions an encoder has, and how it counts positions.

Most encoders count 0, 1, 2, ... RoBERTa and its kin begin at `padding_idx + 1` and do not count padding tokens, which
all stand at `padding_idx`: so does a padding token that a user wrote into a text.
"""

import numpy as np
import torch
from transformers import PreTrainedModel

from conan_embed.encoder.packing import Packed


def padding_index(encoder: PreTrainedModel) -> int | None:
    """Return the position of padding where the encoder counts as RoBERTa does, else None."""
    embeddings = getattr(encoder, "embeddings", None)
    counts_like_roberta = hasattr(embeddings, "create_position_ids_from_input_ids")
    return int(embeddings.padding_idx) if counts_like_roberta else None  # type: ignore[union-attr]


def usable_positions(encoder: PreTrainedModel) -> int:
    """Return the most tokens of a text that the encoder has positions for."""
    positions = getattr(encoder.config, "max_position_embeddings", None) or 1_000_000
    padding = padding_index(encoder)
    return positions if padding is None else positions - padding - 1


def steady_positions(encoder: PreTrainedModel) -> int:
    """Return the most tokens of texts whose rotary positions do not depend on their neighbours in a batch or stream.

    transformers chooses LongRoPE's frequencies for all texts of a call by the longest of them. (The frequencies of
    dynamic RoPE change only beyond the positions that the model has.)
    """
    rotary = getattr(encoder.config, "rope_parameters", None) or {}
    kinds = [
        rotary,
        *(part for part in rotary.values() if isinstance(part, dict)),
    ]  # of all layers, or by their type
    long = [kind for kind in kinds if kind.get("rope_type") == "longrope"]
    steady = [kind["original_max_position_embeddings"] for kind in long]
    return min([usable_positions(encoder), *steady])


def num_token_rows(encoder: PreTrainedModel) -> int:
    """Return how many tokens the encoder's table of embeddings has rows for."""
    table = encoder.get_input_embeddings()
    assert isinstance(table.num_embeddings, int)
    return table.num_embeddings


def position_ids(packed: Packed, padding: int | None) -> torch.Tensor:
    """Return int64 [T], the position of each token in its text as the encoder counts (`padding_index`)."""
    if padding is None:
        return packed.position_ids_T
    real_T = (packed.token_ids_T != padding).long()
    counted_T = real_T.cumsum(0)
    # counted before each text, repeated over its tokens
    starts = np.repeat(packed.offsets[:-1], packed.lengths_N)
    before_T = (counted_T - real_T).index_select(0, packed.tensor("starts", starts))
    return (counted_T - before_T) * real_T + padding
