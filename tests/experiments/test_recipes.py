"""The recipes of experiments are recipes, whatever the folders are called."""

from pathlib import Path

import pytest

from conan_embed.recipes.loading import load_recipe

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize(
    "recipe", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_recipes_are_whole(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "CONAN_BASE",
        "CONAN_DATA",
        "CONAN_DOMAIN",
        "CONAN_WORK",
        "CONAN_START",
        "CONAN_ENCODER",
    ):
        monkeypatch.setenv(variable, f"/{variable}")
    data = load_recipe(recipe).data
    assert all(part.path.startswith("/CONAN_") for part in (*data.retrieval, *data.classification, *data.sts))


def test_zero_shot_training_holds_no_set_that_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CONAN_DATA", "CONAN_WORK", "CONAN_START"):
        monkeypatch.setenv(variable, variable)
    with_splits, without = (
        {Path(part.path).stem for part in (*data.retrieval, *data.classification, *data.sts)}
        for data in (
            load_recipe(FOLDER / f"small-model/{name}.yaml").data for name in ("fine-tuning", "zero-shot")
        )
    )
    evaluated = (
        "afqmc",
        "atec",
        "lcqmc",
        "pawsx",
        "qbqtc",
        "stsb",
        "msrp",
        "trecqa",
        "cmrc",
        "csl_",
        "medical",
        "tidb",
    )
    assert without < with_splits
    assert not [name for name in without for source in evaluated if source in name.lower()]
