"""Scores of pairs, looked up."""

import numpy as np

from conan_embed.distillation.pair_scores import PairScores


def test_lookup_is_that_of_a_dictionary():
    generator = np.random.default_rng(0)
    query, passage = generator.integers(20, size=(2, 100))
    score = generator.random(100)
    scores = PairScores.joined(
        [(query[:60], passage[:60], score[:60]), (query[60:], passage[60:], score[60:])], num_contents=20
    )
    known: dict = {}
    for pair, value in zip(zip(query, passage, strict=True), score, strict=True):
        known.setdefault(pair, value)
    asked = generator.integers(20, size=(2, 300))
    expected = [known.get(pair, np.nan) for pair in zip(*asked, strict=True)]
    np.testing.assert_allclose(scores.of(*asked), np.array(expected, np.float32))
    assert len(scores) == len(known)


def test_no_pair_has_a_score_where_there_are_none():
    empty = PairScores(*np.empty((2, 0), np.int64), np.empty(0), num_contents=3)
    assert np.isnan(empty.of(np.array([0, 1]), np.array([2, 1]))).all()


def test_the_identity_follows_the_scores():
    pair = np.array([0]), np.array([1])
    one, same, other = (PairScores(*pair, np.array([value]), num_contents=2) for value in (0.5, 0.5, 0.25))
    assert one.identity() == same.identity() != other.identity()
