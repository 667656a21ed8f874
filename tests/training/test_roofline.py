"""The fastest training that matrix products allow: from measured products and the weights of the encoder."""

import pytest
import torch

from conan_embed.training import roofline
from conan_embed.training.roofline import matmul_flops, matmul_peak_tokens_per_second
from tests.tiny_models import make_tiny_model


def test_a_step_spends_six_operations_per_token_and_weight(monkeypatch):
    model = make_tiny_model("bert", layers=3)
    monkeypatch.setattr(roofline, "matmul_flops", lambda *_: 1e9)
    layers = 3 * (4 * 32 * 32 + 2 * 32 * 64)  # attention and the two products of the inner layer
    pooler = 32 * 32 if hasattr(model.encoder, "pooler") and model.encoder.pooler is not None else 0
    assert matmul_peak_tokens_per_second(model, "float32") == pytest.approx(1e9 / (6 * (layers + pooler)))


def test_the_best_of_many_products_counts(monkeypatch):
    clock = iter([0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.75, 9.0])  # two products: half a second, a quarter
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(clock))
    flops = matmul_flops(4, 8, torch.device("cpu"), torch.float32, 1.0)
    assert flops == pytest.approx(2 * 8192 * 4 * 8 / 0.25)
