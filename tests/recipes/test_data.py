"""Data sets of a recipe: names that stay in their folder and differ, and at least one of them."""

import pytest

from conan_embed.errors import UserError
from conan_embed.recipes.data import ClassificationData, Data, RetrievalData, StsData


@pytest.mark.parametrize("schema", [RetrievalData, ClassificationData, StsData])
@pytest.mark.parametrize("name", ["", "  ", "长" * 60])
def test_a_data_set_needs_a_name_of_bounded_length(schema, name):
    with pytest.raises(UserError, match="expected a name of 1 to 150 bytes"):
        schema(name=name, path="p")


@pytest.mark.parametrize(
    "name", ["pairs", "MS MARCO (en)", "医疗问答", "v1.2", "nli [/x]", "../rankings", ".."]
)
def test_other_names_are_free(name):
    assert RetrievalData(name=name, path="p").name == name


def test_two_data_sets_have_different_names():
    with pytest.raises(UserError, match="two data sets have the name 'a'; expected different names"):
        Data(retrieval=[{"name": "a", "path": "p"}], sts=[{"name": "a", "path": "q"}])


def test_a_recipe_without_data_is_refused():
    with pytest.raises(UserError, match="no data set; expected at least one"):
        Data()
