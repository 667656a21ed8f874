"""Saved folders come back bit for bit, and say nothing that a client does not know."""

import json

import numpy as np
import pytest

from conan_embed.encoder.model import EmbeddingModel
from tests.encoder.test_formats import embeddings
from tests.tiny_models import FAMILIES, make_tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_bit_for_bit(family, tmp_path):
    prompts = {"query": "query: ", "passage": "文：", "sts": ""}
    model = make_tiny_model(
        family, pooling="last", dense_width=24, widths=(8, 16), max_length=20, prompts=prompts
    )
    model.save(tmp_path / "model", details={"step": 7})
    loaded = EmbeddingModel.load(tmp_path / "model")
    assert {name: p.tolist() for name, p in loaded.named_parameters()} == {
        name: p.tolist() for name, p in model.named_parameters()
    }
    for name in ("pooling", "width", "widths", "prompts", "max_length"):
        assert getattr(loaded, name) == getattr(model, name)
    np.testing.assert_array_equal(embeddings(loaded), embeddings(model))
    assert json.loads((tmp_path / "model" / "conan_embed.json").read_text()) == {
        "widths": [24, 16, 8],
        "step": 7,
    }


def test_a_saved_model_has_the_dropout_of_its_base(tmp_path):
    make_tiny_model("bert").save(tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    config["hidden_dropout_prob"] = 0.3
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    model = EmbeddingModel.load(tmp_path / "base", dropout=0.0)
    assert model.encoder.config.hidden_dropout_prob == 0.0
    model.save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy/config.json").read_text())["hidden_dropout_prob"] == 0.3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_says_nothing_that_transformers_4_does_not_know(family, tmp_path):
    """Checked by hand with transformers 4.57 and sentence-transformers 5.1; here, what it hung on."""
    make_tiny_model(family).save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] != "TokenizersBackend"
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
