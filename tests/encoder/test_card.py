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
    assert theirs["queries"].shape == ours["queries"].shape == (1, 8)
    np.testing.assert_allclose(theirs["queries"], ours["queries"], atol=2e-2)  # ours multiplies in bfloat16
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


@pytest.mark.parametrize("kind", ["published", "ours"])
def test_licence_and_languages_begin_as_those_of_the_base(run, tmp_path, kind):
    base = tmp_path / "base"
    base.mkdir()
    text = "---\nlicense: mit\nlanguage: [en, zh]\ndatasets: [their/set]\ntags: [x]\n---\n# Base\n"
    if kind == "ours":
        text = (
            (run / "model" / FILE).read_text().replace("license: unknown", "license: mit\nlanguage: [en, zh]")
        )
    (base / FILE).write_text(text)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["model"]["base"] = str(base)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    note_training(run / "model", run)
    data = ModelCard.load(run / "model" / FILE).data
    assert (data.license, data.language, data.datasets) == ("mit", ["en", "zh"], ["faq", "graded"])
    details = (run / "model" / "conan_embed.json").read_text()
    assert '"base": "base"' in details and str(tmp_path) not in details


@pytest.mark.parametrize("words", ["a | b", "two\nlines"])
def test_words_of_users_do_not_break_a_table(run, words):
    result = {"main_score": 0.5, "metric": "x"}
    note_results(run / "model", {"tasks": {f"sts/{words}": result}})
    lines = (run / "model" / FILE).read_text().split("## Results")[1].splitlines()
    (row,) = [line for line in lines if words.split()[0] in line and "sts/" in line and "Same" not in line]
    assert len(row.replace("\\|", "").split("|")) == len(lines[4].split("|"))


@pytest.mark.parametrize("prompt", ['say "so": ', "it's\n"])
def test_the_lines_for_other_frameworks_hold_the_prompts(tiny_model, tmp_path, prompt):
    tiny_model("bert", prompts={"query": prompt, "passage": "p: "}).save(tmp_path / "model")
    text = (tmp_path / "model" / FILE).read_text()
    assert f'query_encode_kwargs={{"prompt": {prompt!r}}}' in text
    assert f"query_instruction={prompt!r}, text_instruction='p: '" in text
    assert f'SentenceTransformersTextEmbedder(model="MODEL", prefix={prompt!r})' in text


def test_a_folder_without_a_card(tmp_path):
    with pytest.raises(UserError, match="no card to update"):
        note_results(tmp_path, {"tasks": {}})


def test_front_matter_that_a_person_broke(run):
    path = run / "model" / FILE
    path.write_text(path.read_text().replace("license: unknown", "license: [mit"))
    with pytest.raises(UserError, match="front matter is not YAML"):
        note_results(run / "model", {"benchmark": None, "tasks": {}})
