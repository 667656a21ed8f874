"""Learning rates by hand, and weight decay on matrices alone."""

import pytest

from conan_embed.recipes.sections import Optimizer
from conan_embed.training.optimizer import learning_rate, make_optimizer
from tests.tiny_models import make_tiny_model


def schedule(num_steps, **settings):
    optimizer = Optimizer(learning_rate=1.0, **settings)
    return [learning_rate(optimizer, step, num_steps) for step in range(num_steps)]


def test_learning_rates():
    assert schedule(10, warmup_ratio=0.2) == pytest.approx([0.5, 1.0, *(1 - i / 8 for i in range(8))])
    assert schedule(4, warmup_ratio=0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert schedule(4, warmup_ratio=0.0, schedule="cosine") == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])
    assert schedule(4, warmup_ratio=0.5, schedule="constant") == pytest.approx([0.5, 1.0, 1.0, 1.0])
    assert schedule(2, warmup_ratio=1.0) == pytest.approx([0.5, 1.0])


def test_weight_decay_is_for_matrices_alone():
    model = make_tiny_model("bert", dense_width=10)
    decay = {
        id(p): group["weight_decay"]
        for group in make_optimizer(model, Optimizer(weight_decay=0.25)).param_groups
        for p in group["params"]
    }
    found = {name: decay.pop(id(parameter)) for name, parameter in model.named_parameters()}
    assert not decay
    for name, value in found.items():
        assert value == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.25), name
