"""A fingerprint changes with whatever changes an embedding, and with nothing else."""

import copy

import pytest

from conan_embed.encoder.fingerprint import fingerprint
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
