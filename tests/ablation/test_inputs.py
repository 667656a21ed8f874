"""What an arm is made from: every file that decides its scores changes a hash, and nothing else does."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.inputs import changed_inputs, hash_inputs, hash_model, of_mining
from conan_embed.ablation.job import make_job
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.discovery import discover
from tests.tiny_models import make_tiny_model


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def project(tmp_path):
    make_tiny_model("bert", dense_width=8, widths=(4,)).save(tmp_path / "base")
    for name in ("pairs.jsonl", "many/1.jsonl", "many/2.jsonl", "corpus.jsonl", "sts.jsonl"):
        write(tmp_path / name, "1\n")
    write(tmp_path / "eval/sts/One.jsonl", "1\n")
    for table in ("corpus", "queries", "qrels"):
        write(tmp_path / f"eval/retrieval/Two/{table}.jsonl", "1\n")
    recipe = {
        "model": {"base": str(tmp_path / "base")},
        "data": {
            "retrieval": [
                {
                    "name": "pairs",
                    "path": str(tmp_path / "pairs.jsonl"),
                    "corpus": str(tmp_path / "corpus.jsonl"),
                },
                {"name": "many", "path": str(tmp_path / "many")},
            ],
            "sts": [{"name": "graded", "path": str(tmp_path / "sts.jsonl")}],
        },
        "evaluation": {"folder": str(tmp_path / "eval")},
        "training": {"steps": 4},
    }
    write(tmp_path / "recipe.yaml", yaml.safe_dump(recipe))
    return tmp_path


def inputs_of(project: Path, *overrides: str, **arm):
    job = make_job(project / "recipe.yaml", overrides, Arm("arm", **arm), 0, project / "out")
    return hash_inputs(job, discover(project / "eval")), job


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("pairs.jsonl", "data 'pairs'"),
        ("corpus.jsonl", "data 'pairs'"),
        ("many/2.jsonl", "data 'many'"),
        ("many/3.jsonl", "data 'many'"),
        ("sts.jsonl", "data 'graded'"),
        ("eval/sts/One.jsonl", "evaluation set sts/One"),
        ("eval/retrieval/Two/qrels.jsonl", "evaluation set retrieval/Two"),
        ("eval/sts/New.jsonl", "evaluation set sts/New"),
        ("base/model.safetensors", "model.base"),
        ("base/tokenizer.json", "model.base"),
        ("base/2_Dense/model.safetensors", "model.base"),
    ],
)
def test_a_file_that_changes_or_comes_is_named(project, file, name):
    before, _ = inputs_of(project)
    content = (project / file).read_bytes() if (project / file).exists() else b"1\n"
    write(project / file, "")
    (project / file).write_bytes(content[:-2] + b"2\n")  # as long as before
    assert changed_inputs(before, inputs_of(project)[0]) == [name]
    assert changed_inputs(inputs_of(project)[0], before) == [name]


def test_what_decides_no_score_changes_nothing(project):
    before, _ = inputs_of(project)
    for file in (
        "base/README.md",
        "base/checkpoints/optimizer.safetensors",
        "many/.DS_Store",
        "eval/notes.txt",
    ):
        write(project / file, "other")
    details = project / "base/conan_embed.json"
    write(details, json.dumps({**json.loads(details.read_text()), "step": 7, "results": [1]}))
    shutil.copytree(project / "base", project / "copy")
    for file in project.rglob("*.jsonl"):
        file.touch()
    assert inputs_of(project)[0] == before
    assert hash_model(str(project / "copy")) == before["model.base"]


def test_the_prompts_of_a_model_and_the_base_of_an_adapter_count(project):
    pytest.importorskip("peft")
    from conan_embed.encoder.adapter import add_lora
    from conan_embed.recipes.sections import Lora

    before = hash_model(str(project / "base"))
    details = project / "base/conan_embed.json"
    write(details, json.dumps({**json.loads(details.read_text()), "instruction": "Find it."}))
    assert hash_model(str(project / "base")) != before
    model = EmbeddingModel.load(project / "base")
    add_lora(model, Lora(rank=2, save="adapter"), str(project / "base"))
    model.save(project / "adapter")
    adapter = hash_model(str(project / "adapter"))
    make_tiny_model("bert", dense_width=8, widths=(4,), seed=5).save(project / "base")
    assert hash_model(str(project / "adapter")) != adapter


def test_rankings_depend_on_data_and_base_alone(project):
    inputs, job = inputs_of(project)
    assert [*of_mining(job, inputs)] == ["model.base", "data 'pairs'", "data 'many'"]


def test_streamed_shards_are_told_apart_by_name_and_size(project):
    streamed = ("data.stream=true", "step.num_negatives=0", "step.sts_pairs=0")
    streamed = (*streamed, "data.sts=[]", "data.retrieval.0.corpus=null")
    before, _ = inputs_of(project, *streamed)
    write(project / "many/2.jsonl", "12\n")
    after, _ = inputs_of(project, *streamed)
    assert changed_inputs(before, after) == ["data 'many'"]


def test_the_base_of_an_arm_is_what_an_earlier_one_came_to(project):
    earlier = project / "out/first/seed-0"
    nothing, _ = inputs_of(project, after="first")
    shutil.copytree(project / "base", earlier / "model")
    trained, _ = inputs_of(project, after="first")
    assert changed_inputs(nothing, trained) == ["model.base"]
    # Removed to be trained anew it is another; removed to save space it is not.
    shutil.rmtree(earlier / "model")
    assert changed_inputs(trained, inputs_of(project, after="first")[0]) == ["model.base"]
    write(earlier.with_name("seed-0.json"), "{}")
    assert changed_inputs(trained, inputs_of(project, after="first")[0]) == []


def test_a_missing_file_is_refused_by_name(project):
    (project / "corpus.jsonl").unlink()
    with pytest.raises(UserError, match=r"corpus\.jsonl"):
        inputs_of(project)
