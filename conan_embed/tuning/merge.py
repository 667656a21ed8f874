"""Two models of one shape to one: weights interpolated (WiSE-FT, arXiv 2109.01903; LM-Cocktail, arXiv 2311.13534).

A model fine-tuned from a base gains on its data and loses elsewhere. Weights between the two mostly keep most of the
gain and lose much less: worth a look after every fine-tuning, since it costs no training.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from conan_embed.encoder.loading import check_replaceable
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError


def merge_models(first: str | Path, second: str | Path, output: str | Path, *, share: float = 0.5) -> Path:
    """Write a model whose weights are `share` of the first model's plus the rest of the second's.

    Pooling, prompts, lengths and widths are the first model's.

    Args:
        first, second: folders or hub names; one architecture, one vocabulary.
        output: folder to write; a model that is there is replaced.
        share: 0 to 1.

    Raises:
        UserError: the models have weights of different names or shapes, or different tokenizers, or `output` holds
            something else than a model.

    Example:
        >>> merge_models("runs/tune/training/model", "base", "merged", share=0.7)  # doctest: +SKIP
    """
    if not 0 <= share <= 1:
        raise UserError(f"share: found {share:g}, expected a number from 0 to 1.")
    check_replaceable(output)
    one, two = EmbeddingModel.load(first), EmbeddingModel.load(second)
    if one.tokenizer_text() != two.tokenizer_text():
        raise UserError(f"{first} and {second}: have different tokenizers; expected models of one family.")
    set_weights(one, interpolate(weights_of(one), weights_of(two), share, names=(str(first), str(second))))
    one.save(output)
    return Path(output)


def weights_of(model: EmbeddingModel) -> dict[str, torch.Tensor]:
    """Return a copy of the model's weights on the CPU."""
    return {name: weight.detach().cpu().clone() for name, weight in model.state_dict().items()}


def set_weights(model: EmbeddingModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Put weights of `weights_of` into a model, in place."""
    model.load_state_dict(weights)


def interpolate(
    first: Mapping[str, torch.Tensor],
    second: Mapping[str, torch.Tensor],
    share: float,
    *,
    names: tuple[str, str] = ("first", "second"),
) -> dict[str, torch.Tensor]:
    """Return `share` of the first weights plus `1 - share` of the second, computed in float32.

    Raises:
        UserError: a weight that only one has, or of different shapes.
    """
    for name in sorted({*first} ^ {*second}):
        owner, other = names if name in first else names[::-1]
        raise UserError(f"{owner}: has the weight {name}, which {other} lacks; expected models of one shape.")
    for name, weight in first.items():
        if weight.shape != second[name].shape:
            raise UserError(
                f"{name}: {names[0]} has {tuple(weight.shape)}, {names[1]} has {tuple(second[name].shape)}; "
                "expected models of one shape."
            )
    return {name: _between(weight, second[name], share) for name, weight in first.items()}


def _between(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    if not first.is_floating_point():
        return first  # counters and position ids
    return (share * first.float() + (1 - share) * second.float()).to(first.dtype)
