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


PAIRS, TEXTS = ("query", "passage"), ("sts",)


def test_a_data_set_has_prompts_of_its_own():
    templates = {"query": TEMPLATE, "passage": "", "sts": "sts: "}
    assert dataset_prompts(templates, "find", "a", None, None, roles=PAIRS) is None
    assert dataset_prompts(templates, None, "a", None, "ask", roles=PAIRS)["query"] == (
        "Instruct: ask\nQuery:"
    )
    own = dataset_prompts(templates, "find", "a", {"passage": "doc: "}, None, roles=PAIRS)
    assert own == {"query": "Instruct: find\nQuery:", "passage": "doc: ", "sts": "sts: "}
    # Prompts of roles that its texts do not have stay the model's.
    both = {"query": TEMPLATE, "passage": "", "sts": "Instruct: {instruction}\nText:"}
    assert dataset_prompts(both, "find", "a", None, "compare", roles=TEXTS) == {
        "query": "Instruct: find\nQuery:",
        "passage": "",
        "sts": "Instruct: compare\nText:",
    }


@pytest.mark.parametrize(
    ("templates", "own", "instruction", "roles", "message"),
    [
        (
            {"query": "q: "},
            None,
            "ask",
            PAIRS,
            "found an instruction, expected a prompt of 'query' or 'passage'",
        ),
        (
            {"query": TEMPLATE, "sts": ""},
            None,
            "ask",
            TEXTS,
            "found an instruction, expected a prompt of 'sts' that",
        ),
        (
            {"query": "", "sts": TEMPLATE},
            None,
            "ask",
            PAIRS,
            "found an instruction, expected a prompt of 'query' or",
        ),
        ({"query": ""}, {"querry": ""}, None, PAIRS, ".prompts: unknown role 'querry'"),
        ({"query": ""}, {"query": "q: "}, None, TEXTS, ".prompts: found 'query', expected 'sts'"),
        ({"query": ""}, {"sts": "s: "}, None, PAIRS, ".prompts: found 'sts', expected 'query' or 'passage'"),
    ],
)
def test_prompts_that_would_have_no_effect_are_refused(templates, own, instruction, roles, message):
    with pytest.raises(UserError, match=f"data 'a'.*{message}"):
        dataset_prompts(templates, "find", "a", own, instruction, roles=roles)


def test_roles_are_those_of_the_task(recipe, base):
    """STS pairs and labelled texts are read as `sts` alone."""
    pairs = {"name": "pairs", "path": str(base / "pairs.jsonl")}
    graded = {"name": "graded", "path": str(base / "sts.jsonl")}
    labelled = {"name": "labelled", "path": str(base / "classes.jsonl")}

    def load(model, **data):
        sets = {"retrieval": [pairs], "sts": [graded]} | data
        made = recipe(model=model, data=sets)
        return load_data(made.data, made.cache, load_base_model(made.model, 0))

    query_only = {"prompts": {"query": TEMPLATE, "sts": ""}, "instruction": "find"}
    for task, dataset in (("sts", graded), ("classification", labelled)):
        with pytest.raises(UserError, match=rf"{dataset['name']}'.prompts: found 'query', expected 'sts'"):
            load(MODEL, **{"sts": [graded]} | {task: [dataset | {"prompts": {"query": "q: "}}]})
        with pytest.raises(
            UserError, match=f"{dataset['name']}': found an instruction, expected a prompt of 'sts'"
        ):
            load(query_only, **{"sts": [graded]} | {task: [dataset | {"instruction": "compare"}]})
    with pytest.raises(UserError, match=r"'pairs'.prompts: found 'sts', expected 'query' or 'passage'"):
        load(MODEL, retrieval=[pairs | {"prompts": {"sts": "s: "}}])


def test_an_instruction_that_no_prompt_asks_for_is_refused(recipe, base, tmp_path):
    pairs = {"name": "pairs", "path": str(base / "pairs.jsonl")}
    alone = {"prompts": {"query": "q: "}, "instruction": "find"}

    def load(model, **settings):
        made = recipe(model=model, data={"retrieval": [pairs | settings], "sts": []}, step={"sts_pairs": 0})
        model = load_base_model(made.model, 0)
        load_data(made.data, made.cache, model)
        return model

    with pytest.raises(UserError, match=r"model.instruction: found 'find', but no prompt asks for it"):
        load(alone)
    model = load(alone, prompts={"query": TEMPLATE})
    assert model.dataset_prompts["pairs"]["query"] == "Instruct: find\nQuery:"
    # A folder's instruction is no one's mistake where the recipe gives other prompts.
    load(MODEL).save(tmp_path / "instructed")
    assert load({"base": str(tmp_path / "instructed")}).instruction == "find"
    assert (
        load({"base": str(tmp_path / "instructed"), "prompts": {"query": "q: ", "sts": ""}}).instruction
        is None
    )


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
