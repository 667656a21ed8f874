"""The queries of a step: relations that a dictionary agrees with, and positives that come equally often."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.negatives.rankings import NONE
from conan_embed.objectives.relations import IGNORED, NEGATIVE, POSITIVE
from conan_embed.planning.planner import Planner
from conan_embed.recipes.sections import Step
from tests.support.planned_tasks import ids, random_tasks, steps, tasks_of


def slow_relations(tasks, table, settings, rows, chosen):
    """{(row, (group, text)): relation} from the tasks, given each row's chosen positives as text ids."""
    store = tasks.store
    sets = [(number, i) for number, data in enumerate(tasks.retrieval) for i in range(len(data))]
    hard = [
        [t for t in table.in_use(np.array([row]))[0] if t != NONE] if settings.num_negatives else []
        for row in rows
    ]
    group = [sets[row][0] if settings.in_batch.startswith("dataset") else 0 for row in rows]
    hard_of_all = {(group[i], t) for i in range(len(rows)) for t in hard[i]}
    offered = {(group[i], t) for i in range(len(rows)) for t in (*chosen[i], *hard[i])}
    shared = hard_of_all if settings.in_batch.endswith("_hard") else offered
    shared = set() if settings.in_batch == "none" else shared
    relation = {}
    for i, row in enumerate(rows):
        number, place = sets[row]
        query = store.text(tasks.retrieval[number].query_Q[place])
        known = {query}
        for data in tasks.retrieval:  # whatever any data set knows of this query text
            for other, text_id in zip(data.list_Q, data.query_Q, strict=True):
                if store.text(text_id) == query:
                    known |= {store.text(t) for t in data.positives[other]}
        for column in offered:
            mine = column[0] == group[i]
            if mine and column[1] in chosen[i]:
                relation[i, column] = POSITIVE
            elif store.text(column[1]) in known:
                relation[i, column] = IGNORED
            elif mine and (column in shared or column[1] in hard[i]):
                relation[i, column] = NEGATIVE
            else:
                relation[i, column] = IGNORED
    return offered, relation


