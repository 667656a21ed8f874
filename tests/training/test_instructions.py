"""Instructions: templates filled per data set, in training, in the saved model and in evaluation."""

import json
import shutil

import numpy as np
import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.prompts import dataset_prompts, fill
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.training.run import train
from conan_embed.training.setup import load_base_model, load_data
from tests.tiny_models import SENTENCES

TEMPLATE = "Instruct: {instruction}\nQuery:"
MODEL = {"prompts": {"query": TEMPLATE, "sts": TEMPLATE}, "instruction": "find"}


def with_instructions(base, **settings):
    pairs = {"name": "pairs", "path": str(base / "pairs.jsonl")}
    sts = {"name": "graded", "path": str(base / "sts.jsonl"), "instruction": "compare"}
    return {"model": MODEL, "data": {"retrieval": [pairs | settings], "sts": [sts]}}


def test_templates_are_filled():
    assert fill({"query": TEMPLATE, "passage": "p: "}, "find") == {
        "query": "Instruct: find\nQuery:",
        "passage": "p: ",
    }
    with pytest.raises(
        UserError, match=r"model.prompts: the prompt of 'query' holds .instruction.; expected model.in"
    ):
        fill({"query": TEMPLATE}, None)
    templates = {"query": TEMPLATE, "passage": "", "sts": ""}
    assert dataset_prompts(templates, "find", "a", None, None) is None
    assert dataset_prompts(templates, None, "a", None, "ask")["query"] == "Instruct: ask\nQuery:"
    own = dataset_prompts(templates, "find", "a", {"passage": "doc: "}, None)
    assert own == {"query": "Instruct: find\nQuery:", "passage": "doc: ", "sts": ""}
    with pytest.raises(
        UserError, match=r"data 'a': found an instruction, expected a prompt that asks for it"
    ):
        dataset_prompts({"query": "q: "}, None, "a", None, "ask")
    with pytest.raises(UserError, match=r"data 'a'.prompts: unknown role 'querry'"):
        dataset_prompts(templates, None, "a", {"querry": ""}, None)


def test_every_data_set_is_read_with_its_own_instruction(recipe, base):
    made = recipe(**with_instructions(base, instruction="answer"))
    model = load_base_model(made.model, 0)
    tasks = load_data(made.data, made.cache, model)
    store, tokens_of = (
        tasks.store,
        lambda i: tasks.store.tokens[tasks.store.offsets[i] : tasks.store.offsets[i + 1]],
    )
    (pairs,), (graded,) = tasks.retrieval, tasks.sts
    for ids, instruction in ((pairs.query_Q, "answer"), (graded.left_P, "compare")):
        for text_id in ids[:4]:
            prompt = f"Instruct: {instruction}\nQuery:"
            expected, _ = model.tokenize([prompt + store.text(int(text_id))])
            np.testing.assert_array_equal(tokens_of(text_id), expected)
    passage = pairs.positives.values[0]
    np.testing.assert_array_equal(tokens_of(passage), model.tokenize([store.text(int(passage))])[0])


def test_instructions_are_saved_and_used_in_evaluation(recipe, base, tmp_path):
    made = recipe(**with_instructions(base, instruction="answer", prompts={"passage": "doc: "}))
    model = EmbeddingModel.load(train(made) / "model")
    assert model.prompts["query"] == "Instruct: find\nQuery:" and model.templates["query"] == TEMPLATE
    assert model.dataset_prompts["pairs"]["query"] == "Instruct: answer\nQuery:"
    assert model.dataset_prompts["pairs"]["passage"] == "doc: "
    clients = json.loads((tmp_path / "run" / "model" / "config_sentence_transformers.json").read_text())[
        "prompts"
    ]
    assert clients["query"] == "Instruct: find\nQuery:"
    assert (clients["pairs"], clients["graded"]) == ("Instruct: answer\nQuery:", "Instruct: compare\nQuery:")
    # An evaluation set of a training set's name is encoded with that set's prompts.
    asked = []

    class Watched:
        prompts, width, dataset_prompts = model.prompts, model.width, model.dataset_prompts

        def encode(self, texts, *, prompt=""):
            asked.append(prompt)
            return model.encode(texts, prompt=prompt)

    for name, instruction in (("graded", "compare"), ("other", "find")):
        folder = tmp_path / name / "sts" / name
        folder.mkdir(parents=True)
        shutil.copy(base / "sts.jsonl", folder.with_suffix(".jsonl"))
        folder.rmdir()
        asked.clear()
        evaluate(Watched(), tmp_path / name)
        assert set(asked) == {f"Instruct: {instruction}\nQuery:"}
    again = EmbeddingModel.load(tmp_path / "run" / "model", instruction="other")
    assert again.prompts["query"] == "Instruct: other\nQuery:"
    again.save(tmp_path / "again")
    assert EmbeddingModel.load(tmp_path / "again").dataset_prompts == model.dataset_prompts
    assert np.isfinite(again.encode_query(SENTENCES)).all()


def test_streams_are_read_with_the_models_prompts(recipe, base):
    data = with_instructions(base, instruction="answer")["data"] | {"stream": True, "sts": []}
    with pytest.raises(
        ValueError, match=r"retrieval 'pairs': found instruction beside data.stream, expected none"
    ):
        recipe(data=data, step={"num_negatives": 0, "sts_pairs": 0})
