"""Every command of experiments/README.md: its recipe is one, and so is that of each of its arms."""

import re
import shlex
from pathlib import Path

import pytest

from conan_embed.ablation.arms import grid, table_4
from conan_embed.recipes.schema import load_recipe

FOLDER = Path(__file__).parents[2] / "experiments"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`conan-embed (sweep|ablate) (.*?)`", README)


def arms_of(command, rest):
    words = shlex.split(rest)
    for option in ("-o", "--against", "--equal"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    source, *settings = words
    source = FOLDER.parent / source
    return source, table_4(load_recipe(source, settings)) if command == "ablate" else grid(settings)


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_all_arms_are_recipes(command, rest, monkeypatch):
    monkeypatch.setenv("CONAN_DATA", "/the/data")
    source, arms = arms_of(command, rest)
    assert len(arms) >= 4
    recipes = [load_recipe(source, list(arm.overrides)) for arm in arms]
    for recipe in recipes:
        assert recipe.evaluation.folder == "/the/data/eval"
        assert all(data.path.startswith("/the/data/") for data in (*recipe.data.retrieval, *recipe.data.sts))
        assert recipe.training.steps % 16 == 0
    told_apart = {(arm.trained, recipe.as_yaml()) for arm, recipe in zip(arms, recipes, strict=True)}
    assert len(told_apart) == len(arms)


def test_every_question_and_every_recipe_is_there():
    assert re.findall(r"^\| (\d) \|", README, re.MULTILINE) == list("12345678")
    assert {FOLDER.parent / rest.split()[0] for _, rest in COMMANDS} == set(FOLDER.glob("*.yaml"))
