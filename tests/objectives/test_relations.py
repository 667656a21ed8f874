"""Relation tables against the matrices that they stand for."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.objectives import IGNORED, NEGATIVE, POSITIVE, Relations

sizes = st.tuples(st.integers(0, 5), st.integers(0, 3))


def owner(column, num_queries, n):
    """The query that a column was offered for, and whether it is that query's positive."""
    return (column, True) if column < num_queries else ((column - num_queries) // n, False)


@given(sizes, st.sampled_from(["own", "all", "hard"]), st.data())
def test_factories_in_words(size, shared, data):
    num_queries, n = size
    groups = data.draw(st.lists(st.integers(0, 2), min_size=num_queries, max_size=num_queries))
    if shared == "own":
        relations = Relations.one_positive(num_queries, negatives_per_query=n)
    else:
        relations = Relations.in_batch(
            num_queries,
            negatives_per_query=n,
            shared=shared,
            group_Q=torch.tensor(groups, dtype=torch.int64),
        )
    matrix = relations.to_dense()
    assert matrix.shape == relations.shape == (num_queries, num_queries * (1 + n))
    for row in range(num_queries):
        for column in range(matrix.shape[1]):
            query, is_positive = owner(column, num_queries, n)
            if query == row:
                expected = POSITIVE if is_positive else NEGATIVE
            elif shared == "own" or groups[query] != groups[row] or (shared == "hard" and is_positive):
                expected = IGNORED
            else:
                expected = NEGATIVE
            assert matrix[row, column] == expected


@settings(max_examples=50)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6), st.data())
def test_any_matrix_comes_back_whole_and_in_parts(num_queries, num_candidates, seed, data):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randint(-1, 2, (num_queries, num_candidates), generator=generator)
    relations = Relations.from_dense(matrix)
    assert torch.equal(relations.to_dense(), matrix.to(torch.int8))
    assert torch.equal(torch.stack(relations.positives()), torch.stack(torch.where(matrix == POSITIVE)))
    start = data.draw(st.integers(0, num_queries))
    stop = data.draw(st.integers(start, num_queries))
    assert torch.equal(relations.rows(start, stop), matrix[start:stop].to(torch.int8))
    assert torch.equal(relations.part(start, stop).to_dense(), matrix[start:stop].to(torch.int8))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), queries=st.integers(1, 6), candidates=st.integers(1, 8))
def test_ignoring_pairs_changes_these_alone(seed, queries, candidates):
    generator = np.random.default_rng(seed)
    matrix = torch.from_numpy(generator.integers(-1, 2, (queries, candidates)))
    relations = Relations.from_dense(matrix)
    relations = replace(relations, group_Q=torch.from_numpy(generator.integers(-1, 2, queries)))
    before = relations.to_dense()
    pairs = torch.from_numpy(np.argwhere(generator.random((queries, candidates)) < 0.4))
    after = relations.ignoring(pairs[:, 0], pairs[:, 1])
    expected = before.clone()
    expected[pairs[:, 0], pairs[:, 1]] = IGNORED
    assert torch.equal(after.to_dense(), expected)
    assert (after.row_X.diff() >= 0).all()
