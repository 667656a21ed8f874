"""Every command of experiments/README.md: its recipe is one, and so is that of each of its arms; stages.py's too."""

import importlib
import json
import re
import shlex
from argparse import Namespace
from pathlib import Path

import pytest

from conan_embed.ablation.arms import Arm, grid, table_4
from conan_embed.ablation.comparison import compare
from conan_embed.recipes.loading import load_recipe
from tests.support.planted import planted

FOLDER = Path(__file__).parents[2] / "experiments"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`conan-embed (sweep|ablate) (.*?)`", README)


def arms_of(command, rest):
    words = shlex.split(rest)
    for option in ("-o", "--against", "--equal"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    one_at_a_time = "--one-at-a-time" in words
    source, *settings = (word for word in words if word != "--one-at-a-time")
    source = FOLDER.parent / source
    if command == "ablate":
        return source, table_4(load_recipe(source, settings))
    return source, grid(settings, one_at_a_time=one_at_a_time)


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
    of_scripts = {path for path in FOLDER.glob("*.yaml") if path.with_suffix(".py").exists()}
    assert {FOLDER.parent / rest.split()[0] for _, rest in COMMANDS} == set(
        FOLDER.glob("*.yaml")
    ) - of_scripts


def test_arms_of_stages_differ_in_what_is_asked_about(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("CONAN_DATA", "/the/data")
    stages = importlib.import_module("stages")
    arguments = Namespace(
        output=tmp_path, steps=7, max_length=96, tasks=["sts"], pre_training=["step.queries=32"]
    )
    arms = stages.make_arms(arguments, Path("raw"), Path("filtered"))
    names = [arm.name for arm in arms]
    assert all(arm.after is None or arm.after in names[:number] for number, arm in enumerate(arms))
    assert {name for asked in stages.QUESTIONS.values() for name in asked} == set(names)

    recipes = {arm.name: load_recipe(arm.recipe) for arm in arms if arm.recipe}
    weights = {
        name: {data.name: data.weight for data in recipe.data.retrieval} for name, recipe in recipes.items()
    }
    shares = {name: found.get(stages.PROMPTS, 0) / sum(found.values()) for name, found in weights.items()}
    assert shares == pytest.approx(
        {"pre-trained": 0.12, "raw pairs": 0.12, "0 % prompts": 0.0, "30 % prompts": 0.3}
    )
    assert weights["raw pairs"] == weights["pre-trained"]
    assert all(
        Path(data.path).parent == Path("raw" if name == "raw pairs" else "filtered")
        for name, recipe in recipes.items()
        for data in recipe.data.retrieval
    )
    # The others keep their shares among themselves.
    others = [
        {name: weight for name, weight in found.items() if name != stages.PROMPTS}
        for found in weights.values()
    ]
    assert all(found == others[0] for found in others)
    rest = [recipe.model_dump(exclude={"data"}) for recipe in recipes.values()]
    assert all(found == rest[0] for found in rest) and rest[0]["training"]["steps"] == 7


def test_what_is_kept_names_the_command_and_no_folder_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    keep = importlib.import_module("keep")
    monkeypatch.setattr(keep, "RESULTS", tmp_path)
    arms = [Arm("base", trained=False), Arm("vanilla", (f"cache={tmp_path}/c", "loss.beta=2"))]
    output = tmp_path / "secret" / "ablation"
    settings = f"e.yaml model.base={tmp_path}/m cache={tmp_path}/c --jobs 2 -o {output} --against base"
    run = {
        "command": f"conan-embed ablate {settings}",
        "base": f"{tmp_path}/encoder/model",
        "versions": {"torch": "2"},
        **{"parameters": 20_017_536, "device": "x86_64", "processes": 1, "threads": 1},
    }
    (output / "vanilla/seed-0").mkdir(parents=True)
    (output / "vanilla/seed-0/run.json").write_text(json.dumps(run))
    comparison = compare(arms, [0, 1], planted(arms, [0.0, 0.05], num_seeds=2), against=0, title="two arms")
    (output / "results.json").write_text(json.dumps(comparison.to_json()))
    text = keep.keep(output, "2026-01-02").read_text()
    assert text.startswith(
        "# two arms, 2026-01-02\n\n`conan-embed ablate e.yaml model.base=m --against base`\n"
    )
    assert "| vanilla | **+" in text and str(tmp_path) not in text
    assert "From encoder/model (20,017,536 parameters)" in text and "\n- vanilla: loss.beta=2\n" in text
    kept = json.loads((tmp_path / "ablation_2026-01-02.json").read_text())
    assert kept["title"] == "two arms" and kept["arms"][1]["overrides"] == ["loss.beta=2"]
