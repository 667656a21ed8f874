"""What a trainer's loaders read: the table's negatives at any time, in any process, and in a run that resumes."""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from conan_embed.integrations.in_use import (
    OUT_OF_PLACE,
    AddNegatives,
    Hook,
    NegativesInUse,
    WithoutFalseNegatives,
)
from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.table import NegativeTable
from conan_embed.texts.known_positives import KnownPositives
from conan_embed.texts.ragged import Ragged

MARK = 77


def table(queries: int = 6, depth: int = 12, negatives: int = 2) -> NegativeTable:
    """Rankings in which the text ids rise by 1, from 100 times the query on."""
    ranking_QK = 100 * np.arange(queries)[:, None] + np.arange(depth)
    return NegativeTable(ranking_QK.astype(np.int32), negatives)


def advance(negatives: NegativeTable) -> None:
    """Replace all negatives of all queries."""
    rows = np.arange(len(negatives))
    slots_RN = np.ones((len(rows), negatives.num_negatives), bool)
    assert negatives.advance(rows, slots_RN, whole=True).all()


class Letters:
    """A store whose texts say their ids."""

    def text(self, text_id: int) -> str:
        assert text_id >= 0, "there is no such text"
        return f"文{text_id}"


# ------------------------------------------------------------------------------------ the negatives in use


def read_all(in_use: NegativesInUse, batches: Sequence[list[int]]) -> list[list[list[int]]]:
    return [in_use.read(rows).tolist() for rows in batches]


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("later", [0, 2])
def test_a_resumed_run_reads_what_the_interrupted_one_had_read(ahead: int, later: int) -> None:
    """A check at 4 batches with some read ahead; a checkpoint `later` batches after it; another process resumes."""
    batches = [[number % 6, (number + 1) % 6] for number in range(12)]
    check, checkpoint = 4, 4 + later
    negatives = table()
    in_use = NegativesInUse(negatives)
    in_use.begin()
    expected = read_all(in_use, batches[: check + ahead])
    advance(negatives)
    in_use.replace(negatives, check)
    expected += read_all(in_use, batches[check + ahead :])
    assert expected[check + ahead - 1] != expected[-1]

    state = pickle.loads(pickle.dumps((in_use.state(checkpoint), negatives.state())))
    other = table()
    resumed = NegativesInUse(other)
    other.load_state(state[1])
    resumed.load_state(state[0], other)
    resumed.begin()
    assert read_all(resumed, batches[checkpoint:]) == expected[checkpoint:]


def test_a_run_that_resumes_twice_still_reads_the_old_batches() -> None:
    """The second checkpoint comes before all batches of before the check are read."""
    batches = [[number % 6] for number in range(10)]
    negatives = table()
    in_use = NegativesInUse(negatives)
    in_use.begin()
    expected = read_all(in_use, batches[:7])
    advance(negatives)
    in_use.replace(negatives, 2)
    expected += read_all(in_use, batches[7:])
    state, consumed = in_use.state(3), 3  # 4 are still to be read anew
    for stop in (5, 10):
        again = table()
        resumed = NegativesInUse(again)
        again.load_state(negatives.state())
        resumed.load_state(state, again)
        resumed.begin()
        assert read_all(resumed, batches[consumed:stop]) == expected[consumed:stop]
        state, consumed = resumed.state(stop - consumed), stop


def test_a_row_is_its_text_ids_and_how_often_they_were_replaced() -> None:
    negatives = table(queries=3)
    in_use = NegativesInUse(negatives)
    np.testing.assert_array_equal(in_use.read([2, 0, 2]), [[200, 201, 0], [0, 1, 0], [200, 201, 0]])
    negatives.advance(np.array([2]), np.array([[False, True]]), whole=False)
    assert in_use.read([2]).tolist() == [[200, 201, 0]], "nothing changes before `replace`"
    in_use.replace(negatives, 0)
    assert in_use.read([2, 0]).tolist() == [[200, 202, 1], [0, 1, 0]]


def test_another_process_sees_what_is_replaced_after_it_was_started() -> None:
    negatives = table(queries=2)
    in_use = NegativesInUse(negatives)
    context = torch.multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_wait_and_read, args=(in_use, started := context.Event(), answers))
    process.start()
    advance(negatives)
    negatives.ranking_QK[0] = 5  # new rankings are written into the table's own array
    in_use.replace(negatives, 0)
    started.set()
    assert answers.get() == ([[5, 5, 1], [102, 103, 1]], [5] * 12)
    process.join()


def _wait_and_read(in_use: NegativesInUse, started: Any, answers: Any) -> None:
    started.wait()
    answers.put((in_use.now_QN.tolist(), in_use.ranking_QK[0].tolist()))


def test_a_checkpoint_is_loaded_into_the_memory_that_workers_share() -> None:
    negatives, other = table(), table()
    in_use = NegativesInUse(negatives)
    shared = in_use.now_QN.data_ptr(), in_use.ranking_QK.data_ptr()
    advance(other)
    other.ranking_QK[:, -1] = 7
    negatives.load_state(other.state())
    in_use.load_state(NegativesInUse(other).state(0), negatives)
    assert (in_use.now_QN.data_ptr(), in_use.ranking_QK.data_ptr()) == shared
    assert negatives.ranking_QK.ctypes.data == shared[1], "the table's rankings are those that workers see"
    assert (in_use.ranking_QK[:, -1] == 7).all()
    assert copy.deepcopy(in_use) is in_use


