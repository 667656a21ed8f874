"""A fingerprint changes with whatever changes an embedding, and with nothing else."""

import copy

import pytest
import torch

from conan_embed.encoder.adapter import add_lora
from conan_embed.encoder.fingerprint import fingerprint
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.recipes.sections import Lora
from tests.tiny_models import make_tiny_model

DENSE = {"dense_width": 16}


def test_the_same_model_has_the_same_fingerprint(tmp_path):
    model = make_tiny_model("bert", **DENSE)
    before = fingerprint(model)
    model.encode(["how do I read", "a file"])  # tokenizers remember how they were called
    assert fingerprint(model) == before == fingerprint(make_tiny_model("bert", **DENSE))
    model.save(tmp_path / "model")
    loaded = [type(model).load(tmp_path / "model") for _ in range(2)]
    assert fingerprint(loaded[0]) == fingerprint(loaded[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer.truncation_side", "left"),
        ("max_length", 17),
        ("pooling", "cls"),
        ("prompts", {"query": "q: ", "passage": "", "sts": ""}),
        ("encoder.config.hidden_act", "relu"),
        ("encoder.config.layer_norm_eps", 1e-3),
        ("dense.activation_name", "torch.nn.modules.activation.Tanh"),
    ],
)
def test_whatever_changes_embeddings_changes_the_fingerprint(name, value):
    model = make_tiny_model("bert", **DENSE)
    model.tokenizer = copy.deepcopy(model.tokenizer)  # tiny models share one
    before = fingerprint(model)
    *path, last = name.split(".")
    part = model
    for step in path:
        part = getattr(part, step)
    setattr(part, last, value)
    assert fingerprint(model) != before


@pytest.mark.parametrize("part", ["encoder", "dense"])
def test_a_single_weight_changes_the_fingerprint(part):
    model = make_tiny_model("bert", **DENSE)
    before = fingerprint(model)
    list(getattr(model, part).parameters())[-1].data[-1] += 1e-3
    assert fingerprint(model) != before


def test_what_changes_no_embedding_changes_no_fingerprint(tmp_path):
    """Dropout, which a run may set, and an adapter that was drawn but not trained."""
    make_tiny_model("bert").save(tmp_path / "model")
    load = lambda **settings: EmbeddingModel.load(tmp_path / "model", **settings)  # noqa: E731
    assert fingerprint(load(dropout=0.3)) == fingerprint(load())
    adapted = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        adapted.append(load())
        add_lora(adapted[-1], Lora(rank=2), str(tmp_path / "model"))
    assert fingerprint(adapted[0]) == fingerprint(adapted[1])
    next(weight for name, weight in adapted[0].named_parameters() if "lora_B" in name).data[0, 0] = 1e-3
    assert fingerprint(adapted[0]) != fingerprint(adapted[1])
