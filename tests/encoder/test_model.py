"""The model as a whole: texts in, embeddings out, against one text at a time through the encoder itself."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from tests.tiny_models import POSITIONS, SENTENCES, make_tiny_model, tiny_encoder, tiny_tokenizer

PROMPTS = {"query": "问：", "passage": "text: "}
TEXTS = [*SENTENCES[:8], "好", SENTENCES[0], " ".join(SENTENCES) * 3]


def slow_embedding(
    model: EmbeddingModel, plain: PreTrainedModel, text: str, prompt: str, width: int
) -> np.ndarray:
    """Mean of the last states of one text, without padding or packing, cut to a prefix and normalised, float64."""
    ids = model.tokenizer(prompt + text, truncation=True, max_length=model.max_length)["input_ids"]
    with torch.no_grad():
        states_TD = plain(torch.tensor([ids])).last_hidden_state[0].double()
    if not model.include_prompt:
        states_TD = states_TD[len(model.tokenizer(prompt)["input_ids"]) - 1 :]  # its last is the special one
    vector = states_TD.mean(0)[:width].numpy()
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("width", [None, 32, 8, 1])
def test_each_role_has_its_prompt_and_each_width_is_a_prefix(include_prompt: bool, width: int | None) -> None:
    model = make_tiny_model("bert", widths=(8,), prompts=PROMPTS, max_length=40)
    model.include_prompt = include_prompt
    plain = tiny_encoder("bert")
    plain.load_state_dict(model.encoder.state_dict(), strict=False)  # without BERT's own pooler
    for role, encode in (("query", model.encode_query), ("passage", model.encode_document)):
        found = encode(TEXTS, width=width, precision="float32")
        expected = np.stack(
            [slow_embedding(model, plain, text, PROMPTS[role], width or 32) for text in TEXTS]
        )
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert encode([], width=width).shape == (0, width or 32)


@pytest.mark.parametrize("width", [0, -1, 33])
def test_a_width_that_the_model_does_not_have_is_refused(width: int) -> None:
    model = make_tiny_model("bert")
    for encode in (model.encode_query, model.encode_document):
        with pytest.raises(UserError, match=rf"{width}\b.*expected 1 to 32"):
            encode(["text"], width=width)


@pytest.mark.parametrize("max_length", [0, 2, -5, POSITIONS + 1])
def test_a_length_that_the_model_cannot_read_is_refused(max_length: int) -> None:
    expected = rf"model.max_length: {max_length} does not fit the model; expected 3 to {POSITIONS} tokens"
    with pytest.raises(UserError, match=expected):
        make_tiny_model("bert", max_length=max_length)
    assert make_tiny_model("bert").max_length == POSITIONS
    assert make_tiny_model("bert", max_length=3).max_length == 3


def test_a_text_begins_with_the_longest_prompt_that_fits_and_only_its_tokens_are_marked() -> None:
    model = make_tiny_model("bert", prompts={"query": "the ", "passage": "the weather "}, max_length=12)
    texts = ["the weather is nice", "the park", "nice weather", "the weather ", "the " * 50]
    plain_T, offsets = model.tokenize(texts)
    model.include_prompt = False
    marked_T, same_offsets = model.tokenize(texts)
    np.testing.assert_array_equal(offsets, same_offsets)
    np.testing.assert_array_equal(np.where(marked_T < 0, -1 - marked_T, marked_T), plain_T)
    counts = [int((marked_T[a:b] < 0).sum()) for a, b in pairwise(offsets)]
    assert counts == [3, 2, 0, 3, 2], "[CLS] and the words of the prompt"
    given_T, _ = model.tokenize(texts[:2], prompt="the ")
    assert [(given_T[a:b] < 0).sum() for a, b in pairwise(offsets[:3])] == [2, 2]


def test_a_prompt_that_leaves_no_room_for_a_text_is_refused_where_it_is_not_pooled() -> None:
    model = make_tiny_model("bert", prompts={"query": "天" * 30}, max_length=20)
    model.include_prompt = False
    with pytest.raises(UserError, match="has 31 tokens and the model reads 20; expected room for a text"):
        model.encode_query(["text"])


def test_the_key_of_a_tokenizer_tells_models_apart_that_mark_other_tokens() -> None:
    models = [make_tiny_model("bert", prompts={"query": query}) for query in ("a: ", "b: ", "a: ", "b: ")]
    for model in models[2:]:
        model.include_prompt = False
    texts = [model.tokenizer_text() for model in models]
    assert texts[0] == texts[1], "prompts are part of the texts"
    assert len(set(texts)) == 3


def test_tokens_are_counted_before_the_text_is_cut() -> None:
    model = make_tiny_model("bert", max_length=5)
    assert model.count_tokens(["好", "天" * 50, ""]).tolist() == [3, 52, 2]
    assert np.diff(model.tokenize(["好", "天" * 50])[1]).tolist() == [3, 5]


def test_given_dense_layers_count_and_else_a_new_one_of_the_width_is_made() -> None:
    dense = make_tiny_model("bert", dense_width=16).dense_layers()
    encoder, tokenizer = tiny_encoder("bert"), tiny_tokenizer("bert")
    given = EmbeddingModel(encoder, tokenizer, dense_layers=dense, dense_width=24, widths=(4,))
    assert (given.width, given.widths) == (16, (16, 4))
    assert EmbeddingModel(encoder, tokenizer, dense_width=24).width == 24
    assert EmbeddingModel(encoder, tokenizer).widths == (32,)
