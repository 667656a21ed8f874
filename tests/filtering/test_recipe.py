"""Recipes of the filter: the shipped one spells out the defaults; mistakes are said in one sentence."""

from importlib import resources

import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES
from conan_embed.filtering.recipe import FilterRecipe, read_filter_recipe
from conan_embed.filtering.rules import RULES, active_rules


def test_the_default_recipe_is_the_default(tmp_path):
    text = (resources.files("conan_embed") / "recipes" / "filter-default.yaml").read_text(encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    recipe = read_filter_recipe(tmp_path / "recipe.yaml")
    plain = FilterRecipe(sources=recipe.sources)
    parts = {"rules": RULES, "prompt_response": PROMPT_RESPONSE_RULES}
    assert recipe.model_dump(exclude=set(parts)) == plain.model_dump(exclude=set(parts))
    for key, rules in parts.items():
        settings = getattr(recipe, key)
        assert list(settings) == [rule.name for rule in rules]
        for rule, named in zip(rules, active_rules(rules, settings, key), strict=True):
            assert (named.zh, named.en, named.skip) == (rule.zh, rule.en, rule.skip)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: [{path: a}]\nnormalize: {}", "normalize: unknown key \(did you mean 'normalise'\?\)"),
        ("sources: []", "sources: "),
        (
            "sources: [{path: a}]\nduplicates: {threshold: 2}",
            r"duplicates\.threshold: found 2; input should be less",
        ),
        (
            "sources: [{path: a}]\nrules: {copi: false}",
            r"rules\.copi: unknown rule \(did you mean 'copy'\?\)",
        ),
        (
            "sources: [{path: a}]\nrules: {copy: {max: 1}}",
            r"rules\.copy\.max: unknown key .*; expected one of minimum",
        ),
        ("sources: [{path: a}]\nrules: {copy: {zh: {minimun: 1}}}", r"zh\.minimun: unknown key .*'minimum'"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_recipes_are_said_in_one_sentence(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_filter_recipe(tmp_path / "recipe.yaml")


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(UserError, match="no such recipe"):
        read_filter_recipe(tmp_path / "nowhere.yaml")


def test_overrides_are_laid_over_the_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text("sources: [{path: a}]\nteacher: {min_score: 0.1}")
    overrides = ["teacher.min_score=0.3", "rules.copy=false", "sources.0.category=news"]
    recipe = read_filter_recipe(tmp_path / "recipe.yaml", overrides)
    assert recipe.teacher.min_score == 0.3
    assert not recipe.rules["copy"].enabled
    assert recipe.sources[0].category == "news"
