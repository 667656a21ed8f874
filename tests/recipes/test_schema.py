"""What the schema guarantees: paths with `~`, sections that fit together."""

import re
from pathlib import Path

import pytest

from conan_embed.errors import UserError
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


def test_a_rule_never_inherits_the_bounds_that_another_has_by_default(tmp_path):
    """However a recipe was made; a run's own has every default written out, and is refused."""
    wanted = load_recipe("small", ["hard_negatives.rule=each"]).hard_negatives
    assert (wanted.decay, wanted.max_score) == (1.2, 0.7)
    small = Recipe.small(model="m", retrieval="faq.jsonl")
    assert small.with_(hard_negatives={"rule": "each"}).hard_negatives == wanted
    saved = tmp_path / "recipe.yaml"
    saved.write_text(small.as_yaml())
    change = ["hard_negatives.rule=each"]
    words = (
        "hard_negatives.rule: found each beside decay: 1.15, max_score: 0.8, the defaults of another rule; "
        "expected these given as well, by default decay: 1.2, max_score: 0.7."
    )
    for make in (
        lambda: load_recipe(saved, change),
        lambda: load_recipe(saved).with_(hard_negatives={"rule": "each"}),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            make()
    bounds = ["hard_negatives.decay=1.2", "hard_negatives.max_score=0.7"]
    assert load_recipe(saved, [*change, *bounds]).hard_negatives == wanted
    # What is given counts, also where it is the other rule's default; `share` has no use for either.
    kept = ["hard_negatives.decay=1.15", "hard_negatives.max_score=0.75"]
    assert load_recipe(saved, [*change, *kept]).hard_negatives.decay == 1.15
    assert load_recipe(saved, ["hard_negatives.rule=mean"]).hard_negatives.max_score == 0.8
    saved.write_text(small.with_(hard_negatives={"rule": "each"}).as_yaml())
    assert load_recipe(saved, ["hard_negatives.rule=share"]).hard_negatives.rule == "share"
    with pytest.raises(UserError, match=r"found mean beside decay: 1\.2, max_score: 0\.7"):
        load_recipe(saved, ["hard_negatives.rule=mean"])
    saved.write_text(small.with_(hard_negatives={"rule": "mean", "decay": 1.4, "max_score": 0.9}).as_yaml())
    assert load_recipe(saved, change).hard_negatives.decay == 1.4  # somebody's choice, no default
    with pytest.raises(UserError, match="rule"):
        load_recipe(saved, ["hard_negatives.rule=eachh"])
