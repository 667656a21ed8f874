"""From texts to embeddings: the tokenizer, the padded model and a normalisation; and texts that give no embedding."""

import numpy as np
import pytest
import torch

from conan_embed.encoder.encode import autocast, check_embeddings, check_not_empty
from conan_embed.errors import NotFinite, UserError
from tests.encoder.test_packed_encoder import own_encoder
from tests.tiny_models import FAMILIES, SENTENCES, make_tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_is_the_tokenizer_and_the_padded_model(family):
    """From texts on: special tokens, prompts, cutting, normalisation and every Matryoshka width."""
    model = make_tiny_model(family, dense_width=24, widths=(8, 16), max_length=12)
    found = model.encode(SENTENCES, prompt="问：", widths=(24, 8), precision="float32")
    batch = model.tokenizer(
        ["问：" + text for text in SENTENCES],
        truncation=True,
        max_length=12,
        padding=True,
        return_tensors="pt",
    )
    assert batch["attention_mask"].sum(dim=1).max() == 12
    with torch.no_grad():
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = own_encoder(model)(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = model.dense((hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True))
    for width in (24, 8):
        expected = torch.nn.functional.normalize(pooled[:, :width], dim=1).numpy()
        np.testing.assert_allclose(found[width], expected, rtol=1e-4, atol=1e-5)


def test_encode_in_bfloat16_is_near():
    model = make_tiny_model("bert", dense_width=24)
    exact, rounded = (model.encode(SENTENCES, precision=precision) for precision in ("float32", "bfloat16"))
    assert rounded.dtype == np.float32
    assert (exact * rounded).sum(axis=1).min() > 0.999
    assert (exact != rounded).any()


def test_no_texts_no_embeddings():
    model = make_tiny_model("bert", dense_width=8)
    assert model.encode([]).shape == (0, 8)
    tokens, offsets = model.tokenize([])
    assert len(tokens) == 0
    assert offsets.tolist() == [0]


def test_the_order_and_the_size_of_chunks_do_not_matter():
    model = make_tiny_model("bert")
    whole = model.encode(SENTENCES, precision="float32")
    backwards = model.encode(SENTENCES[::-1], precision="float32", token_budget=20)
    np.testing.assert_allclose(backwards[::-1], whole, rtol=1e-4, atol=1e-5)


def test_a_model_in_training_stays_so_and_encodes_without_dropout():
    model = make_tiny_model("bert")
    expected = model.encode(SENTENCES, precision="float32")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    model.train()
    np.testing.assert_array_equal(model.encode(SENTENCES, precision="float32"), expected)
    assert model.training


def test_a_width_that_the_embedding_does_not_have_is_refused():
    with pytest.raises(UserError, match="64"):
        make_tiny_model("bert").encode(["好"], widths=(64,))


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="precision: 'float16' is unknown; expected float32 or bfloat16"):
        autocast(torch.device("cpu"), "float16")


def test_the_first_text_without_tokens_is_named():
    check_not_empty(["a", "b"], np.array([0, 1, 3]))
    check_not_empty([], np.array([0]))
    with pytest.raises(UserError, match=r"text '\\u200b': the tokenizer drops all of it"):
        check_not_empty(["a", "\u200b", ""], np.array([0, 1, 1, 1]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_text_without_numbers_is_named(value):
    embedding_ND = torch.ones(3, 4)
    check_embeddings(embedding_ND, ["a", "b", "c"])
    embedding_ND[1, 2] = value
    with pytest.raises(NotFinite, match="of 1 of 3 texts are not finite numbers, for instance of 'b'"):
        check_embeddings(embedding_ND, ["a", "b", "c"])
