"""Comparing settings in Python."""

from typing import Any

import pytest

import conan_embed as ce


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"arms": {}}, "found no arms"),
        ({"arms": {"a": {}}, "seeds": [1, 1]}, "expected different ones"),
        ({"arms": {"a": {"step": {"querys": 1}}}}, "did you mean 'queries'"),
    ],
)
def test_compare_finds_mistakes_before_it_trains(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ce.UserError, match=sentence):
        ce.compare(ce.Recipe.small(model="m", retrieval="a.jsonl"), **arguments)
