"""Loading a model through the front door: settings of the model itself unless others are given."""

from pathlib import Path

import numpy as np
import pytest

import conan_embed as ce
from conan_embed.encoder.model import EmbeddingModel
from tests.tiny_models import SENTENCES, make_tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingModel:
    model = make_tiny_model(
        "bert", pooling="cls", widths=[16], max_length=24, prompts={"query": "query: ", "passage": "文档："}
    )
    model.save(tmp_path_factory.mktemp("models") / "模型")
    return model


@pytest.fixture(scope="module")
def folder(saved: EmbeddingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(tmp_path_factory.getbasetemp().glob("models*/模型"))


@pytest.mark.parametrize("as_type", [str, Path])
def test_settings_that_are_left_out_are_those_of_the_model(saved, folder, as_type):
    model = ce.load_model(as_type(folder))
    names = ("pooling", "widths", "max_length", "prompts", "width")
    assert {name: getattr(model, name) for name in names} == {name: getattr(saved, name) for name in names}
    np.testing.assert_allclose(model.encode(SENTENCES), saved.encode(SENTENCES), atol=1e-6)


def test_the_model_is_ready_to_encode_with_its_own_prompts(folder):
    model = ce.load_model(folder)
    assert not any(module.training for module in model.modules())
    for encode, prompt in ((model.encode_query, "query: "), (model.encode_document, "文档：")):
        embedding_ND = encode(list(SENTENCES))
        assert embedding_ND.dtype == np.float32 and embedding_ND.shape == (len(SENTENCES), 32)
        np.testing.assert_allclose(np.linalg.norm(embedding_ND, axis=1), 1, atol=1e-5)
        expected_ND = model.encode([prompt + text for text in SENTENCES])
        np.testing.assert_allclose(embedding_ND, expected_ND, atol=1e-5)


def test_settings_that_are_given_replace_those_of_the_model(folder):
    prompts = {"query": "问题："}
    model = ce.load_model(folder, widths=(8, 4), prompts=prompts, max_length=9, pooling="mean")
    assert (list(model.widths), model.max_length, model.pooling) == ([32, 8, 4], 9, "mean")
    assert model.prompts["query"] == "问题："
    prompts["query"] = "changed later"
    assert model.prompts["query"] == "问题："
    long = " ".join(SENTENCES)
    assert np.array_equal(model.encode([long]), model.encode([long + " and more"])), "cut to nine tokens"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"widths": [33]}, "33"),
        ({"pooling": "max"}, "max"),
        ({"max_length": 4000}, "max_length: 4000 does not fit the model; expected 3 to 128 tokens"),
        ({"prompts": {"question": "q: "}}, "question"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(folder, settings, words):
    with pytest.raises(ce.UserError, match=words):
        ce.load_model(folder, **settings)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ce.UserError, match=r"nowhere"):
        ce.load_model(tmp_path / "nowhere")
    with pytest.raises(ce.UserError, match=tmp_path.name):
        ce.load_model(tmp_path)