# ----------------------------------------------------------------------------------------------- the columns


def test_pairs_get_the_texts_of_their_negatives_and_a_label_that_names_them() -> None:
    negatives = table(queries=3)
    add = AddNegatives(
        NegativesInUse(negatives), Letters(), ("anchor", "positive"), ["negative_1", "negative_2"], MARK
    )
    batch = {"anchor": ["a", "b"], "positive": ["x", "y"], "label": [2, 0], "other": [1, 2]}
    assert add(batch) == {
        "anchor": ["a", "b"],
        "positive": ["x", "y"],
        "negative_1": ["文200", "文0"],
        "negative_2": ["文201", "文1"],
        "label": [[MARK, 2, 0, 200, 201], [MARK, 0, 0, 0, 1]],
    }
    assert add({"anchor": ["a"]}) == {"anchor": ["a"]}, "a look at the texts alone counts as no batch"
    assert add.in_use.num_read == 1


# ------------------------------------------------------------------------------------- no false negatives


def collator(
    ranking_QK: list[list[int]],
    positives: list[list[int]],
    negatives: int = 1,
    content: list[int] | None = None,
) -> tuple[WithoutFalseNegatives, AddNegatives]:
    """Query q is text 50 + q; its known positives are given; other texts are below 50."""
    num_queries = len(ranking_QK)
    known = KnownPositives(
        query_Q=50 + np.arange(num_queries),
        list_Q=np.arange(num_queries),
        positives=Ragged.of_lengths(
            np.array([text for row in positives for text in row], np.int64),
            np.array([len(row) for row in positives]),
        ),
        content=np.arange(60) if content is None else np.array(content),
    )
    in_use = NegativesInUse(NegativeTable(np.array(ranking_QK, np.int32), negatives))
    added = [f"negative_{slot + 1}" for slot in range(negatives)]
    add = AddNegatives(in_use, Letters(), ("anchor", "positive"), added, MARK)
    return WithoutFalseNegatives(list, add, known), add


def features_of(add: AddNegatives, rows: list[int]) -> list[dict[str, Any]]:
    batch = add({"anchor": [f"文{50 + row}" for row in rows], "label": rows})
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


@pytest.mark.parametrize("seed", range(30))
def test_the_first_free_text_of_the_ranking_takes_the_place_of_a_false_negative(seed: int) -> None:
    """Against the rule, slot by slot: the next rank after those in use that answers no query of the batch."""
    rng = np.random.default_rng(seed)
    num_queries, num_negatives = 5, 3
    positives = [rng.choice(20, 2, replace=False).tolist() for _ in range(num_queries)]
    rankings = [rng.permutation([text for text in range(20) if text not in own])[:12] for own in positives]
    for ranking in rankings:
        ranking[rng.integers(3, 13) :] = NONE  # some end early
    collate, add = collator([ranking.tolist() for ranking in rankings], positives, num_negatives)
    rows = rng.permutation(num_queries)[:4].tolist()
    before = features_of(add, rows)
    untouched = copy.deepcopy(before)
    answers = {text for row in rows for text in positives[row]}
    for row, old, new in zip(rows, before, collate(before), strict=True):
        ranking = [text for text in rankings[row].tolist() if text != NONE]
        ids = ranking[:num_negatives]
        for slot in range(num_negatives):
            if ids[slot] not in answers:
                continue
            last = max(ranking.index(text) for text in ids)
            free = [text for text in ranking if text not in answers and text not in ids]
            after = [text for text in free if ranking.index(text) > last]
            if free:
                ids[slot] = (after or free)[0]
        assert new["label"][3:] == ids
        assert [new[f"negative_{slot + 1}"] for slot in range(num_negatives)] == [f"文{text}" for text in ids]
        assert new["label"][2] == (0 if ids == old["label"][3:] else OUT_OF_PLACE)
    assert before == untouched, "the data set's own rows stay as they are"


def test_a_text_equal_to_a_query_or_a_positive_of_the_batch_is_none_of_its_negatives() -> None:
    content = list(range(60))
    content[3], content[4] = content[51], content[9]  # text 3 reads as query 1, text 4 as query 1's positive
    collate, add = collator([[3, 4, 5], [6, 7, 8]], [[0], [9]], content=content)
    first, second = collate(features_of(add, [0, 1]))
    assert first["negative_1"] == "文5" and second["negative_1"] == "文6"
    [alone] = collate(features_of(add, [0]))
    assert alone["negative_1"] == "文3", "without query 1 in the batch it is a negative like any other"


def test_rows_of_other_data_sets_and_empty_batches_pass_unseen() -> None:
    collate, _ = collator([[0, 1]], [[2]])
    for features in ([], [{"label": 1}], [{"anchor": "a"}], [{"label": [MARK + 1, 0, 0, 0]}]):
        assert collate(features) is not None and collate(features) == features


def test_the_collator_is_the_trainers_to_ask_and_survives_a_pickle() -> None:
    class Theirs(list):
        valid_label_columns = ("label",)

    collate, _ = collator([[0, 1]], [[2]])
    collate.collate = Theirs
    assert collate.valid_label_columns == ("label",)
    with pytest.raises(AttributeError, match="nothing"):
        _ = collate.nothing
    hook = Hook([].append)
    hook(1)
    assert pickle.loads(pickle.dumps(hook))(1, 2) is None, "in another process nothing trains"
