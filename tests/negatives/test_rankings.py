"""Files of rankings, and rows of different lengths."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.errors import UserError
from conan_embed.negatives.mining import mine
from conan_embed.negatives.rankings import (
    NONE,
    compact,
    load_ranking,
    padded,
    save_ranking,
    stacked,
    widened,
    without_repeats,
)
from conan_embed.recipes.sections import Mining
from conan_embed.texts.ragged import Ragged
from tests.negatives.test_mining import embed_from, embeddings, make_set


@pytest.fixture
def mined(tmp_path):
    queries = [f"q{i}" for i in range(5)]
    positives, passages = [[f"p{i}"] for i in range(5)], [f"w{i}" for i in range(12)]
    data, store = make_set(tmp_path / "cache", queries, positives, passages)
    ranking = mine(
        data,
        store,
        embed_from(embeddings(store)),
        Mining(depth=9, offset=0, max_positive_ratio=0.9, precision="float32"),
    )
    assert (ranking.ids_QK == NONE).any()
    save_ranking(tmp_path, data, store, ranking)
    return tmp_path, data, store, ranking


def test_a_saved_ranking_comes_back(mined):
    folder, data, store, ranking = mined
    found = load_ranking(folder, data, store)
    for name in ("ids_QK", "scores_QK", "positive_Q"):
        np.testing.assert_array_equal(getattr(found, name), getattr(ranking, name))
        assert getattr(found, name).dtype == getattr(ranking, name).dtype


def test_any_name_of_a_data_set_is_one_file(mined):
    folder, data, store, ranking = mined
    other = replace(data, name="nli [/x] ../..")
    save_ranking(folder / "rankings", other, store, ranking)
    assert [path.suffix for path in (folder / "rankings").iterdir()] == [".safetensors"]
    np.testing.assert_array_equal(load_ranking(folder / "rankings", other, store).ids_QK, ranking.ids_QK)


def test_it_holds_when_other_data_sets_change_every_text_id(mined):
    folder, data, store, ranking = mined
    queries = [store.text(i) for i in data.query_Q]
    positives = [[f"p{i}"] for i in range(5)]
    passages = [f"w{i}" for i in range(12)][::-1]
    other, new_store = make_set(folder / "cache", queries, positives, passages, others=["x", "w3", "y"])
    found = load_ranking(folder, other, new_store)
    assert (found.ids_QK != ranking.ids_QK).any()
    texts = lambda ids, store: [[None if i == NONE else store.text(i) for i in row] for row in ids]  # noqa: E731
    assert texts(found.ids_QK, new_store) == texts(ranking.ids_QK, store)


@pytest.mark.parametrize(
    "change",
    [
        lambda queries, positives, passages: (queries[::-1], positives, passages),
        lambda queries, positives, passages: (["new", *queries[1:]], positives, passages),
        lambda queries, positives, passages: (queries, positives, passages[1:]),
        lambda queries, positives, passages: (queries, positives, [*passages, "new"]),
    ],
)
def test_a_ranking_of_other_texts_is_refused(mined, change):
    folder, data, store, _ = mined
    texts = (
        [store.text(i) for i in data.query_Q],
        [[f"p{i}"] for i in range(5)],
        [f"w{i}" for i in range(12)],
    )
    other, new_store = make_set(folder / "cache", *change(*texts))
    with pytest.raises(UserError, match="made for other texts than data set 'set' holds now"):
        load_ranking(folder, other, new_store)


@pytest.mark.parametrize("has_labels", [False, True])
def test_what_became_a_positive_since_is_left_out(mined, capsys, monkeypatch, has_labels):
    monkeypatch.setattr("conan_embed.negatives.rankings._RANKS_AT_ONCE", 30)  # blocks of two rows
    folder, data, store, _ = mined
    ranking = mine(data, store, embed_from(embeddings(store)), Mining(offset=0, depth=12))
    save_ranking(folder, data, store, ranking)
    queries = [store.text(i) for i in data.query_Q]
    positives = [
        [f"p{i}", store.text(ranking.ids_QK[i, i % 2])] for i in range(5)
    ]  # the first rank, or the second
    other, new_store = make_set(folder / "cache", queries, positives, [f"w{i}" for i in range(12)])
    found = load_ranking(folder, replace(other, has_labels=has_labels), new_store)
    for i in range(5):
        ranks = [store.text(t) for t in ranking.ids_QK[i] if t != NONE]
        left = [new_store.text(t) for t in found.ids_QK[i] if t != NONE]
        assert left == [text for text in ranks if text not in positives[i]]
        assert (
            found.scores_QK[i, : len(left)].tolist()
            == np.delete(ranking.scores_QK[i], i % 2)[: len(left)].tolist()
        )
    assert "left out 5 ranks that are known positives of their query by now" in capsys.readouterr().err


def test_a_missing_and_a_broken_ranking_are_refused(mined):
    folder, data, store, _ = mined
    path = folder / "set.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_ranking(folder, data, store)
    path.unlink()
    with pytest.raises(UserError, match="no such file; expected a ranking of data set 'set'"):
        load_ranking(folder, data, store)


# -------------------------------------------------------------------------------------------------------- rows

rows_of_texts = st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=5)


def filled(rows, width):
    return [[*row, *[NONE] * (width - len(row))][:width] for row in rows]


@settings(max_examples=60)
@given(rows_of_texts, st.integers(0, 8))
def test_rows_are_filled_up_cut_and_stacked(rows, width):
    lists = Ragged.of_lengths(
        np.array([x for row in rows for x in row], np.int64), np.array([*map(len, rows)])
    )
    longest = max(map(len, rows))
    made = padded(lists)
    assert made.tolist() == filled(rows, longest)
    assert widened(made, width).tolist() == filled(rows, width)
    both = stacked([made, widened(made, width)])
    assert both.tolist() == filled(rows, max(longest, width)) + filled(
        filled(rows, width), max(longest, width)
    )


@settings(max_examples=60)
@given(rows_of_texts, rows_of_texts)
def test_a_text_keeps_its_first_rank_only(first, second):
    num = min(len(first), len(second))
    parts = [
        np.array(filled(rows[:num], 6), np.int32) for rows in (first, second)
    ]  # gaps in the middle, where the first part ends
    ids = np.concatenate(parts, axis=1)
    scores = np.arange(ids.size, dtype=np.float32).reshape(ids.shape)
    kept_ids, kept_scores = without_repeats(ids, scores)
    for row in range(num):
        texts = list(dict.fromkeys([*first[row], *second[row]]))
        assert kept_ids[row].tolist() == [*texts, *[NONE] * (12 - len(texts))]
        assert kept_scores[row, : len(texts)].tolist() == [
            scores[row, ids[row].tolist().index(t)] for t in texts
        ]
        assert np.isnan(kept_scores[row, len(texts) :]).all()


def test_rows_are_sorted_in_blocks_with_the_same_result_and_little_memory(monkeypatch):
    generator = np.random.default_rng(0)
    ids = generator.integers(-1, 300, (5000, 100)).astype(np.int32)
    scores = generator.random(ids.shape, np.float32)
    whole = without_repeats(ids, scores)
    monkeypatch.setattr(
        "conan_embed.negatives.rankings._RANKS_AT_ONCE", 7050
    )  # 70 rows; the last block is shorter
    tracemalloc.start()
    blocks = without_repeats(ids, scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_array_equal(one, other)
    assert peak < 13 * ids.size  # 8 bytes are the result, 3 the masks


def test_compact_keeps_order_and_dtype():
    values, keep = np.array([[1.0, 2.0, 3.0]], np.float32), np.array([[False, True, True]])
    assert compact(values, keep, -np.inf).tolist() == [[2.0, 3.0, -np.inf]]
    assert compact(values, keep, -np.inf).dtype == np.float32
