"""Recipes from YAML: shipped ones, overrides, the differences of two, and a sentence for every mistake."""

from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from conan_embed.errors import UserError
from conan_embed.recipes.loading import changed_keys, load_recipe, shipped_recipes
from conan_embed.recipes.schema import Recipe
from conan_embed.recipes.validation import _RENAMED

RECIPE = """
model: {base: some-model}
data:
  retrieval:
    - {name: pairs, path: pairs.jsonl}
  sts:
    - {name: graded, path: sts.jsonl}
"""


@pytest.fixture
def load(tmp_path):
    """Load a recipe given as text, with overrides."""

    def load(text, *overrides):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_recipe(path, list(overrides))

    return load


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_by_name_and_come_back_from_yaml(name):
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert Recipe.model_validate(yaml.safe_load(recipe.as_yaml())) == recipe


def test_the_rule_of_v2_is_a_few_overrides_that_the_recipe_names():
    text = shipped_recipes()["conan-v1-finetune"].read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("#") and "v2, add: " in line]
    v1, v2 = (
        load_recipe("conan-v1-finetune", overrides) for overrides in ([], line.split("add: ")[1].split())
    )
    rule = v2.hard_negatives
    assert (rule.rule, rule.interval, rule.decay, rule.max_score) == ("each", 1, 1.2, 0.7)
    assert v1.step.in_batch == "step_hard"  # the paper's sum
    assert v2.model_copy(update={"hard_negatives": v1.hard_negatives}) == v1


def test_there_are_shipped_recipes_and_none_of_them_is_a_filters():
    assert "small" in shipped_recipes()
    assert not [name for name in shipped_recipes() if name.startswith("filter")]


def test_defaults_are_written_out(load):
    recipe = load(RECIPE)
    values = recipe.as_dict()
    assert values["loss"] == {
        **{"temperature": 0.02, "sts_temperature": 0.05, "beta": 0.8},
        **{"ignore_above_positive": None, "spread_out": None},
    }
    assert values["hard_negatives"]["decay"] == 1.15
    assert values["optimizer"]["betas"] == [0.9, 0.999]
    assert yaml.safe_load(recipe.as_yaml()) == values


@pytest.mark.parametrize(
    ("override", "found", "expected"),
    [
        ("optimizer.learning_rate=2e-5", lambda r: r.optimizer.learning_rate, 2e-5),
        ("step.queries=8", lambda r: r.step.queries, 8),
        ("model.widths=[64,32]", lambda r: r.model.widths, [64, 32]),
        ("model.dropout=null", lambda r: r.model.dropout, None),
        ("tracking.tensorboard=false", lambda r: r.tracking.tensorboard, False),
        ("output=runs/a=b", lambda r: r.output, "runs/a=b"),
        ("model.prompts.query='ask: '", lambda r: r.model.prompts, {"query": "ask: "}),
        ("data.retrieval.0.path=other.jsonl", lambda r: r.data.retrieval[0].path, "other.jsonl"),
        (
            "data.retrieval[0].columns={query: title}",
            lambda r: r.data.retrieval[0].columns,
            {"query": "title"},
        ),
    ],
)
def test_overrides(load, override, found, expected):
    assert found(load(RECIPE, override)) == expected
    assert found(load(RECIPE)) != expected


