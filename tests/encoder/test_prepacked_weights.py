"""Blocked weights multiply as autocast does, only while texts are encoded, and with the weights of that moment."""

import copy
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from conan_embed.encoder import prepacked_weights as code
from conan_embed.encoder.packed_encoder import compiled_graphs, encoder_layers
from conan_embed.encoder.prepacked_weights import prepacked_weights
from tests.encoder.test_packed_encoder import LENGTHS, random_texts
from tests.tiny_models import FAMILIES, make_tiny_model

pytestmark = pytest.mark.skipif(
    not code._available(), reason="needs oneDNN's bfloat16 products (x86-64 with AVX-512)"
)


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 128, 4096])
@pytest.mark.parametrize(("inputs", "outputs"), [(384, 1536), (1536, 384), (40, 24)])
def test_products_against_float64(rows, inputs, outputs, bias):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias)
    tensor = torch.randn(1, rows, inputs)
    with torch.inference_mode(), autocast(), prepacked_weights(nn.Sequential(layer)):
        found = layer(tensor)
    assert found.dtype == torch.bfloat16
    rounded = [x.to(torch.bfloat16).double() for x in (tensor, layer.weight.detach())]
    expected = rounded[0] @ rounded[1].T
    if bias:
        expected += layer.bias.detach().to(torch.bfloat16).double()
    # One rounding of the result (2^-9 of it), and float32 additions of terms that may cancel.
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_a_family_takes_part_and_embeddings_stay(family):
    model = make_tiny_model(family, pooling="mean").eval()
    tokens, offsets = random_texts()
    text_ids = np.arange(len(LENGTHS))
    plain = copy.deepcopy(model)
    with torch.inference_mode():
        exact = model.embed_tokens(tokens, offsets, text_ids)
        with autocast():
            by_autocast = plain.embed_tokens(tokens, offsets, text_ids)  # a single chunk
            taken = mock.Mock(side_effect=code._Product.__call__, autospec=True)
            with mock.patch.object(code._Product, "__call__", lambda *words: taken(*words)):
                found = model.embed_tokens(tokens, offsets, text_ids, token_budget=60)
    layers = sum(type(layer) is nn.Linear for layer in model.encoder.modules())
    served = {id(call.args[0]) for call in taken.call_args_list}
    assert len(served) > 0 and len(served) >= layers - 1  # a BERT's own pooling layer is not asked
    assert not any("forward" in vars(layer) for layer in model.encoder.modules())

    def error(embeddings):
        return (1 - torch.cosine_similarity(embeddings, exact)).max()

    assert 0 < error(found) < 2 * error(by_autocast) < 1e-2


def test_weights_are_those_of_the_moment():
    layer = nn.Linear(64, 64)
    tensor = torch.randn(2, 64)

    def product():
        with torch.inference_mode(), autocast(), prepacked_weights(nn.Sequential(layer)):
            return layer(tensor)

    first = product()
    with torch.no_grad():
        layer.weight.mul_(2.0)
        layer.bias.mul_(2.0)
    torch.testing.assert_close(product(), 2 * first, rtol=0, atol=0)


def test_nothing_is_blocked_where_gradients_or_float32_are_wanted():
    model = make_tiny_model("bert")
    tokens, offsets = random_texts()
    text_ids = np.arange(len(LENGTHS))
    with mock.patch.object(code._Product, "__init__", side_effect=AssertionError):
        with autocast():
            model.embed_tokens(tokens, offsets, text_ids, token_budget=60).sum().backward()
        with torch.inference_mode():
            model.embed_tokens(tokens, offsets, text_ids, token_budget=60)
    assert all(parameter.grad is not None for parameter in model.encoder.encoder.parameters())


def test_layers_are_restored_after_a_failure_and_others_left_alone():
    class Adapted(nn.Linear):
        pass

    layers = nn.Sequential(nn.Linear(8, 8), Adapted(8, 8), nn.Linear(8, 8, dtype=torch.float64))

    def stopped():
        with autocast(), prepacked_weights(layers):
            assert ["forward" in vars(layer) for layer in layers] == [True, False, False]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert not any("forward" in vars(layer) for layer in layers)


def test_compiled_layers_keep_their_code_when_texts_are_encoded():
    """Encoding between the steps of a compiled run makes no graph that a second time would not find."""
    torch._dynamo.reset()
    model = make_tiny_model("bert", layers=2)
    for layer in encoder_layers(model.encoder):
        layer.compile(dynamic=True, backend="eager")
    model.compiled = True
    tokens, offsets = random_texts()
    counts = []
    for _ in range(3):
        with torch.no_grad(), autocast():
            model.embed_tokens(tokens, offsets, np.arange(len(LENGTHS)), token_budget=60)
        counts.append(compiled_graphs())
    assert counts[0] == counts[1] == counts[2]
    torch._dynamo.reset()
