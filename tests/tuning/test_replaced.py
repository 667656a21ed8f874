"""Which queries are shown with their replaced negatives, in which order, and with which texts and scores."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.table import NegativeTable
from conan_embed.texts.ragged import Ragged
from conan_embed.tuning import replaced


def table(rankings: list[list[int]], negatives: int = 2, scores: Any = None) -> NegativeTable:
    initial_QN = None if scores is None else np.array(scores, np.float32)
    return NegativeTable(np.array(rankings, np.int32), negatives, initial_QN)


def test_queries_replaced_most_often_come_first_then_those_with_the_hardest_negatives() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (30, 2)) / 4  # with ties
    scores[rng.random((30, 2)) < 0.2] = np.nan
    first, last = (table([[0, 1, 2, 3]] * 30, scores=scores) for _ in range(2))
    last.replacements_Q[:] = rng.integers(0, 4, 30)
    rows = rng.permutation(30)[:20]
    rows.sort()

    def key(row: int) -> tuple[float, float, int]:
        mean = sum(0 if np.isnan(score) else score for score in first.initial_QN[row].tolist()) / 2
        return -int(last.replacements_Q[row]), -mean, row

    assert replaced._furthest(rows, first, last).tolist() == sorted(rows.tolist(), key=key)[: replaced.SHOWN]
    assert replaced._furthest(rows[:0], first, last).tolist() == []


class Axes:
    """A text is its number; its vector has a cosine of number / 100 with every query."""

    def encode_document(self, texts: list[str]) -> np.ndarray:
        return np.array([[int(text.removeprefix("文")) / 100, 0.0] for text in texts])

    def encode_query(self, texts: list[str]) -> np.ndarray:
        return np.array([[1.0, 0.0]] * len(texts))


def tasks() -> Any:
    """Two data sets of two queries; query q is text 90 + q, its first positive 80 + q."""

    class Store:
        def text(self, text_id: int) -> str:
            assert text_id >= 0, "there is no such text"
            return f"文{text_id}"

    class Data(SimpleNamespace):
        def __len__(self) -> int:
            return 2

    sets = [
        Data(
            query_Q=np.array([90, 91]) + start,
            list_Q=np.array([1, 0]),
            positives=Ragged.of_lengths(np.array([81, 70, 80]) + start, np.array([2, 1])),
        )
        for start in (0, 2)
    ]
    return SimpleNamespace(retrieval=sets, store=Store())


def test_an_example_names_what_went_and_what_came_of_the_right_data_set() -> None:
    rankings = [[10 * row + number for number in range(1, 6)] for row in range(4)]
    scores = [[0.5, np.nan], [0.4, 0.3], [0.25, 0.5], [0.75, 0.125]]
    first, last = table(rankings, scores=scores), table(rankings, scores=scores)
    last.advance(np.array([2]), np.array([[True, False]]), whole=False)  # 21 goes, 22 stays, 23 comes
    last.advance(np.array([0]), np.array([[True, True]]), whole=True)
    there, here = replaced._examples(tasks(), first, last, np.array([2, 0]), Axes())
    assert (there.query, there.positive.text, there.positive.mined) == ("文92", "文82", None)
    assert [(each.text, each.mined, each.trained) for each in there.old] == [("文21", 0.25, 0.21)]
    assert [(each.text, each.mined, each.trained) for each in there.new] == [("文23", None, 0.23)]
    assert (here.query, here.positive.text) == ("文90", "文80")
    assert [(each.text, each.mined) for each in here.old] == [("文1", 0.5), ("文2", None)]
    assert [each.text for each in here.new] == ["文3", "文4"]


@pytest.mark.parametrize("short_one_is_first", [True, False])
def test_an_empty_slot_is_no_text_whether_it_was_filled_or_emptied(short_one_is_first: bool) -> None:
    tables = table([[1, NONE]] * 4), table([[1, 2]] * 4)
    first, last = tables if short_one_is_first else tables[::-1]
    [example] = replaced._examples(tasks(), first, last, np.array([3]), Axes())
    texts = [[each.text for each in side] for side in (example.old, example.new)]
    assert texts == ([[], ["文2"]] if short_one_is_first else [["文2"], []])