def test_the_last_override_wins_and_the_rest_of_the_recipe_stays(load):
    recipe = load(RECIPE, "loss.beta=0.1", "loss.beta=0.2")
    assert recipe.as_dict() == load(RECIPE).as_dict() | {
        "loss": load(RECIPE).as_dict()["loss"] | {"beta": 0.2}
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "step.queris=3",
            "step.queris: unknown key (did you mean 'queries'?); expected one of queries, positives",
        ),
        ("sted.queries=3", "sted: unknown key (did you mean 'step'?)"),
        ("data.retrieval.0.pth=x", "data.retrieval.0.pth: unknown key (did you mean 'path'?)"),
        ("step.queries=abc", "step.queries: found 'abc'; input should be a valid integer"),
        ("step.queries=2.5", "step.queries: found 2.5; "),
        ("step.queries=-1", "step.queries: found -1; input should be greater than or equal to 0"),
        (
            "training.precision=fp16",
            "training.precision: found 'fp16'; input should be 'bfloat16' or 'float32'",
        ),
        ("model.widths=64", "model.widths: found 64; input should be a valid list"),
        ("model=x", "model: found 'x'; "),
        ("optimizer.learning_rate=0", "optimizer.learning_rate: found 0; input should be greater than 0"),
        (
            "optimizer.learning_rate=.inf",
            "optimizer.learning_rate: found inf; input should be a finite number",
        ),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas.1: found 1.0; input should be less than 1"),
        ("model.dropout=1.5", "model.dropout: found 1.5; input should be less than or equal to 1"),
        ("model.base=${nowhere}", "Interpolation key 'nowhere' not found"),
        ("data.retrieval.3.path=x", "data.retrieval.3.path=x: does not fit"),
        ("data.retrieval.pairs.path=x", "data.retrieval.pairs.path=x: does not fit"),
        ("model.widths=[64", "model.widths=[64: does not fit"),
        ("step.queries", "step.queries: not an override; expected dotted.key=value"),
        ("=3", "=3: not an override"),
    ],
)
def test_mistakes_in_overrides(load, override, words):
    with pytest.raises(UserError) as error:
        load(RECIPE, override)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "recipe.yaml: model: missing; it has no default"),
        (RECIPE.replace("model: {base: some-model}", "model: {}"), "model.base: missing"),
        (
            RECIPE.replace("name: pairs", "nam: pairs"),
            "data.retrieval.0.nam: unknown key (did you mean 'name'?)",
        ),
        (RECIPE.replace("name: graded", "name: pairs"), "two data sets have the name 'pairs'"),
        ("model: {base: m}\ndata: {}", "data: no data set; expected at least one under retrieval"),
        (RECIPE + "step: {queries: 0, sts_pairs: 0}", "queries and sts_pairs are both 0"),
        (RECIPE + "step: {sts_pairs: 0, mixing: sequential}", "sequential needs both"),
        (RECIPE.split("  sts:")[0], "step.sts_pairs: 0 was expected, since data.sts names no set"),
        (
            "model: {base: m}\ndata: {sts: [{name: s, path: p}]}",
            "step.queries: 0 was expected, since data names no retrieval",
        ),
        ("- a\n- b", "recipe.yaml: found a list, expected a mapping of keys"),
        ("3", "recipe.yaml: not a mapping of keys"),
        ("model: [", "recipe.yaml: line 2: not YAML"),
        ("model: {base: a}\nmodel: {base: b}", "recipe.yaml: line 2: not YAML: found duplicate key model"),
        (b"model: {base: \xff}", "recipe.yaml: not UTF-8 at byte 14"),
    ],
)
def test_mistakes_in_recipes(load, text, words):
    with pytest.raises(UserError) as error:
        load(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_that_does_not_exist(tmp_path):
    with pytest.raises(
        UserError, match=r"smal: no such recipe \(did you mean 'small'\?\); expected a YAML file or one of"
    ):
        load_recipe("smal")
    with pytest.raises(UserError, match="no such recipe"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("step.negatives=3", "step.negatives: unknown key (did you mean 'num_negatives'?)"),
        ("data.retrieval.0.negatives=given", "(did you mean 'negative_source'?)"),
        ("negatives.decay=1.2", "negatives: unknown key (did you mean 'hard_negatives'?)"),
        ("hard_negatives.ceiling=0.7", "(did you mean 'max_score'?)"),
        ("hard_negatives.when_used_up=keep", "(did you mean 'on_exhausted'?)"),
        ("hard_negatives.relative=true", "(did you mean 'subtract_background'?)"),
        ("mining.below_positive=0.95", "(did you mean 'max_positive_ratio'?)"),
        ("mining.relative=true", "(did you mean 'subtract_background'?)"),
        ("training.recompute=true", "(did you mean 'activation_checkpointing'?)"),
        ("training.keep=3", "(did you mean 'keep_checkpoints'?)"),
        ("optimizer.max_gradient_norm=1", "(did you mean 'max_grad_norm'?)"),
        ("data.window=100", "(did you mean 'shuffle_window'?)"),
    ],
)
def test_keys_of_earlier_versions_are_unknown_and_their_successor_is_named(load, override, words):
    with pytest.raises(UserError) as error:
        load(RECIPE, override)
    assert words in str(error.value)
    assert str(error.value).endswith(".")


def test_no_current_key_is_listed_as_renamed():
    def keys(schema):
        for name, field in schema.model_fields.items():
            yield name
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield from keys(kind)

    current = set(keys(Recipe))
    assert not current & _RENAMED.keys()
    assert {name for names in _RENAMED.values() for name in names} <= current


def test_changed_keys():
    before = {"a": {"x": 1, "y": [1, 2]}, "b": 2, "c": 3}
    now = {"a": {"x": 1, "y": [1, 3]}, "b": 5, "d": 4}
    assert changed_keys(before, now) == [
        "a.y (was [1, 2], is [1, 3])",
        "b (was 2, is 5)",
        "c (was 3, is None)",
        "d (was None, is 4)",
    ]
    assert changed_keys(before, now, ["a", "b", "c", "d"]) == changed_keys(before, before) == []
    assert changed_keys(before, now, ["a.y", "c", "d"]) == ["b (was 2, is 5)"]
