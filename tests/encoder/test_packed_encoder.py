"""Packing changes nothing: embeddings and gradients are those of the padded Hugging Face model.

The reference takes the same weights through transformers' own attention, all texts padded on the right to the
longest, with an attention mask and the model's own positions, and pools with plain loops.
"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.encoder import packed_encoder
from conan_embed.encoder.formats import POOLINGS
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.packed_encoder import PackedEncoder
from tests.encoder.families import PACKABLE, random_encoder
from tests.tiny_models import FAMILIES, POSITIONS, VOCABULARY, make_tiny_model

# Tokens per text: one alone, equal ones, borders of the padded blocks (16, 32, 48), and ones past ModernBERT's window.
LENGTHS = (7, 1, 16, 17, 33, 1, 15, 48, 20, 20, 2)


def random_texts(lengths=LENGTHS, seed=0):
    """Tokens end to end and offsets; ids from 5 on are no special tokens of any family."""
    tokens = np.random.default_rng(seed).integers(5, VOCABULARY, sum(lengths)).astype(np.int32)
    return tokens, np.concatenate([[0], np.cumsum(lengths)])


def own_encoder(model: EmbeddingModel) -> torch.nn.Module:
    """A copy of the encoder with transformers' own attention."""
    encoder = copy.deepcopy(model.encoder)
    encoder.set_attn_implementation("sdpa")
    return encoder


def padded_embeddings(model, encoder, dense, tokens, offsets, text_ids):
    """The reference: [N, D], pooled text by text."""
    texts = [torch.from_numpy(tokens[offsets[i] : offsets[i + 1]]).long() for i in text_ids]
    padding = encoder.config.pad_token_id
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    rows = []
    for row, length in zip(hidden, lengths.tolist(), strict=True):
        real = row[:length]
        rows.append({"cls": real[0], "last": real[-1], "mean": real.mean(dim=0)}[model.pooling])
    pooled = torch.stack(rows)
    return pooled if dense is None else dense(pooled)


def embeddings_and_gradients(model, compute):
    """Run `compute` and return the embeddings and the gradients of a fixed random projection of them, by name."""
    model.zero_grad()
    embeddings = compute()
    weight = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1)).to(embeddings)
    (embeddings * weight).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return embeddings.detach(), gradients


def assert_same_gradients(found, expected, tolerance):
    assert {name for name, g in found.items() if g.any()} == {name for name, g in expected.items() if g.any()}
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dense_width", [None, 24])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_embeddings(family, pooling, dense_width):
    model = make_tiny_model(family, pooling=pooling, dense_width=dense_width)
    tokens, offsets = random_texts()
    text_ids = np.arange(len(LENGTHS))
    with torch.no_grad():
        found = model.embed_tokens(tokens, offsets, text_ids)
        expected = padded_embeddings(model, own_encoder(model), model.dense, tokens, offsets, text_ids)
    assert found.dtype == torch.float32
    assert expected.std() > 0.1  # or the tolerance would mean nothing
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_float64_embeddings_and_gradients_of_all_parameters(family, pooling):
    model = make_tiny_model(family, pooling=pooling, dense_width=24).double()
    reference = make_tiny_model(family, pooling=pooling, dense_width=24).double()
    encoder = own_encoder(reference)
    tokens, offsets = random_texts()
    text_ids = np.arange(len(LENGTHS))
    both = torch.nn.ModuleDict({"encoder": encoder, "dense": reference.dense})
    found = embeddings_and_gradients(model, lambda: model.embed_tokens(tokens, offsets, text_ids))
    expected = embeddings_and_gradients(
        both, lambda: padded_embeddings(model, encoder, reference.dense, tokens, offsets, text_ids)
    )
    assert found[0].dtype == torch.float64
    # Rotary angles and some norms stay float32 inside transformers, on both sides.
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    assert_same_gradients(found[1], expected[1], 1e-6)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=12),
    token_budget=st.sampled_from([1, 30, 100, 10_000]),
    activation_checkpointing=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_chunks_order_and_recomputation_do_not_matter(
    family, lengths, token_budget, activation_checkpointing, seed
):
    """Any order of the texts, a text asked for twice, any chunk size: equal to each text alone."""
    model = make_tiny_model(family, dense_width=8).double()
    tokens, offsets = random_texts(lengths, seed)
    text_ids = np.random.default_rng(seed).integers(len(lengths), size=len(lengths))
    found = embeddings_and_gradients(
        model,
        lambda: model.embed_tokens(
            tokens,
            offsets,
            text_ids,
            token_budget=token_budget,
            activation_checkpointing=activation_checkpointing,
        ),
    )
    alone = embeddings_and_gradients(
        model,
        lambda: torch.cat(
            [model.embed_tokens(tokens, offsets, text_ids[i : i + 1]) for i in range(len(text_ids))]
        ),
    )
    torch.testing.assert_close(found[0], alone[0], rtol=1e-6, atol=1e-6)
    assert_same_gradients(found[1], alone[1], 1e-6)


