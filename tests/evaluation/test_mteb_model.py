"""A model as mteb sees it: its revision is that of the model and the precision."""

import pytest

from tests.tiny_models import make_tiny_model

pytest.importorskip("mteb")
from conan_embed.evaluation.mteb_model import model_meta, revision_of


def test_a_revision_is_that_of_the_model_and_the_precision():
    model = make_tiny_model("bert")
    assert revision_of(model, "float32") == revision_of(make_tiny_model("bert"), "float32")
    assert revision_of(model, "float32") != revision_of(model, "bfloat16")
    assert revision_of(model, "float32") != revision_of(make_tiny_model("bert", seed=1), "float32")


def test_a_narrower_width_is_an_experiment():
    model = make_tiny_model("bert")
    full, narrow = (model_meta(model, "org/name", width=width, precision="float32") for width in (32, 8))
    assert full.experiment_kwargs is None and narrow.experiment_kwargs == {"embed_dim": 8}
    assert full.revision == narrow.revision == revision_of(model, "float32")
