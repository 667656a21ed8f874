"""How many positions an encoder has, and from which number it counts them."""

from typing import Any

from transformers import PreTrainedModel


def usable_positions(config: Any) -> int:
    """Return how many tokens the encoder has positions for."""
    positions = getattr(config, "max_position_embeddings", None) or 1_000_000
    shifted = config.model_type in (
        "roberta",
        "xlm-roberta",
        "camembert",
        "mpnet",
        "xlm-roberta-xl",
        "data2vec-text",
    )
    return positions - (config.pad_token_id or 0) - 1 if shifted else positions


def first_position(encoder: PreTrainedModel) -> int:
    """RoBERTa and its kin count positions from padding_idx + 1, all others from 0."""
    embeddings = getattr(encoder, "embeddings", None)
    creates = hasattr(embeddings, "create_position_ids_from_input_ids")
    return int(embeddings.padding_idx) + 1 if creates else 0  # type: ignore[union-attr]