def test_gradients_of_many_chunks_are_added_up_in_float32():
    """Not in the bfloat16 copies of the weights that autocast makes."""
    tokens, offsets = random_texts([20] * 64, 0)
    model = make_tiny_model("bert", dense_width=8)

    def gradient(token_budget, dtype):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            embeddings = model.embed_tokens(tokens, offsets, np.arange(64), token_budget=token_budget)
        (embeddings * torch.arange(8)).sum().backward()
        return model.encoder.encoder.layer[0].attention.self.value.weight.grad.clone()

    exact = gradient(10_000, torch.float32)
    one, many = ((gradient(budget, torch.bfloat16) - exact).norm() / exact.norm() for budget in (10_000, 20))
    assert many < 1.5 * one


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_recomputation_notes_the_random_numbers_of_the_tokens_device(family, monkeypatch):
    """torch.utils.checkpoint looks for it among its arguments: on a GPU dropout would else draw other masks."""
    given = []

    def checkpoint(function, *arguments, **settings):
        given.append([x.device for x in arguments if isinstance(x, torch.Tensor)])
        return function(*arguments)

    monkeypatch.setattr(packed_encoder, "checkpoint", checkpoint)
    model = make_tiny_model(family, pooling="mean")
    model.embed_tokens(*random_texts([5, 3], 0), np.arange(2), activation_checkpointing=True)
    assert given == [[model.device]]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3", "gpt2"])
def test_decoders_keep_no_keys_and_values(family):
    model = PackedEncoder(random_encoder(*PACKABLE[family]), "mean", [])
    outputs = []
    model.encoder.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    model.embed_tokens(*random_texts([5, 3], 0), np.arange(2))
    assert len(outputs) == 1 and outputs[0].past_key_values is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_share_still_has_gradients(dtype):
    """A process without texts has rows to gather (none) and a gradient for every parameter (zero)."""
    model = make_tiny_model("bert", dense_width=8).to(dtype)
    rows = model.embed_tokens(*random_texts(), np.empty(0, np.int64))
    assert rows.shape == (0, 8)
    assert rows.dtype == dtype
    rows.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_texts_longer_than_the_largest_block_length():
    """Encoders with thousands of positions: several blocks above the last of BLOCK_LENGTHS, too."""
    model = make_tiny_model("modernbert")
    tokens, offsets = random_texts((600, 1500, 513, 1100, 30))
    text_ids = np.arange(5)
    with torch.no_grad():
        found = model.embed_tokens(tokens, offsets, text_ids)
        expected = padded_embeddings(model, own_encoder(model), None, tokens, offsets, text_ids)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


def test_long_texts_are_cut_and_short_ones_kept():
    model = make_tiny_model("bert", max_length=10)
    tokens, offsets = model.tokenize(["好", "今天天气很好，我们去公园散步吧。" * 50])
    assert np.diff(offsets).tolist() == [3, 10]
    assert tokens.dtype == np.int32
    assert tokens[[0, 2, 3, 12]].tolist() == [2, 3, 2, 3]  # [CLS] ... [SEP], also where a text is cut
    model = make_tiny_model("bert")
    assert np.diff(model.tokenize(["好" * 1000])[1]).tolist() == [POSITIONS]


@pytest.mark.parametrize("family", FAMILIES)
def test_how_the_tokenizer_was_called_last_is_not_in_its_text(family):
    model = make_tiny_model(family)
    before = model.tokenizer_text()
    model.tokenize(["a long text " * 200])
    assert model.tokenizer_text() == before
    assert make_tiny_model("roberta").tokenizer_text() != make_tiny_model("bert").tokenizer_text()
