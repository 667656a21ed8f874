"""Sets of positives against dictionaries that are filled one row at a time."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from conan_embed.texts.ragged import Ragged
from conan_embed.texts.shared_positives import (
    with_answers_elsewhere,
    with_equal_queries_merged,
    with_shared_positives,
)
from conan_embed.texts.tasks import RetrievalDataset


def random_rows(generator, num_rows, num_texts):
    """Queries and their positives, as small integers, many of them twice."""
    return [
        (
            int(generator.integers(num_texts)),
            generator.integers(num_texts, size=generator.integers(1, 4)).tolist(),
        )
        for _ in range(num_rows)
    ]


def make_dataset(rows, name="r"):
    """One list of positives per row; text ids are the integers themselves."""
    positives = [positive for _, positive in rows]
    return RetrievalDataset(
        name=name,
        query_Q=np.array([query for query, _ in rows], np.int64),
        list_Q=np.arange(len(rows)),
        positives=Ragged.of_lengths(
            np.concatenate(positives).astype(np.int64), np.array([*map(len, positives)])
        ),
        given=Ragged.empty(len(rows)),
        passages=np.arange(20),
        negative_source="mined",
        ranking=None,
        weight=None,
    )


def answers_of(dataset, content):
    """Content of each query -> contents of its positives, from the data set's arrays."""
    found = {}
    for query, row in zip(dataset.query_Q.tolist(), dataset.list_Q.tolist(), strict=True):
        found.setdefault(int(content[query]), set()).update(content[dataset.positives[row]].tolist())
    return found


@pytest.mark.parametrize("seed", range(20))
def test_equal_queries_share_their_positives(seed):
    rows = random_rows(np.random.default_rng(seed), 15, 8)
    expected = {}
    for query, positives in rows:
        for positive in positives:
            if positive != query and str(positive) not in expected.setdefault(str(query), []):
                expected[str(query)].append(str(positive))
    expected = {query: positives for query, positives in expected.items() if positives}
    frame = pl.DataFrame(
        {"query": [str(q) for q, _ in rows], "positive": [[str(p) for p in ps] for _, ps in rows]}
    )
    found, lists = with_shared_positives(frame)
    assert dict(zip(lists["query"], lists["positive"].to_list(), strict=True)) == expected
    assert lists["query"].to_list() == list(expected)
    kept = [query for query, _ in rows if str(query) in expected]
    by_number = dict(zip(lists["list"], lists["query"], strict=True))
    assert [by_number[number] for number in found["list"].drop_nulls()] == [*map(str, kept)]


@pytest.mark.parametrize("seed", range(20))
def test_queries_that_are_read_alike_are_merged(seed):
    generator = np.random.default_rng(seed)
    rows = random_rows(generator, 12, 20)
    content = generator.integers(8, size=20)
    unread = np.flatnonzero(content == 7)  # what nothing is left of is read alike
    expected = {}
    for query, positives in rows:
        answers = {int(content[p]) for p in positives if p not in unread} - {int(content[query])}
        expected.setdefault(int(content[query]), set()).update(answers)
    merged = with_equal_queries_merged(make_dataset(rows), content, unread)
    assert merged.query_Q.tolist() == [q for q, _ in rows if expected[int(content[q])] and q not in unread]
    for query, answers in answers_of(merged, content).items():
        assert answers == expected[query]
    for row in range(len(merged.positives)):
        contents = content[merged.positives[row]].tolist()
        assert len({*contents}) == len(contents)


@pytest.mark.parametrize("seed", range(20))
def test_lists_that_lost_their_query_change_nothing(seed, monkeypatch):
    generator = np.random.default_rng(seed)
    rows = random_rows(generator, 12, 20)
    content = generator.integers(8, size=20)
    kept = np.sort(generator.choice(12, size=7, replace=False))
    whole = make_dataset(rows)
    dataset = replace(
        whole, query_Q=whole.query_Q[kept], list_Q=whole.list_Q[kept], given=Ragged.empty(len(kept))
    )
    # Fresh memory holds what was there before: here the content of a query.
    monkeypatch.setattr(
        np, "empty", lambda size, dtype=float: np.full(size, content[rows[kept[0]][0]], dtype)
    )
    merged = with_equal_queries_merged(dataset, content)
    expected = with_equal_queries_merged(make_dataset([rows[row] for row in kept]), content)
    for name in ("query_Q", "list_Q"):
        assert getattr(merged, name).tolist() == getattr(expected, name).tolist()
    assert merged.positives.values.tolist() == expected.positives.values.tolist()
    assert merged.positives.offsets.tolist() == expected.positives.offsets.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_answers_in_other_data_sets_are_known(seed):
    generator = np.random.default_rng(seed)
    content = generator.integers(12, size=20)
    sets = [make_dataset(random_rows(generator, 6, 20), name) for name in "abc"]
    for number, found in enumerate(with_answers_elsewhere(sets, content)):
        own = {int(content[query]) for query in sets[number].query_Q}
        expected = set()
        for other in (*sets[:number], *sets[number + 1 :]):
            for query, answers in answers_of(other, content).items():
                expected |= {(query, answer) for answer in answers if query in own}
        assert expected == {
            (int(content[query]), int(content[answer]))
            for query, row in zip(found.elsewhere_E, found.elsewhere_list_E, strict=True)
            for answer in found.elsewhere[int(row)]
        }
