import pytest
from pydantic import TypeAdapter, ValidationError

from conan_embed.filtering.bounds import Bounds, RulesByName, at_least, at_most, between


def test_each_side_comes_from_the_last_override_that_sets_it():
    assert between(1, 9).replaced_by(at_least(2), at_least(3)) == between(3, 9)
    assert between(1, 9).replaced_by(at_most(5), Bounds()) == between(1, 5)
    assert Bounds().replaced_by(at_most(0)) == at_most(0)


def test_a_rule_can_be_a_switch_or_bounds():
    settings = TypeAdapter(RulesByName).validate_python({"a": False, "b": True, "c": {"zh": {"minimum": 3}}})
    assert [settings[name].enabled for name in "abc"] == [False, True, True]
    assert settings["c"].zh == at_least(3)


@pytest.mark.parametrize("value", [{"max": 1}, {"minimum": float("nan")}, 3])
def test_what_is_no_setting_is_refused(value):
    with pytest.raises(ValidationError):
        TypeAdapter(RulesByName).validate_python({"a": value})
