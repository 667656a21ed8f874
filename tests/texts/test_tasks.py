"""What answers a query of a data set, here or in another one, against sets that are filled one text at a time."""

from types import SimpleNamespace

import numpy as np
import pytest

from conan_embed.texts.ragged import Ragged
from conan_embed.texts.tasks import RetrievalDataset


def ragged(lists):
    return Ragged.of_lengths(
        np.array([text for each in lists for text in each], np.int64),
        np.array([len(each) for each in lists], np.int64),
    )


@pytest.mark.parametrize("seed", range(30))
def test_positives_of_a_query_are_those_of_all_its_lists_here_and_elsewhere(seed):
    generator = np.random.default_rng(seed)
    content = generator.integers(8, size=20)  # texts 0..19, of which several are equal

    def random_lists(count):
        return [generator.integers(20, size=generator.integers(0, 4)).tolist() for _ in range(count)]

    here, elsewhere = random_lists(5), random_lists(int(generator.integers(0, 4)))
    query_Q, list_Q = generator.integers(20, size=7), generator.integers(5, size=7)
    size = int(generator.integers(0, 4)) if elsewhere else 0
    query_E, list_E = generator.integers(20, size=size), generator.integers(max(len(elsewhere), 1), size=size)
    dataset = RetrievalDataset(
        *("name", query_Q, list_Q, ragged(here), Ragged.empty(7), np.arange(20), "mined", None, None),
        **{"elsewhere_E": query_E, "elsewhere_list_E": list_E, "elsewhere": ragged(elsewhere)},
    )
    known = dataset.known_positives(SimpleNamespace(content=content))
    rows = [
        *zip(query_Q, list_Q, [here] * 7, strict=True),
        *zip(query_E, list_E, [elsewhere] * size, strict=True),
    ]
    for row, query in enumerate(query_Q):
        answers = {content[query]}
        for other, number, lists in rows:
            if content[other] == content[query]:
                answers |= {content[text] for text in lists[number]}
        found = known.contains(np.full(20, row), np.arange(20))
        assert found.tolist() == [content[text] in answers for text in range(20)]


def test_a_data_set_without_answers_elsewhere_or_without_queries():
    dataset = RetrievalDataset(
        "name",
        np.array([3]),
        np.array([0]),
        ragged([[5, 6]]),
        Ragged.empty(1),
        np.arange(9),
        "none",
        None,
        None,
    )
    store = SimpleNamespace(content=np.arange(9))
    assert len(dataset) == 1
    assert dataset.known_passages(store) is dataset.known_passages(store)  # looked up once
    other = SimpleNamespace(content=np.array([0, 1, 2, 3, 4, 5, 6, 7, 5]))
    assert sorted(dataset.known_passages(other).pairs(np.array([0]))[1].tolist()) == [3, 5, 6, 8]
    assert sorted(dataset.known_passages(store).pairs(np.array([0]))[1].tolist()) == [3, 5, 6]
    assert np.flatnonzero(
        dataset.known_positives(store).contains(np.zeros(9, int), np.arange(9))
    ).tolist() == [3, 5, 6]
    none = np.empty(0, np.int64)
    empty = RetrievalDataset("name", none, none, Ragged.empty(0), Ragged.empty(0), none, "none", None, None)
    assert len(empty) == 0
    assert empty.known_positives(store).contains(none, none).tolist() == []
