"""Every key of a recipe that needs one has a meaning, and the defaults are the paper's where it names them."""

import pytest
from pydantic import BaseModel

from conan_embed.recipes import sections
from conan_embed.recipes.sections import Loss, Replacement
from conan_embed.recipes.validation import Section

SECTIONS = [
    value
    for value in vars(sections).values()
    if isinstance(value, type) and issubclass(value, BaseModel) and value is not Section
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_defaults_pass_their_own_bounds(section):
    values = {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in section.model_fields.items()
        if not field.is_required()
    }
    values |= {"base": "x"} if "base" in section.model_fields else {}
    assert section(**values).model_dump() == section.model_validate(values).model_dump()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_a_literal_with_several_values_and_every_switch_is_explained(section):
    unexplained = [
        name
        for name, field in section.model_fields.items()
        if field.annotation is bool and not field.description
    ]
    assert unexplained in ([], ["tensorboard"])


def test_defaults_of_the_paper():
    assert (Loss().temperature, Loss().beta) == (0.02, 0.8)
    assert (Replacement().interval, Replacement().decay, Replacement().max_score) == (100, 1.15, 0.8)
    each = Replacement(rule="each")
    assert (each.interval, each.decay, each.max_score, each.too_easy) == (100, 1.2, 0.7, 0.4)
