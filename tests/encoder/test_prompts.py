"""Prompt names of published models are mapped to our three roles, and kept for their clients."""

import json

import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.prompts import Prompts, check_prompts, published_prompts, read_prompts
from conan_embed.errors import UserError
from tests.tiny_models import make_tiny_model


@pytest.mark.parametrize(
    ("prompts", "default", "roles"),
    [
        ({"query": "q: ", "document": "d: "}, None, ("q: ", "d: ", "q: ")),
        ({"query": "q: ", "passage": "p: ", "STS": "s: "}, None, ("q: ", "p: ", "s: ")),
        ({"search_query": "q: ", "search_document": "d: "}, "search_document", ("q: ", "d: ", "d: ")),
        ({"s2p_query": "a", "s2s_query": "b"}, None, ("a", "", "b")),
        ({"retrieval.query": "a", "retrieval.passage": "b", "text-matching": "c"}, None, ("a", "b", "c")),
        ({"everything": "e: "}, "everything", ("e: ", "e: ", "e: ")),
        ({"query": "", "document": "d"}, "document", ("", "d", "d")),
        ({}, None, ("", "", "")),
    ],
)
def test_roles(prompts, default, roles):
    assert Prompts(prompts, default).by_role() == dict(zip(("query", "passage", "sts"), roles, strict=True))


def write(path, **values):
    path.write_text(json.dumps(values))
    return path


def test_names_that_are_null_have_no_prompt(tmp_path):
    path = write(tmp_path / "c.json", prompts={"query": None, "search_query": "q: ", "document": None})
    assert read_prompts(path)[0].by_role() == {"query": "q: ", "passage": "", "sts": "q: "}


@pytest.mark.parametrize("prompts", [{"Classification": "c: "}, {"frage": "F: ", "antwort": "A: "}])
def test_prompts_for_none_of_our_roles_are_told(tmp_path, capsys, prompts):
    read_prompts(write(tmp_path / "c.json", prompts=prompts))
    told = capsys.readouterr().err
    assert all(name in told for name in prompts) and "model.prompts" in told


E5 = {"query": "query: ", "passage": "passage: ", "sts": "query: "}


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("intfloat/multilingual-e5-small", E5),
        ("intfloat/e5-base-v2", E5),
        ("intfloat/e5-large-unsupervised", E5),
        ("models/e5-small/", E5),
        ("intfloat/multilingual-e5-large-instruct", {}),  # has an instruction of its own
        ("intfloat/e5-mistral-7b-instruct", {}),
        ("me/e5-small-of-mine", {}),
        ("BAAI/bge-small-en-v1.5", {}),
    ],
)
def test_models_whose_folders_name_no_prompts(name, prompts):
    assert published_prompts(name) == prompts


@pytest.fixture
def e5(tmp_path, capsys):
    """A folder of that name in the layout of transformers, which has no prompts."""
    model = make_tiny_model("bert")
    for part in (model.encoder, model.tokenizer):
        part.save_pretrained(tmp_path / "e5-small")
    capsys.readouterr()
    return tmp_path / "e5-small"


def test_e5_gets_the_prompts_that_it_was_trained_with_and_keeps_them(e5, capsys, tmp_path):
    model = EmbeddingModel.load(e5)
    assert model.prompts == E5
    told = capsys.readouterr().err
    assert "names no prompts" in told and "'query: '" in told and "model.prompts" in told
    model.save(tmp_path / "tuned")
    assert EmbeddingModel.load(tmp_path / "tuned").prompts == E5
    assert "names no prompts" not in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"query": "", "passage": "", "sts": ""}, {"query": "Q: "}])
def test_prompts_that_are_given_are_the_only_ones(e5, capsys, tmp_path, given):
    model = EmbeddingModel.load(e5, prompts=given)
    assert model.prompts == {"query": "", "passage": "", "sts": "", **given}
    model.save(tmp_path / "again" / "e5-small")
    assert EmbeddingModel.load(tmp_path / "again" / "e5-small").prompts == model.prompts
    assert "names no prompts" not in capsys.readouterr().err


def test_a_default_that_does_not_exist(tmp_path):
    path = write(tmp_path / "c.json", prompts={"query": "q"}, default_prompt_name="search")
    with pytest.raises(UserError, match="default_prompt_name: 'search' is none of the prompts"):
        read_prompts(path)


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder"])
def test_another_kind_of_model(tmp_path, kind):
    with pytest.raises(UserError, match=f"found a {kind}; expected a SentenceTransformer"):
        read_prompts(write(tmp_path / "c.json", model_type=kind))


def test_all_names_are_kept_with_the_texts_of_their_roles(tmp_path):
    make_tiny_model("bert").save(tmp_path / "base")
    prompts = {"search_query": "q: ", "search_document": "d: ", "Clustering": "c: "}
    path = tmp_path / "base" / "config_sentence_transformers.json"
    write(path, prompts=prompts, default_prompt_name="search_document")
    EmbeddingModel.load(tmp_path / "base", prompts={"query": "ask: "}).save(tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config_sentence_transformers.json").read_text())
    assert config["default_prompt_name"] == "search_document"
    assert config["prompts"] == {
        **{"search_query": "ask: ", "search_document": "d: ", "Clustering": "c: "},
        **{"query": "ask: ", "document": "d: ", "sts": "d: ", "STS": "d: "},
    }


def test_a_role_that_does_not_exist():
    with pytest.raises(UserError, match=r"unknown role 'pasage'.*did you mean 'passage'"):
        check_prompts({"pasage": "x"})
