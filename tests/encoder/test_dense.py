"""Dense layers of loaded models keep their activation and their order, as sentence-transformers applies them."""

import json

import numpy as np
import pytest
import torch

from conan_embed.encoder.dense import Dense, DenseLayer
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from tests.tiny_models import SENTENCES, make_tiny_model

TANH, GELU = "torch.nn.modules.activation.Tanh", "torch.nn.modules.activation.GELU"


def two_layers(*activations, bias=True):
    torch.manual_seed(3)
    sizes, layers = [32, 48, 24], []
    for inside, outside, activation in zip(sizes, sizes[1:], activations, strict=False):
        tensors = {"weight": torch.randn(outside, inside) / 4, "bias": torch.randn(outside)}
        layers.append(Dense.of(DenseLayer(tensors if bias else {"weight": tensors["weight"]}, activation)))
    return layers


def model_with(layers):
    plain = make_tiny_model("bert")
    plain.encoder.set_attn_implementation("eager")
    return EmbeddingModel(plain.encoder, plain.tokenizer, dense_layers=layers).eval()


@pytest.mark.parametrize("activations", [(TANH,), (TANH, GELU), ("torch.nn.modules.linear.Identity",) * 2])
@pytest.mark.parametrize("bias", [True, False])
def test_saved_layers_are_those_of_sentence_transformers(tmp_path, activations, bias):
    library = pytest.importorskip("sentence_transformers")
    model = model_with(two_layers(*activations, bias=bias))
    model.save(tmp_path / "model")
    ours = model.encode(SENTENCES, precision="float32")
    peer = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(peer.encode(list(SENTENCES)), ours, rtol=1e-4, atol=1e-5)
    peer.save(str(tmp_path / "theirs"))
    for folder in ("model", "theirs"):
        again = EmbeddingModel.load(tmp_path / folder)
        assert [layer.activation_name for layer in again.dense_layers()] == [*activations]
        np.testing.assert_allclose(again.encode(SENTENCES, precision="float32"), ours, rtol=1e-5, atol=1e-6)


def test_all_layers_are_trained():
    model = model_with(two_layers(TANH, TANH)).train()
    tokens, offsets = model.tokenize(SENTENCES)
    model.embed_tokens(tokens, offsets, np.arange(3)).sum().backward()
    assert all(layer.weight.grad.any() for layer in model.dense_layers())


@pytest.mark.parametrize("width", [1, 10])
def test_a_cut_layer_gives_the_first_numbers(width):
    (_, layer) = two_layers(TANH, GELU)
    embedding = torch.randn(5, 48)
    torch.testing.assert_close(layer.cut(width)(embedding), layer(embedding)[:, :width])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("activation_function", "torch.nn.modules.activation.Softmax", "Softmax"),
        ("activation_function", "mine.Activation", "mine.Activation"),
        ("module_input_name", "token_embeddings", "token_embeddings"),
        ("use_residual", True, "use_residual"),
    ],
)
def test_what_we_do_not_do_is_refused(tmp_path, key, value, words):
    model_with(two_layers(TANH)).save(tmp_path / "model")
    path = tmp_path / "model" / "2_Dense" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=f"2_Dense/config.json.*{words}"):
        EmbeddingModel.load(tmp_path / "model")
