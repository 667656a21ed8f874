"""The pieces of `remove_markup`; what it does to whole texts is in `test_normalise.py`."""

import polars as pl
import pytest

from conan_embed.filtering.markup import map_matching, remove_markup, replace_matching


@pytest.mark.parametrize("texts", [[], ["plain"], ["a<b", "<p>x</p>", "c"], ["[a](b.md)", "x[i](y)"]])
def test_each_text_is_treated_as_if_it_were_alone(texts):
    together = remove_markup(pl.Series(texts, dtype=pl.String)).to_list()
    assert together == [remove_markup(pl.Series([text]))[0] for text in texts]


def test_only_matching_texts_are_changed_and_the_column_stays_as_it_was():
    texts = pl.Series("t", ["a1", "b", "a2"])
    assert replace_matching(texts, "a", lambda text: text.str.to_uppercase()).to_list() == ["A1", "b", "A2"]
    assert map_matching(texts, "a", lambda few: few + "!").to_list() == ["a1!", "b", "a2!"]
    assert texts.to_list() == ["a1", "b", "a2"]
