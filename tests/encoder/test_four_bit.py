"""A base in 4 bits: levels of NF4, products and gradients of the unpacked weights, and the merged model."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from conan_embed.encoder.adapter import add_lora, frozen_identity, merged_weights
from conan_embed.encoder.four_bit import Linear4bit, pack_layers
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.recipes.sections import Lora
from tests.encoder.families import PACKABLE, random_encoder
from tests.encoder.test_adapter import adapt
from tests.encoder.test_self_test import LENGTHS, make, random_texts
from tests.tiny_models import SENTENCES, make_tiny_model, tiny_encoder

pytest.importorskip("peft")
LORA = Lora(rank=4, bits=4)


def test_without_bitsandbytes_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        UserError, match=r"model.lora.bits: 4 needs the package bitsandbytes.*conan-embed\[lora-4bit\]"
    ):
        add_lora(make_tiny_model("bert"), LORA, "base")


@pytest.fixture
def installed():
    pytest.importorskip("bitsandbytes")


# The 16 quantiles of a normal distribution, from the paper's appendix E.
LEVELS = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
LEVELS += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]


@pytest.mark.usefixtures("installed")
def test_a_weight_is_the_nearest_level_of_its_block():
    """By hand: blocks of 64 in order of the rows, whose largest numbers are kept in 8 bits."""
    layer = nn.Linear(192, 20)
    unpacked = Linear4bit(layer).unpacked().double().numpy().reshape(-1, 64)
    levels = np.array(LEVELS)
    for row, given in zip(unpacked, layer.weight.detach().double().numpy().reshape(-1, 64), strict=True):
        largest = np.abs(given).max()
        nearest = levels[np.abs(given[:, None] / largest - levels).argmin(axis=1)]
        assert row / np.abs(row).max() == pytest.approx(nearest, abs=1e-6)
        assert np.abs(row).max() == pytest.approx(largest, rel=0.06)
    assert unpacked.shape == (60, 64)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_and_gradients_are_those_of_the_unpacked_weight(precision):
    layer = nn.Linear(128, 40)
    packed = Linear4bit(layer)
    reference = nn.Linear(128, 40)
    reference.load_state_dict({"weight": packed.unpacked(), "bias": layer.bias.detach()})
    results = []
    for each in (packed, reference):
        x = torch.randn(7, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            product = each(x)
        product.float().square().sum().backward()
        results.append((product.dtype, product.detach().float(), x.grad))
    (dtype, found, gradient), (expected_dtype, expected, expected_gradient) = results
    assert dtype == expected_dtype and packed.bias is layer.bias and packed.weight.dtype == torch.uint8
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if precision == "bfloat16" else {}
    torch.testing.assert_close(found, expected, **tolerance)
    torch.testing.assert_close(gradient, expected_gradient, **tolerance)


def encoder_of(family):
    """An encoder whose rows are whole blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "bert":
            return tiny_encoder("bert", hidden=64)
        kind, arguments = PACKABLE[family]
        return random_encoder(kind, arguments | {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128})


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("family", ["bert", "qwen3"])
@pytest.mark.parametrize("targets", ["all", "attention"])
def test_the_merged_model_embeds_as_the_adapted_one_and_learns_alike(family, targets, tmp_path):
    """The reference: the same adapter on the unpacked weights in float32."""
    model = adapt(make(encoder_of(family)), Lora(rank=4, bits=4, targets=targets))
    reference = make(encoder_of(family))
    pack_layers(reference.encoder)
    for name, layer in list(reference.encoder.named_modules()):
        if isinstance(layer, Linear4bit):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.weight.data = layer.unpacked()
            plain.bias = layer.bias
            parent, _, last = name.rpartition(".")
            setattr(reference.encoder.get_submodule(parent), last, plain)
    adapt(reference, Lora(rank=4, targets=targets))
    packed = [layer for layer in model.encoder.modules() if isinstance(layer, Linear4bit)]
    assert len(packed) == sum(
        type(layer) is nn.Linear for layer in make(encoder_of(family)).encoder.modules()
    )
    tokens, offsets = random_texts()
    for each in (model, reference):
        each.embed_tokens(tokens, offsets, np.arange(len(LENGTHS)), token_budget=60).square().sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    assert any("lora_A" in name for name in trained)
    for name, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, reference.get_parameter(name).grad, rtol=1e-3, atol=1e-6)
    merged, expected = merged_weights(model.encoder), merged_weights(reference.encoder)
    assert merged.keys() == expected.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model")
    loaded = EmbeddingModel.load(tmp_path / "model").encode(SENTENCES, precision="float32")
    np.testing.assert_allclose(loaded, model.encode(SENTENCES, precision="float32"), atol=1e-5)


@pytest.mark.usefixtures("installed")
def test_rows_that_are_not_whole_blocks_stay_as_they_are():
    encoder = tiny_encoder("bert", hidden=32)
    pack_layers(encoder)
    kinds = {layer.in_features: type(layer) for layer in encoder.modules() if isinstance(layer, nn.Linear)}
    assert kinds == {32: nn.Linear, 64: Linear4bit}


@pytest.mark.usefixtures("installed")
def test_packed_weights_are_small_and_have_an_identity():
    plain, packed = (adapt(make(encoder_of("bert")), Lora(rank=2, bits=bits)) for bits in (None, 4))

    def size(model):
        return sum(
            p.numel() * p.element_size()
            for n, p in model.encoder.named_parameters()
            if ".base_layer.weight" in n
        )

    assert size(packed) * 8 == size(plain)
    again = adapt(make(encoder_of("bert")), Lora(rank=2, bits=4))
    assert frozen_identity(packed) == frozen_identity(again) != frozen_identity(plain)
