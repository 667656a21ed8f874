"""What the schema guarantees: names that stay in their folder, paths with `~`, sections that fit together."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from conan_embed.recipes.loading import load_recipe
from conan_embed.recipes.schema import ClassificationData, Evaluation, Recipe, RetrievalData, StsData


@pytest.mark.parametrize("schema", [RetrievalData, ClassificationData, StsData])
@pytest.mark.parametrize("name", ["", "  ", "长" * 60])
def test_a_data_set_needs_a_name_of_bounded_length(schema, name):
    with pytest.raises(ValidationError, match="expected a name of 1 to 150 bytes"):
        schema(name=name, path="p")


@pytest.mark.parametrize(
    "name", ["pairs", "MS MARCO (en)", "医疗问答", "v1.2", "nli [/x]", "../rankings", ".."]
)
def test_other_names_are_free(name):
    assert RetrievalData(name=name, path="p").name == name


def test_a_tilde_is_the_home_directory_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    data = {
        "retrieval": [{"name": "r", "path": "~/r.jsonl", "corpus": "~/c.parquet", "ranking": "~/mined"}],
        "classification": [{"name": "c", "path": "~/c/*.jsonl"}],
        "sts": [{"name": "s", "path": "~"}],
    }
    recipe = Recipe(
        model={"base": "~/models/base"},
        data=data,
        evaluation={"folder": "~/eval"},
        output="~/runs/x",
        cache="~/cache",
    )
    text = recipe.as_yaml()
    assert "~" not in text
    assert text.count("/home/someone") == 9
    assert Evaluation(folder="a~b").folder == "a~b"


def test_rankings_made_before_are_read_by_every_retrieval_set():
    recipe = load_recipe("small")
    changed = recipe.with_rankings(Path("mined"))
    assert [data.ranking for data in changed.data.retrieval] == ["mined"]
    assert [data.ranking for data in recipe.data.retrieval] == [None]
