"""The plan of a step: text ids become positions among its unique texts, and what only STS pairs use is marked."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.objectives.relations import Relations
from conan_embed.planning.plan import DatasetSize, DataSummary, PairTexts, QueryTexts, StepPlan
from tests.support.planned_tasks import ids


class Store:
    """What the ids mean plays no part in a plan."""


STORE = Store()
text_ids = st.integers(0, 12)


def queries_of(query_Q: list[int], candidate_C: list[int]) -> QueryTexts:
    rows = np.arange(len(query_Q)) + 100
    positive_Q = torch.zeros(len(query_Q), dtype=torch.long)
    pairs = torch.arange(len(query_Q)), positive_Q
    relations = Relations.one_positive(len(query_Q), negatives_per_query=0)
    return QueryTexts(
        rows, np.array(query_Q, np.int64), np.array(candidate_C, np.int64), relations, pairs, rows + 1
    )


def pairs_of(pairs: list[tuple[int, int]]) -> PairTexts:
    left_P, right_P = np.array(pairs, np.int64).reshape(-1, 2).T
    return PairTexts(left_P, right_P, np.linspace(0, 1, len(pairs), dtype=np.float32), np.arange(len(pairs)))


@given(
    st.lists(text_ids, min_size=1, max_size=8),
    st.lists(text_ids, min_size=1, max_size=8),
    st.lists(st.tuples(text_ids, text_ids), min_size=1, max_size=8),
    st.sampled_from(["queries", "pairs", "both"]),
)
def test_every_position_names_the_text_that_was_given(query_Q, candidate_C, pairs, parts):
    queries = queries_of(query_Q, candidate_C) if parts != "pairs" else None
    texts = pairs_of(pairs) if parts != "queries" else None
    plan = StepPlan.of(3, 0.25, STORE, queries, texts)
    contrasted = {*query_Q, *candidate_C} if queries else set()
    graded = {text for pair in pairs for text in pair} if texts else set()
    assert plan.text_ids.tolist() == sorted(contrasted | graded)
    assert plan.text_ids[plan.is_sts].tolist() == sorted(graded - contrasted)
    assert (plan.retrieval is None, plan.sts is None) == (queries is None, texts is None)
    if plan.retrieval is not None:
        for positions, given_ids in (
            (plan.retrieval.query_Q, query_Q),
            (plan.retrieval.candidate_C, candidate_C),
        ):
            assert positions.dtype == torch.long
            assert ids(plan, positions).tolist() == given_ids
        assert plan.retrieval.rows is queries.rows and plan.retrieval.slot_X is queries.slot_X
        assert plan.retrieval.relations is queries.relations
        assert plan.retrieval.hard_negative_pairs is queries.hard_negative_pairs
    if plan.sts is not None:
        given_pairs = zip(ids(plan, plan.sts.left_P), ids(plan, plan.sts.right_P), strict=True)
        assert [tuple(map(int, pair)) for pair in given_pairs] == pairs
        assert plan.sts.label_P.tolist() == texts.label_P.tolist() and plan.sts.label_P.dtype == torch.float32
        assert plan.sts.group_P.tolist() == list(range(len(pairs)))
    assert (plan.step, plan.epoch, plan.texts) == (3, 0.25, STORE)


@pytest.mark.parametrize(("count", "end"), [(1, "0"), (16, " 15"), (17, " 15 ..."), (500, " 15 ...")])
def test_a_message_names_the_first_texts_of_a_step(count, end):
    plan = StepPlan.of(0, 0.0, STORE, None, pairs_of([(number, number) for number in reversed(range(count))]))
    assert plan.description.startswith("text ids of the step: 0")
    assert plan.description.endswith(end)
    described = StepPlan.of(0, 0.0, STORE, None, pairs_of([(0, 1)]), description="问答.jsonl, lines 3 to 5")
    assert described.description == "问答.jsonl, lines 3 to 5"


@pytest.mark.parametrize(
    ("summary", "more"),
    [
        (DataSummary((DatasetSize("sts", "句对", 0),)), {}),
        (DataSummary((DatasetSize("sts", "句对", 0),), texts=0, tokens=0), {"texts": 0, "tokens": 0}),
    ],
)
def test_what_is_not_known_of_the_data_is_left_out_and_zero_is_known(summary, more):
    assert summary.to_json() == {"datasets": ({"task": "sts", "name": "句对", "rows": 0},), **more}
