"""What the schema guarantees: paths with `~`, sections that fit together."""

from pathlib import Path

from conan_embed.recipes.loading import load_recipe
from conan_embed.recipes.schema import Recipe
from conan_embed.recipes.sections import Evaluation


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


def test_defaults_that_follow_from_a_setting_follow_its_change():
    recipe = load_recipe("small").with_(hard_negatives={"rule": "each"})
    assert (recipe.hard_negatives.decay, recipe.hard_negatives.max_score) == (1.2, 0.7)
    assert recipe.with_(hard_negatives={"rule": "mean", "decay": 1.3}).hard_negatives.decay == 1.3
    assert Recipe.model_validate(recipe.as_dict()) == recipe
