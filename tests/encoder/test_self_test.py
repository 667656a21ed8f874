"""A model proves itself when it is made: what packing cannot serve is refused, what it serves is right."""

import copy
import itertools

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from tests.encoder.families import PACKABLE, REFUSED, random_encoder
from tests.tiny_models import SENTENCES, VOCABULARY, make_tiny_model, tiny_encoder, tiny_tokenizer

LENGTHS = (1, 2, 3, 7, 11, 17, 18, 31, 33, 47, 5)


def make(encoder, family="modernbert", **settings):
    return EmbeddingModel(encoder, tiny_tokenizer(family), max_length=100, **settings).eval()


def random_texts():
    tokens = np.random.default_rng(0).integers(5, VOCABULARY, sum(LENGTHS)).astype(np.int32)
    return tokens, np.concatenate([[0], np.cumsum(LENGTHS)])


def one_by_one(encoder, tokens, offsets, pooling):
    """Each text alone through the encoder's own attention and positions."""
    rows = []
    for start, stop in itertools.pairwise(offsets):
        ids = torch.from_numpy(tokens[start:stop]).long()[None]
        hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        rows.append({"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(dim=0)}[pooling])
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("name", PACKABLE)
def test_packed_equals_the_encoders_own_attention(name, pooling):
    """Embeddings of texts packed together and the gradients of all weights, in float32."""
    encoder = random_encoder(*PACKABLE[name])
    stock = copy.deepcopy(encoder)
    model = make(encoder, pooling=pooling)
    tokens, offsets = random_texts()
    found = model.embed_tokens(tokens, offsets, np.arange(len(LENGTHS)), token_budget=60)
    expected = one_by_one(stock, tokens, offsets, pooling)
    assert expected.std() > 0.05  # or the tolerance would mean nothing
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for embeddings in (found, expected):
        weight = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))
        (embeddings * weight).sum().backward()
    gradients = {part: weight.grad for part, weight in stock.named_parameters() if weight.grad is not None}
    largest = max(gradient.norm() for gradient in gradients.values())  # some are zero but for rounding
    for part, gradient in gradients.items():
        if gradient.any():
            difference = (model.encoder.get_parameter(part).grad - gradient).norm()
            assert difference <= 1e-4 * gradient.norm() + 1e-5 * largest, part


def all_experts(name):
    """Return a family's config with every expert at work: else rounding would change which ones are."""
    kind, arguments = PACKABLE[name]
    experts = arguments.get("num_experts")
    return kind, arguments if experts is None else arguments | {"num_experts_per_tok": experts}


@pytest.mark.parametrize("name", PACKABLE)
def test_in_bfloat16_the_rounding_is_that_of_the_encoders_own_attention(name):
    """Distance to float32 of embeddings and of all gradients, packed and one by one: no more than half again."""
    tokens, offsets = random_texts()

    def outcome(packed, rounded):
        encoder = random_encoder(*all_experts(name))
        model = make(encoder) if packed else encoder
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            embeddings = (
                model.embed_tokens(tokens, offsets, np.arange(len(LENGTHS)), token_budget=60)
                if packed
                else one_by_one(encoder, tokens, offsets, "mean")
            ).float()
        weight = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))
        (embeddings * weight).sum().backward()
        gradients = {part: weight.grad for part, weight in encoder.named_parameters()}
        return embeddings.detach(), gradients

    exact, packed, stock = outcome(False, False), outcome(True, True), outcome(False, True)
    parts = [part for part, gradient in exact[1].items() if gradient is not None]
    flat = [
        (embeddings, torch.cat([gradients[part].flatten() for part in parts if part in packed[1]]))
        for embeddings, gradients in (exact, packed, stock)
    ]
    for expected, found, rounded in zip(*flat, strict=True):
        error, usual = ((value - expected).norm() / expected.norm() for value in (found, rounded))
        assert 0 < usual < 0.2 and 0 < error <= 1.5 * usual, (error, usual)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_packed_is_refused_with_the_reason(name):
    kind, arguments, words = REFUSED[name]
    encoder = random_encoder(kind, arguments)
    with pytest.raises(UserError, match=f"{type(encoder).__name__[:6]}.*({words})"):
        make(encoder)


def test_an_encoder_of_pictures_is_no_text_encoder():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=8, patch_size=4))
    with pytest.raises(UserError, match="ViTModel is no text encoder"):
        make(encoder)


# ------------------------------------------------------------------------- rotary positions that depend on the length


