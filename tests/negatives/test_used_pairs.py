"""Pairs that may be false negatives, against loops over queries and their rankings."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import conan_embed.negatives.used_pairs as code
from conan_embed.negatives.rankings import NONE, Ranking
from conan_embed.negatives.table import NegativeTable
from conan_embed.negatives.used_pairs import highest, likeliest, used_pairs

OFFSET, PER_QUERY = 2, 3


def random_table(seed, num_queries, ranks):
    """A table whose rankings begin with a given negative now and then, and the ranking that was mined."""
    draw = np.random.default_rng(seed)
    ids = np.array([draw.permutation(1000)[: ranks + OFFSET] for _ in range(num_queries)], np.int32)
    scores = -np.sort(-draw.random((num_queries, ranks + OFFSET)).astype(np.float32), axis=1)
    short = draw.integers(PER_QUERY, ranks + 1, num_queries)
    ids[np.arange(ranks + OFFSET) >= OFFSET + short[:, None]] = NONE
    positive = draw.random(num_queries).astype(np.float32)
    usable = ids[:, OFFSET:].copy()
    given = draw.random(num_queries) < 0.3
    usable[given, 0] = 2000 + np.flatnonzero(given)
    table = NegativeTable(usable, PER_QUERY)
    rows = np.arange(num_queries)
    for _ in range(3):  # some windows on, some negatives by themselves
        some = draw.random((num_queries, PER_QUERY)) < 0.5
        table.advance(rows, np.repeat(some[:, :1], PER_QUERY, axis=1), whole=True)
        table.advance(rows, some & (table.in_use(rows) != NONE), whole=False)
    for scores_QN, unknown in ((table.initial_QN, 0.3), (table.current_QN, 0.5), (table.share_QN, 0.5)):
        scores_QN[:] = np.where(draw.random(scores_QN.shape) < unknown, np.nan, draw.random(scores_QN.shape))
    return table, Ranking(ids, scores, positive, 0)


def slow_pairs(table, first, ranking, rows):
    """(row, negative, in use, rank, score, score of the positive, observed) of each pair, query by query."""
    found = []
    for row in rows:
        in_use = table.in_use(np.array([first + row]))[0].tolist()
        for text in table.ranking_QK[first + row][: table.next_Q[first + row]].tolist():
            seen = np.nan
            if text in in_use:
                slot = first + row, in_use.index(text)
                if np.isnan(table.current_QN[slot]) and np.isnan(table.share_QN[slot]):
                    continue  # put in place, but in no step since
                known = [
                    scores[first + row, in_use.index(text)] for scores in (table.current_QN, table.initial_QN)
                ]
                seen = known[1] if np.isnan(known[0]) else known[0]
            where = list(ranking.ids_QK[row]).index(text) if text in ranking.ids_QK[row] else None
            mined = (
                (np.nan, np.nan)
                if where is None
                else (ranking.scores_QK[row, where], ranking.positive_Q[row])
            )
            found.append((row, text, text in in_use, NONE if where is None else where, *mined, seen))
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), num_queries=st.integers(1, 12), ranks=st.integers(PER_QUERY, 12))
def test_used_pairs_are_those_of_a_loop(seed, num_queries, ranks):
    table, ranking = random_table(seed, num_queries, ranks)
    pairs = used_pairs(table, 0, ranking, np.arange(num_queries))
    columns = [pairs.row_P, pairs.negative_P, pairs.in_use_P, pairs.rank_P]
    columns += [pairs.mined_P, pairs.mined_positive_P, pairs.observed_P]
    expected = slow_pairs(table, 0, ranking, range(num_queries))
    assert len(pairs) == len(expected)
    for column, values in zip(
        columns, zip(*expected, strict=True) if expected else (), strict=bool(expected)
    ):
        np.testing.assert_array_equal(column, np.array(values))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 20), rows=st.sampled_from([1, 3, 4096]))
def test_the_likeliest_pairs_are_the_best_of_all_by_either_model(seed, limit, rows):
    """Whatever number of queries is looked at together, and wherever the data set begins in the table."""
    whole, ranking = random_table(seed, 12, 9)
    first = 4
    table = NegativeTable(whole.ranking_QK, PER_QUERY)
    table.load_state(whole.state())
    part = Ranking(ranking.ids_QK[first:], ranking.scores_QK[first:], ranking.positive_Q[first:], 0)
    before, code._ROWS = code._ROWS, rows
    try:
        pairs = likeliest(table, first, np.arange(8), part, limit)
    finally:
        code._ROWS = before
    everything = slow_pairs(table, first, part, range(8))
    mined = [(score - positive, (row, text)) for row, text, _, _, score, positive, _ in everything]
    seen = [(score, (row, text)) for row, text, now, _, _, _, score in everything if now]
    expected = set()
    for keyed in (mined, seen):
        finite = [each for each in keyed if not np.isnan(each[0])]
        expected |= {name for _, name in sorted(finite, key=lambda each: -each[0])[:limit]}
    names = list(zip(pairs.row_P.tolist(), pairs.negative_P.tolist(), strict=True))
    assert len(set(names)) == len(names)
    assert set(names) == expected


def test_the_highest_keys_leave_out_nan_and_keep_the_order_of_equals():
    assert highest(np.array([0.2, np.nan, 0.9, 0.2, 0.1]), 3).tolist() == [2, 0, 3]
    assert highest(np.array([np.nan, np.nan]), 3).tolist() == []


def test_without_a_ranking_only_training_tells():
    table, _ = random_table(0, 6, 6)
    pairs = likeliest(table, 0, np.arange(6), None, 100)
    assert len(pairs) and np.isnan(pairs.mined_P).all() and (pairs.rank_P == NONE).all()
    assert pairs.in_use_P.all() and not np.isnan(pairs.observed_P).any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 12), rows=st.sampled_from([1, 3, 4096]))
def test_rows_of_one_query_are_no_further_pairs(seed, limit, rows):
    """Each negative of a query once, and repeats take no other pair's place among the likeliest."""
    table, ranking = random_table(seed, 12, 9)
    draw = np.random.default_rng(seed)
    query_Q = draw.integers(0, 4, 12)
    same = np.array([np.flatnonzero(query_Q == query)[0] for query in query_Q])  # equal queries, one ranking
    table.ranking_QK[:], table.available_Q[:] = table.ranking_QK[same], table.available_Q[same]
    moved = table.rank_QN >= table.available_Q[:, None]
    table.rank_QN[moved], table.next_Q[:] = -1, np.minimum(table.next_Q, table.available_Q)
    ranking = ranking.take(same)
    before, code._ROWS = code._ROWS, rows
    try:
        pairs = likeliest(table, 0, query_Q, ranking, limit)
    finally:
        code._ROWS = before
    names = list(zip(query_Q[pairs.row_P].tolist(), pairs.negative_P.tolist(), strict=True))
    assert len(set(names)) == len(names)
    nearness, seen = {}, {}
    for row, text, now, _, score, positive, observed in slow_pairs(table, 0, ranking, range(12)):
        if not np.isnan(score - positive):
            nearness[query_Q[row], text] = score - positive
        if now and not np.isnan(observed):
            seen[query_Q[row], text] = max(observed, seen.get((query_Q[row], text), -1))
    best = {name for keyed in (nearness, seen) for name in sorted(keyed, key=keyed.get)[-limit:]}
    assert set(names) == best
    assert all(now == (name in seen) for name, now in zip(names, pairs.in_use_P, strict=True) if name in seen)
