import pytest

from conan_embed.documents.optional import load_library
from conan_embed.errors import UserError


def test_a_missing_library_is_said_with_the_way_to_get_it() -> None:
    with pytest.raises(
        UserError, match=r'a\.pdf: reading it needs nothing-of-the-kind; pip install "conan-embed\[doc'
    ):
        load_library("nothing_of_the_kind", "nothing-of-the-kind", "a.pdf")


def test_an_installed_library_is_imported() -> None:
    assert load_library("json", "json", "a.json").loads("1") == 1
