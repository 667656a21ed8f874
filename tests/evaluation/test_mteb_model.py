"""A model as mteb sees it: its revision is that of the model and the precision."""

import pytest

from conan_embed.encoder.model import EmbeddingModel
from tests.tiny_models import make_tiny_model

pytest.importorskip("mteb")
from conan_embed.errors import UserError
from conan_embed.evaluation.mteb_model import instruction_template, model_meta, revision_of


def test_a_revision_is_that_of_the_model_and_the_precision():
    model = make_tiny_model("bert")
    assert revision_of(model, "float32") == revision_of(make_tiny_model("bert"), "float32")
    assert revision_of(model, "float32") != revision_of(model, "bfloat16")
    assert revision_of(model, "float32") != revision_of(make_tiny_model("bert", seed=1), "float32")


def test_a_revision_is_that_of_the_prompts_of_data_sets_too():
    revisions = set()
    for own in ({}, {"faq": {"query": "a: "}}, {"faq": {"query": "b: "}}, {"other": {"query": "b: "}}):
        model = make_tiny_model("bert")
        model.dataset_prompts = own
        revisions.add(revision_of(model, "float32"))
    assert len(revisions) == 4


def test_a_narrower_width_is_an_experiment():
    model = make_tiny_model("bert")
    full, narrow = (model_meta(model, "org/name", width=width, precision="float32") for width in (32, 8))
    assert full.experiment_kwargs is None and narrow.experiment_kwargs == {"embed_dim": 8}
    assert full.revision == narrow.revision == revision_of(model, "float32")


def test_the_place_of_an_instruction_is_the_templates_or_that_of_a_saved_prompt(tmp_path):
    qwen = {"query": "Instruct: {instruction}\nQuery:"}
    make_tiny_model("bert").save(tmp_path / "base")
    instruction = "Given a web search query,\nretrieve passages"
    model = EmbeddingModel.load(tmp_path / "base", prompts=qwen, instruction=instruction)
    model.save(tmp_path / "model")
    published = make_tiny_model("bert", prompts=model.prompts)
    for each in (model, published, EmbeddingModel.load(tmp_path / "model")):
        assert instruction_template(each) == "Instruct: {instruction}\nQuery:"
    with pytest.raises(
        UserError, match="--instructions: found the query prompt 'query: ', expected one with"
    ):
        instruction_template(make_tiny_model("bert", prompts={"query": "query: "}))


def test_results_with_instructions_are_kept_apart():
    model = make_tiny_model("bert")
    of = {"width": 32, "precision": "float32"}
    plain, instructed = (
        model_meta(model, "org/name", **of, template=text) for text in (None, "{instruction}")
    )
    assert plain.revision != instructed.revision