def longrope(original=64):
    """A tiny Phi-3 whose frequencies are others in texts of more than `original` tokens."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    rotary = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0]}
    return random_encoder(
        "Phi3Config",
        sizes
        | {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "pad_token_id": 0}
        | {"max_position_embeddings": 512, "original_max_position_embeddings": original}
        | {"rope_parameters": rotary | {"rope_theta": 10_000.0}},
    )


def dynamic_rope():
    rotary = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    sizes = PACKABLE["llama"][1] | {"max_position_embeddings": 64}
    return random_encoder("LlamaConfig", sizes | {"rope_parameters": rotary})


@pytest.mark.parametrize("make_encoder", [longrope, dynamic_rope])
def test_the_longest_text_changes_no_other(make_encoder):
    """Texts beside one of the greatest length that is allowed, before and after."""
    model = EmbeddingModel(make_encoder(), tiny_tokenizer("modernbert")).eval()
    assert model.max_length == 64
    tokens = np.random.default_rng(0).integers(5, VOCABULARY, 20 + 64).astype(np.int32)
    offsets = np.array([0, 20, 84])
    with torch.no_grad():
        alone, beside, after = (
            model.embed_tokens(tokens, offsets, np.array(ids))[0] for ids in ([0], [0, 1], [0])
        )
        expected = one_by_one(make_encoder(), tokens, offsets, "mean")[0]
    for found in (alone, beside, after):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_lengths_at_which_a_text_would_depend_on_its_neighbours_are_refused(tmp_path):
    """LongRoPE takes other frequencies for a short text beside a long one."""
    tokenizer = tiny_tokenizer("modernbert")
    with pytest.raises(UserError, match=r"max_length: found 65, expected at most 64: .*rope_type longrope"):
        EmbeddingModel(longrope(), tokenizer, max_length=65)
    model = EmbeddingModel(longrope(), tokenizer, max_length=64)
    model.save(tmp_path / "model")
    assert EmbeddingModel.load(tmp_path / "model").max_length == 64
    with pytest.raises(UserError, match="max_length: found 65, expected at most 64"):
        EmbeddingModel.load(tmp_path / "model", max_length=65)


# --------------------------------------------------------------------- what no name gives away, the comparison finds


class _LooksLeft(nn.Module):
    """A layer that adds the hidden state of the token before: harmless in a padded batch, wrong in a stream."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden, *args, **kwargs):
        return self.inner(hidden + nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1], *args, **kwargs)


class _Convolves(nn.Module):
    def __init__(self, inner, hidden):
        super().__init__()
        self.inner, self.mix = inner, nn.Conv1d(hidden, hidden, 3, padding=1)

    def forward(self, hidden, *args, **kwargs):
        return self.inner(hidden + self.mix(hidden.transpose(1, 2)).transpose(1, 2), *args, **kwargs)


def test_a_layer_that_looks_at_its_neighbours_is_found():
    encoder = tiny_encoder("bert")
    encoder.encoder.layer[1] = _LooksLeft(encoder.encoder.layer[1])
    with pytest.raises(UserError, match="BertModel cannot be packed: its layers mix neighbouring tokens"):
        make(encoder, "bert")


def test_a_convolution_is_found_and_named():
    encoder = tiny_encoder("distilbert")
    encoder.transformer.layer[0] = _Convolves(encoder.transformer.layer[0], 32)
    with pytest.raises(UserError, match=r"mix neighbouring tokens \(Conv1d\)"):
        make(encoder, "distilbert")


def test_positions_counted_otherwise_are_found():
    encoder = tiny_encoder("bert")
    forward = encoder.embeddings.forward

    def from_the_end(input_ids=None, position_ids=None, **rest):
        if position_ids is None:  # as the encoder counts by itself
            position_ids = torch.arange(input_ids.shape[1] - 1, -1, -1)[None]
        return forward(input_ids=input_ids, position_ids=position_ids, **rest)

    encoder.embeddings.forward = from_the_end
    with pytest.raises(UserError, match="its attention or its positions differ from ours"):
        make(encoder, "bert")


def test_a_forward_pass_that_fails_is_a_sentence():
    encoder = tiny_encoder("bert")
    encoder.encoder.layer[0] = nn.Identity()
    encoder.encoder.layer[0].forward = lambda *args, **kwargs: 1 / 0
    with pytest.raises(UserError, match="BertModel cannot embed texts: division by zero"):
        make(encoder, "bert")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["encoder.layer.1.attention.self.query.weight", "embeddings.LayerNorm.bias"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, part, value):
    model = make_tiny_model("bert")
    model.encoder.get_parameter(part).data.view(-1)[3] = value
    model.save(tmp_path / "broken")
    with pytest.raises(UserError, match=f"broken: the weights {part} hold NaN or infinity"):
        EmbeddingModel.load(tmp_path / "broken")


def test_relative_positions_that_the_encoder_ignores_are_refused():
    encoder = tiny_encoder("bert")
    encoder.config.position_embedding_type = "relative_key"
    with pytest.raises(UserError, match="position_embedding_type: 'relative_key', which BertModel ignores"):
        make(encoder, "bert")


def test_the_test_leaves_no_trace():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    encoder = tiny_encoder("bert")
    torch.manual_seed(7)
    model = EmbeddingModel(encoder.train(), tiny_tokenizer("bert"))
    assert torch.equal(torch.rand(3), expected)  # draws no random numbers
    assert encoder.training and all(weight.grad is None for weight in model.parameters())
    assert np.isfinite(model.eval().encode(SENTENCES)).all()
