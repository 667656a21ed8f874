"""The model card: what the hub and sentence-transformers read of it, and that what a person wrote in it stays."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard

from conan_embed.encoder.card import FILE, note_results, note_training
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.export import export
from conan_embed.files import write_json
from conan_embed.recipes.schema import Recipe

PROMPTS = {"query": "query: ", "passage": "passage: ", "sts": ""}


@pytest.fixture
def run(tiny_model, tmp_path):
    """A run directory as training leaves it, without the training."""
    folder = tmp_path / "my-run"
    tiny_model("bert", dense_width=24, widths=[8, 16], prompts=PROMPTS).save(
        folder / "model", details={"step": 4}
    )
    recipe = Recipe.model_validate(
        {
            "model": {"base": "some-org/some-base"},
            "data": {
                "retrieval": [
                    {"name": "faq", "path": "secret/place/faq.jsonl", "columns": {"query": "frage"}}
                ],
                "sts": [{"name": "graded", "path": "graded.parquet"}],
            },
        }
    )
    (folder / "recipe.yaml").write_text(recipe.as_yaml())
    datasets = [
        {"task": "retrieval", "name": "faq", "rows": 1234},
        {"task": "sts", "name": "graded", "rows": 56},
    ]
    facts = {"steps": 4, "processes": 1, "datasets": datasets, "versions": {"torch": "2.13.0"}}
    write_json(folder / "run.json", facts)
    scores = {0: 0.5, 2: 0.625, 4: 0.75, 6: 0.7}  # step 4 is the model's
    lines = [
        {
            "step": step,
            "results": {"sts/Same": {"main_score": score, "metric": "cosine_spearman", "widths": {"8": 0.6}}},
        }
        for step, score in scores.items()
    ]
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    note_training(folder / "model", folder)
    return folder


def test_the_hub_reads_the_card(run):
    text = (run / "model" / FILE).read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "sentence-transformers" and front["base_model"] == "some-org/some-base"
    (result,) = ModelCard.load(run / "model" / FILE).data.eval_results
    assert (result.task_type, result.dataset_name, result.metric_type) == ("STS", "Same", "cosine_spearman")
    assert result.metric_value == 75.0
    for words in (
        "my-run",
        "| faq | retrieval | 1,234 | faq.jsonl | query: frage | mined |",
        "| 75.00 | 50.00 | 60.00 |",
    ):
        assert words in text
    assert "secret" not in text


def test_sentence_transformers_loads_the_folder_and_the_snippets_are_true(run):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    np = pytest.importorskip("numpy")
    text = (run / "model" / FILE).read_text(encoding="utf-8")
    names = {"questions": ["今天天气很好"], "documents": ["北京是首都。", "好"], "texts": ["好"]}
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    found = []
    for block in blocks:
        space = dict(names)
        exec(block.replace('"MODEL"', repr(str(run / "model"))), space)
        found.append(space)
    theirs, ours = found
    assert isinstance(theirs["model"], sentence_transformers.SentenceTransformer)
    # Both snippets end with the narrowest width, with the query prompt, and prefixes of length 1.
    assert theirs["queries"].shape == ours["queries"][8].shape == (1, 8)
    np.testing.assert_allclose(
        theirs["queries"], ours["queries"][8], atol=2e-2
    )  # ours multiplies in bfloat16
    exact = EmbeddingModel.load(run / "model").encode(
        names["documents"], prompt="passage: ", precision="float32"
    )
    np.testing.assert_allclose(theirs["passages"], exact, atol=1e-5)


def test_results_are_replaced_by_name_and_what_a_person_wrote_stays(run):
    path = run / "model" / FILE
    path.write_text(
        path.read_text()
        .replace("license: unknown", "license: mit\nlanguage: zh")
        .replace("Known limits: *unknown*", "Short.")
    )
    new = {"main_score": 0.8, "metric": "cosine_spearman", "dataset": {"revision": "abc", "splits": ["test"]}}
    note_results(run / "model", {"benchmark": "C-MTEB", "tasks": {"sts/AFQMC": {**new, "main_score": 0.1}}})
    note_results(run / "model", {"benchmark": "C-MTEB", "tasks": {"sts/AFQMC": new, "retrieval/T2": new}})
    card = ModelCard.load(path)
    assert (card.data.license, card.data.language) == ("mit", "zh") and "mteb" in card.data.tags
    found = {(result.dataset_name, result.metric_value) for result in card.data.eval_results}
    assert found == {("Same", 75.0), ("MTEB AFQMC", 80.0), ("MTEB T2", 80.0)}
    assert "Short." in card.text and card.text.count("## Results") == 1

    export(run / "model", run / "narrow", width=8)
    narrow = ModelCard.load(run / "narrow" / FILE)
    assert narrow.data.license == "mit" and "Short." in narrow.text
    # Of the cut copy only the figure of that width holds.
    assert [(r.dataset_name, r.metric_value) for r in narrow.data.eval_results] == [("Same", 60.0)]


def test_a_folder_without_a_card(tmp_path):
    with pytest.raises(UserError, match="no card to update"):
        note_results(tmp_path, {"tasks": {}})


def test_front_matter_that_a_person_broke(run):
    path = run / "model" / FILE
    path.write_text(path.read_text().replace("license: unknown", "license: [mit"))
    with pytest.raises(UserError, match="front matter is not YAML"):
        note_results(run / "model", {"benchmark": None, "tasks": {}})
