"""The graph that is traced: padded batches of any size embed as packed ones do, and int8 keeps what matters."""

import numpy as np
import pytest
import torch

from conan_embed.export import graph, parity


def torch_runner(padded, model):
    """`graph.runner` without ONNX: the module that is traced, run by torch."""

    @torch.no_grad()
    def run(texts):
        batch = model.tokenizer(
            list(texts), padding=True, truncation=True, max_length=model.max_length, return_tensors="pt"
        )
        model.encoder.set_attn_implementation("sdpa")
        return padded(batch["input_ids"], batch["attention_mask"])[0].numpy()

    return run


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert"])
def test_the_padded_forward_equals_the_packed_one(tiny_model, family, pooling):
    model = tiny_model(family, pooling=pooling, dense_width=48, prompts={"passage": "passage: "})
    texts = parity.known_texts(model)
    expected = parity.embed(model, texts, 48)
    found = parity.embed_with(torch_runner(graph.PaddedModel(model), model), texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
