"""Which positives a negative is compared with, and which of them is the best, against loops."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.negatives.false_negatives import best_of_pairs, first_positives
from conan_embed.texts.ragged import Ragged


@given(
    st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=40), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_the_first_twenty_positives_that_are_not_the_query_itself(lists, seed):
    generator = np.random.default_rng(seed)
    lengths = np.array([len(each) for each in lists])
    positives = Ragged.of_lengths(np.concatenate([np.array(each) for each in lists]), lengths)
    query_Q, list_Q = generator.integers(61, size=8), generator.integers(len(lists), size=8)
    data = SimpleNamespace(positives=positives, list_Q=list_Q, query_Q=query_Q)
    store = SimpleNamespace(content=np.arange(61) // 2)  # two ids are one text
    row_P = generator.integers(8, size=6)
    pair_X, positive_X = first_positives(data, store, row_P)
    for pair, row in enumerate(row_P):
        expected = [text for text in lists[list_Q[row]] if text // 2 != query_Q[row] // 2][:20]
        assert positive_X[pair_X == pair].tolist() == expected
    assert (np.diff(pair_X) >= 0).all()


@given(st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=6), min_size=1, max_size=6))
def test_the_best_of_each_pair(scores):
    pair_X = np.repeat(np.arange(len(scores)), [len(each) for each in scores])
    score_X = np.array([score for each in scores for score in each], np.float32)
    best_P = best_of_pairs(pair_X, score_X, len(scores))
    assert pair_X[best_P].tolist() == list(range(len(scores)))
    assert score_X[best_P].tolist() == [max(each) for each in scores]
