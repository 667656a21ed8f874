"""Suggestions for a misspelt word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.errors import NotFinite, UserError, suggestion


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("querys", " (did you mean 'queries'?)"),
        ("Queries", " (did you mean 'queries'?)"),
        ("zebra", ""),
        ("", ""),
    ],
)
def test_the_nearest_word_or_none(found, expected):
    assert suggestion(found, ["queries", "positives", "sts_pairs"]) == expected
    assert suggestion(found, []) == ""


@given(st.lists(st.text("abcdef", min_size=3), min_size=1, unique=True))
def test_a_word_is_nearest_to_itself(known):
    assert suggestion(known[0], iter(known)) == f" (did you mean {known[0]!r}?)"


def test_both_are_mistakes_of_the_user():
    assert issubclass(NotFinite, UserError) and issubclass(UserError, ValueError)
