"""Embedding texts of the store: in any order, on the model as it is now, and once where nothing changed."""

import numpy as np
import polars as pl
import torch

from conan_embed.negatives.embedding import EmbedOnce, embed_with
from conan_embed.texts.store import TextStoreBuilder
from tests.tiny_models import SENTENCES, make_tiny_model


def test_rows_are_those_of_the_model_in_the_order_asked_for(tmp_path):
    model = make_tiny_model("bert").train()
    builder = TextStoreBuilder()
    builder.add(pl.Series(SENTENCES, dtype=pl.String), "")
    store, _ = builder.build(tmp_path, model.tokenize, fingerprint="")
    text_ids = np.array([2, 0, 3])
    rows_ND = embed_with(model, store, "float32")(text_ids, "")
    expected_ND = model.encode([store.text(int(text)) for text in text_ids], precision="float32")
    np.testing.assert_allclose(rows_ND.numpy(), expected_ND, atol=1e-5)
    assert model.training and not rows_ND.requires_grad


def test_once_embeds_the_same_texts_once():
    calls = []

    def embed(text_ids, description):
        calls.append(text_ids.tolist())
        return torch.randn(len(text_ids), 4)

    once = EmbedOnce(embed)
    first = once(np.array([1, 2]), "mining")
    assert torch.equal(once(np.array([1, 2], np.int32), "filling"), first)
    once(np.array([2, 1]), "another order packs other chunks")
    assert calls == [[1, 2], [2, 1]]
