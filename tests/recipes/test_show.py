"""Recipes as text: what is printed is what loads."""

import pytest
import yaml

from conan_embed.errors import UserError
from conan_embed.recipes.loading import shipped_recipes
from conan_embed.recipes.schema import Recipe
from conan_embed.recipes.show import list_keys, list_recipes, recipe_text


def test_every_shipped_recipe_is_listed_and_printed():
    for name in shipped_recipes():
        assert f"\n{name} " in "\n" + list_recipes()
        assert isinstance(Recipe.model_validate(yaml.safe_load(recipe_text(name))), Recipe)
    with pytest.raises(UserError, match=r"smal: no shipped recipe \(did you mean 'small'\?\)"):
        recipe_text("smal")


def test_the_list_of_keys_is_yaml_with_the_defaults():
    text = list_keys()
    values = yaml.safe_load(text)
    assert list(values) == list(Recipe.model_fields)
    loss = {"temperature": 0.02, "sts_temperature": 0.05, "beta": 0.8}
    loss |= {"ignore_above_positive": None, "spread_out": None}
    assert values["loss"] == loss
    assert values["model"]["base"] == "(needed)"
    assert values["optimizer"]["betas"] == [0.9, 0.999]
    for line in text.splitlines():
        assert line == "" or "#" in line or line.endswith(":")
