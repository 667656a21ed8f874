"""Positions are counted as the encoder counts them, also where a text holds the padding token."""

import numpy as np
import pytest
import torch

from conan_embed.encoder.packing import pack_flat
from conan_embed.encoder.positions import (
    num_token_rows,
    padding_index,
    position_ids,
    steady_positions,
    usable_positions,
)
from tests.encoder.families import PACKABLE, random_encoder
from tests.tiny_models import POSITIONS, VOCABULARY, make_tiny_model, tiny_encoder


@pytest.mark.parametrize(("family", "padding"), [("bert", None), ("roberta", 1), ("xlm-roberta", 1)])
def test_what_the_encoder_says(family, padding):
    encoder = tiny_encoder(family)
    assert padding_index(encoder) == padding
    assert usable_positions(encoder) == POSITIONS
    assert num_token_rows(encoder) == VOCABULARY


def test_rotary_positions_are_steady_up_to_a_length():
    encoder = tiny_encoder("modernbert")
    assert steady_positions(encoder) == POSITIONS
    encoder.config.rope_parameters["full_attention"] = {  # by the type of the layer
        "rope_type": "longrope",
        "original_max_position_embeddings": 40,
    }
    assert steady_positions(encoder) == 40
    decoder = random_encoder(*PACKABLE["llama"])
    assert steady_positions(decoder) == usable_positions(decoder) == 130
    decoder.config.rope_parameters.update(rope_type="longrope", original_max_position_embeddings=30)
    assert steady_positions(decoder) == 30
    decoder.config.rope_parameters["rope_type"] = "yarn"
    assert steady_positions(decoder) == 130
    assert steady_positions(tiny_encoder("bert")) == POSITIONS


@pytest.mark.parametrize("texts", [[[0, 7, 8, 2]], [[5, 1, 6], [1, 7, 1, 9], [0, 8, 2, 1, 1]]])
def test_roberta_counts_each_text_as_it_does_alone(texts):
    encoder = tiny_encoder("roberta")
    packed = pack_flat(np.concatenate(texts), np.array([len(text) for text in texts]))
    expected = [
        encoder.embeddings.create_position_ids_from_input_ids(torch.tensor([text]), 1)[0] for text in texts
    ]
    assert torch.equal(position_ids(packed, 1), torch.cat(expected))


def test_a_text_with_the_padding_token_embeds_as_the_encoder_alone_does():
    model = make_tiny_model("xlm-roberta", pooling="cls")
    texts = [[0, 9, 1, 12, 2], [0, 30, 31, 32, 2]]
    tokens, offsets = np.concatenate(texts).astype(np.int32), np.array([0, 5, 10])
    with torch.no_grad():
        found = model.embed_tokens(tokens, offsets, np.arange(2))
        model.encoder.set_attn_implementation("eager")
        expected = [
            model.encoder(torch.tensor([text]), attention_mask=torch.ones(1, 5)).last_hidden_state[0, 0]
            for text in texts
        ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)
