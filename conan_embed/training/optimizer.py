"""AdamW and its learning rate."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer

from conan_embed.recipes.sections import Optimizer


def make_optimizer(
    model: nn.Module, settings: Optimizer, *, share_state: bool = False
) -> torch.optim.Optimizer:
    """Return fused AdamW; weight decay on matrices only, as is usual for transformers.

    Args:
        share_state: every process keeps the moments of its share of the parameters (ZeRO stage 1).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.epsilon,
        "fused": True,
    }
    if share_state:
        return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, **options)
    return torch.optim.AdamW(groups, **options)


def learning_rate(settings: Optimizer, step: int, num_steps: int) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, then the schedule down to 0.

    Example:
        >>> settings = Optimizer(learning_rate=1.0, warmup_ratio=0.5)
        >>> [learning_rate(settings, step, 4) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    warmup = round(settings.warmup_ratio * num_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - progress)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + float(np.cos(np.pi * progress)))
    return settings.learning_rate
