"""Settings that are checked: one sentence for a mistake, the same in Python as from a file."""

import pytest

import conan_embed as ce
from conan_embed.errors import UserError
from conan_embed.recipes.sections import Step
from conan_embed.recipes.validation import validate

DATA = {"retrieval": [{"name": "a", "path": "a.jsonl"}]}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ce.Recipe(model={"base": "x"}, data=DATA, steps={}), "Recipe: steps: unknown key (did"),
        (
            lambda: ce.Recipe(model={"base": "x"}, data=DATA, step={"querys": 1}),
            "Recipe: step.querys: unknown key",
        ),
        (lambda: ce.Recipe(data=DATA), "Recipe: model: missing; it has no default."),
        (lambda: ce.FilterRecipe(sources=[{"pth": "x"}]), "FilterRecipe: sources.0.pth: unknown key"),
        (
            lambda: ce.FilterRecipe(sources=[]),
            "FilterRecipe: sources: found []; tuple should have at least 1 item",
        ),
        (
            lambda: ce.FilterRecipe(sources=[{"path": "x"}], rules={"copi": False}),
            "FilterRecipe: rules.copi: ",
        ),
        (lambda: Step(queries=-1), "Step: queries: found -1; input should be greater than or equal to 0."),
    ],
)
def test_a_mistake_in_python_is_one_sentence(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith(".") and not str(caught.value).endswith("..")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_the_sentence_names_the_source_of_the_values():
    with pytest.raises(UserError, match=r"^my\.yaml: queries: found 'many'; input should be a valid integer"):
        validate({"queries": "many"}, "my.yaml", Step)


def test_what_was_renamed_is_named():
    with pytest.raises(UserError, match=r"negatives: unknown key \(did you mean 'num_negatives'\?\)"):
        Step(negatives=3)
    with pytest.raises(UserError, match=r"negatives: unknown key \(did you mean 'hard_negatives'\?\)"):
        ce.Recipe(model={"base": "x"}, data=DATA, negatives={})