@settings(max_examples=150)
@given(st.integers(0, 12), steps, st.integers(0, 3000))
def test_relations(seed, settings, step):
    tasks, table = random_tasks(seed)
    store = tasks.store
    plan = Planner(tasks, settings, seed).step(step, table)
    if plan.retrieval is None:
        assert settings.mixing == "sequential"
        return
    found = plan.retrieval
    rows, relations = found.rows.tolist(), found.relations
    table_QC = relations.rows(0, len(rows)).numpy()
    query_ids = np.concatenate([data.query_Q for data in tasks.retrieval])
    assert ids(plan, found.query_Q).tolist() == query_ids[rows].tolist()
    candidates = ids(plan, found.candidate_C).tolist()

    sets = [(number, i) for number, data in enumerate(tasks.retrieval) for i in range(len(data))]
    chosen = [[candidates[c] for c in np.flatnonzero(table_QC[i] == POSITIVE)] for i in range(len(rows))]
    for i, row in enumerate(rows):  # as many different positives as asked for or there are, never the query
        number, place = sets[row]
        data = tasks.retrieval[number]
        own = store.text(data.query_Q[place])
        usable = {t for t in data.positives[data.list_Q[place]].tolist() if store.text(t) != own}
        assert set(chosen[i]) <= usable
        assert len(chosen[i]) == len(set(chosen[i])) == min(settings.positives, len(usable))

    offered, expected = slow_relations(tasks, table, settings, rows, chosen)
    columns = sorted(offered)  # one for each group and text, in this order
    assert candidates == [text for _, text in columns]
    for i in range(len(rows)):
        for c, column in enumerate(columns):
            assert table_QC[i, c] == expected[i, column], (i, column)

    watched = [
        (r, candidates[c])
        for r, c in zip(*map(np.ndarray.tolist, map(np.asarray, found.hard_negative_pairs)), strict=True)
    ]
    hard = table.in_use(found.rows) if settings.num_negatives else np.empty((len(rows), 0), int)
    assert watched == [(i, t) for i in range(len(rows)) for t in hard[i] if t != NONE]
    slots = [slot for i in range(len(rows)) for slot, t in enumerate(hard[i]) if t != NONE]
    assert found.slot_X.tolist() == slots

    for start, stop in ((0, 1), (0, len(rows)), (len(rows) // 2, len(rows))):
        part = relations.part(start, stop)
        np.testing.assert_array_equal(part.rows(0, stop - start).numpy(), table_QC[start:stop])


def pairs_of(plan):
    row, column = plan.retrieval.relations.positives()
    texts = ids(plan, plan.retrieval.query_Q[row]), ids(plan, plan.retrieval.candidate_C[column])
    return list(zip(*(part.tolist() for part in texts), strict=True))


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(0, 9),
    st.booleans(),
)
def test_an_epoch_trains_on_every_pair_once(rows_of_query, taken, seed, weighted):
    """A query with several rows: the rows divide its positives, in the first epoch and in every other."""
    rows = [
        (f"q{query}", [f"p{query}-{row}-{i}" for i in range(taken)])
        for query, count in enumerate(rows_of_query)
        for row in range(count)
    ]
    np.random.default_rng(seed).shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        tasks = tasks_of(Path(folder), rows)
        if weighted:
            tasks.retrieval[0] = replace(tasks.retrieval[0], weight=2.0)
        step = Step(queries=1, positives=taken, num_negatives=0, sts_pairs=0)
        planner = Planner(tasks, step, seed)
        for epoch in range(3):
            steps = range(epoch * len(rows), (epoch + 1) * len(rows))
            counts = Counter(pair for step in steps for pair in pairs_of(planner.step(step, None)))
            assert len(counts) == len(rows) * taken and set(counts.values()) == {1}


def test_a_row_with_more_positives_than_a_step_takes_goes_through_them(tmp_path):
    tasks = tasks_of(tmp_path, [("q", list("abcdef")), ("other", ["x"])])
    planner = Planner(tasks, Step(queries=2, positives=2, num_negatives=0, sts_pairs=0), 3)
    for first in (0, 3):
        seen = Counter(pair for epoch in range(3) for pair in pairs_of(planner.step(first + epoch, None)))
        assert len(seen) == 7 and sorted(seen.values()) == [1] * 6 + [3]


@pytest.mark.parametrize("prompts", [("", "", ""), ("query: ", "passage: ", "")])
@pytest.mark.parametrize("in_batch", ["step", "dataset"])
def test_what_one_data_set_knows_of_a_query_is_no_negative_in_another(tmp_path, prompts, in_batch):
    rows = (
        [("shared", ["answer A"]), ("one", ["answer B"])],
        [("shared", ["answer B"]), ("two", ["answer A"])],
    )
    tasks = tasks_of(tmp_path, *rows, prompts=prompts)
    plan = Planner(tasks, Step(queries=4, num_negatives=0, sts_pairs=0, in_batch=in_batch), 0).step(0, None)
    relation = plan.retrieval.relations.to_dense().numpy()
    text = tasks.store.text
    queries, candidates = (
        [text(i) for i in ids(plan, part)] for part in (plan.retrieval.query_Q, plan.retrieval.candidate_C)
    )
    negatives = {(queries[i], candidates[c]) for i, c in zip(*np.nonzero(relation == NEGATIVE), strict=True)}
    assert negatives == {("one", "answer A"), ("two", "answer B")}


def test_positives_change_from_epoch_to_epoch():
    """A query with many positives meets all of them sooner or later."""
    tasks, table = random_tasks(5)
    planner = Planner(tasks, Step(queries=18, sts_pairs=1, positives=1), 0)
    met = {row: set() for row in range(18)}
    for step in range(60):
        plan = planner.step(step, table)
        row, column = plan.retrieval.relations.positives()
        texts = ids(plan, plan.retrieval.candidate_C[column])
        for place, text in zip(row.tolist(), texts.tolist(), strict=True):
            met[int(plan.retrieval.rows[place])].add(text)
    for row, found in met.items():
        own = tasks.store.content[planner.queries.query_ids[row]]
        all_of_them = planner.queries.positives[planner.queries.list_of_query[row]]
        assert found == {t for t in all_of_them.tolist() if tasks.store.content[t] != own}
