"""Ragged arrays against lists of lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.texts.ragged import Ragged, expand_ranges

lists = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=10)


def ragged(rows):
    return Ragged.of_lengths(
        np.array([value for row in rows for value in row], np.int64),
        np.array([len(row) for row in rows], np.int64),
    )


@given(lists)
def test_it_is_the_lists(rows):
    found = ragged(rows)
    assert len(found) == len(rows)
    assert [found[i].tolist() for i in range(len(rows))] == rows
    assert found.lengths.tolist() == [len(row) for row in rows]


@given(lists, st.data())
def test_rows_taken_end_to_end(rows, data):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    place, values = ragged(rows).rows(np.array(chosen, np.int64))
    assert values.tolist() == [value for i in chosen for value in rows[i]]
    assert place.tolist() == [number for number, i in enumerate(chosen) for _ in rows[i]]


@given(st.lists(lists, max_size=4))
def test_joined(parts):
    found = Ragged.joined([ragged(part) for part in parts])
    assert [found[i].tolist() for i in range(len(found))] == [row for part in parts for row in part]


@given(st.lists(st.tuples(st.integers(-9, 99), st.integers(0, 5)), max_size=10))
def test_ranges_end_to_end(ranges):
    starts, lengths = np.array(ranges, np.int64).reshape(-1, 2).T
    expected = [value for start, length in ranges for value in range(start, start + length)]
    assert expand_ranges(starts, lengths).tolist() == expected


def test_empty():
    assert [row.tolist() for row in (Ragged.empty(2)[0], Ragged.empty(2)[1])] == [[], []]


def test_lists_are_taken_and_cut():
    lists = Ragged.of_lengths(np.arange(10, 16), np.array([3, 0, 2, 1]))
    taken = lists.take(np.array([2, 0, 1, 2]))
    assert [taken[i].tolist() for i in range(4)] == [[13, 14], [10, 11, 12], [], [13, 14]]
    position, values = lists.rows(np.array([0, 3, 2, 1]), most=2)
    assert list(zip(position.tolist(), values.tolist(), strict=True)) == [
        (0, 10),
        (0, 11),
        (1, 15),
        (2, 13),
        (2, 14),
    ]
