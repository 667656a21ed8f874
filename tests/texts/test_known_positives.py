"""Known positives against sets of texts, query by query."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.texts.known_positives import KnownPositives
from conan_embed.texts.ragged import Ragged


@st.composite
def known_positives(draw):
    """Text ids 0..11 of few contents, a few lists that queries share, and the queries themselves."""
    contents = draw(st.lists(st.integers(0, 5), min_size=12, max_size=12))
    texts = st.integers(0, 11)
    lists = draw(st.lists(st.lists(texts, max_size=5), min_size=1, max_size=4))
    queries = draw(st.lists(st.tuples(texts, st.integers(0, len(lists) - 1)), min_size=1, max_size=6))
    values = np.array([text for each in lists for text in each], np.int64)
    return (
        KnownPositives(
            np.array([query for query, _ in queries]),
            np.array([number for _, number in queries]),
            Ragged.of_lengths(values, np.array([len(each) for each in lists])),
            np.array(contents, np.int64),
        ),
        lists,
    )


def is_known(known, lists, row, text):
    own = known.content[known.query_Q[row]]
    equal = [other for other, query in enumerate(known.query_Q) if known.content[query] == own]
    answers = [known.query_Q[row], *(answer for other in equal for answer in lists[known.list_Q[other]])]
    return known.content[text] in {known.content[answer] for answer in answers}


@settings(max_examples=100, deadline=None)
@given(known_positives(), st.data())
def test_pairs_and_membership_are_those_of_a_loop(made, data):
    known, lists = made
    rows = np.array(data.draw(st.lists(st.integers(0, len(known.query_Q) - 1), max_size=6)), np.int64)
    candidates = np.array(data.draw(st.lists(st.integers(0, 11), max_size=12)), np.int64)
    expected = [
        (place, column)
        for place, row in enumerate(rows)
        for column, text in enumerate(candidates)
        if is_known(known, lists, row, text)
    ]
    found = known.pairs(rows, candidates)
    assert sorted(set(zip(*(each.tolist() for each in found), strict=True))) == expected
    among = known.among(candidates)
    found = among.pairs(rows)
    assert sorted(set(zip(*(each.tolist() for each in found), strict=True))) == expected
    lists_of_row, held = among.of(rows)
    assert len(lists_of_row) == len(rows)
    hidden = [
        {int(column) for number in lists_of_row[place] for column in held[number]}
        for place in range(len(rows))
    ]
    assert sorted((place, column) for place, columns in enumerate(hidden) for column in columns) == expected
    row_X, text_X = (grid.ravel() for grid in np.meshgrid(rows, candidates, indexing="ij"))
    assert known.contains(row_X, text_X).tolist() == [
        is_known(known, lists, row, text) for row, text in zip(row_X, text_X, strict=True)
    ]
