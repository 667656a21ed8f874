"""The plan of a step: pure, fair, and with relations that a dictionary agrees with."""

import functools
import itertools
import json
import tempfile
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.errors import UserError
from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.table import NegativeTable
from conan_embed.objectives.relations import IGNORED, NEGATIVE, POSITIVE
from conan_embed.planning.mixture import Interleaved, Mixture
from conan_embed.planning.planner import Planner, check_enough_negatives
from conan_embed.recipes.data import Data
from conan_embed.recipes.sections import Step
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStoreBuilder
from conan_embed.texts.tasks import RetrievalDataset, StsDataset, Tasks, load_tasks

CACHE = tempfile.TemporaryDirectory()  # removed when the tests end


def tokenize(texts):
    """One token a text, other texts other tokens."""
    tokens = np.array([zlib.crc32(text.encode()) & 0x7FFFFFFF for text in texts], np.int32)
    return tokens, np.arange(len(texts) + 1)


@functools.cache
def random_tasks(seed, sizes=(7, 5, 6), pairs=(5, 4), words=14, weights=(None, None, None)):
    """Data sets over few words, the last retrieval set from classes; and a table of hard negatives."""
    generator = np.random.default_rng(seed)
    word = lambda count: [f"w{i}" for i in generator.integers(words, size=count)]  # noqa: E731
    builder = TextStoreBuilder()
    contents = []
    for size in sizes[:-1]:
        queries = word(size)
        answers = {
            q: list(dict.fromkeys(["answer " + q, *word(generator.integers(4))])) for q in set(queries)
        }
        answers = {q: [text for text in found if text != q] for q, found in answers.items()}
        contents.append((queries, [answers[q] for q in queries]))
        builder.add(pl.Series(queries), "q")
        builder.add(pl.Series([text for q in queries for text in answers[q]]), "p")
    classes = list(dict.fromkeys(word(4 * sizes[-1])))[: sizes[-1]]
    builder.add(pl.Series(classes), "s")
    for size in pairs:
        builder.add(pl.Series(word(size)), "s")
        builder.add(pl.Series(word(size)), "s")
    pool = builder.add(pl.Series([f"w{i}" for i in range(words)]), "p")
    store, columns = builder.build(
        Path(tempfile.gettempdir()) / "conan-embed-test-plan", tokenize, fingerprint=""
    )
    found = iter(columns)
    sets = []
    for number, (queries, answers) in enumerate(contents):
        query_Q, positive = next(found), next(found)
        lists = Ragged.of_lengths(positive, np.array([len(row) for row in answers]))
        sets.append(retrieval_set(f"set{number}", query_Q, np.arange(len(queries)), lists, weights[number]))
    members = next(found)
    class_of = np.arange(len(members)) % 2
    order = np.argsort(class_of, kind="stable")
    lists = Ragged.of_lengths(members[order], np.bincount(class_of))
    sets.append(retrieval_set("classes", members, class_of, lists, weights[-1]))
    sts = [
        StsDataset(f"sts{i}", next(found), next(found), generator.integers(3, size=size).astype(float), None)
        for i, size in enumerate(pairs)
    ]
    tasks = Tasks(store, sets, sts)
    return tasks, random_table(tasks, columns[pool], generator)


def retrieval_set(name, query_Q, list_Q, lists, weight=None):
    empty = Ragged.empty(len(query_Q))
    return RetrievalDataset(
        name, query_Q, list_Q, lists, empty, np.unique(lists.values), "mined", None, weight
    )


def random_table(tasks, passages, generator, n=3):
    """Hard negatives that are no answers of their query, as mining gives them; some rows are short."""
    rows = []
    for data in tasks.retrieval:
        for query, number in zip(data.query_Q, data.list_Q, strict=True):
            answers = {tasks.store.content[i] for i in (*data.positives[number], query)}
            allowed = [i for i in generator.permutation(passages) if tasks.store.content[i] not in answers]
            kept = allowed[: generator.integers(2 * n + 1)]
            rows.append([*kept, *[NONE] * (2 * n - len(kept))])
    return NegativeTable(np.array(rows, np.int32), n)


steps = st.builds(
    Step,
    queries=st.integers(1, 9),
    positives=st.integers(1, 3),
    num_negatives=st.sampled_from([0, 3]),
    in_batch=st.sampled_from(["step", "dataset", "step_hard", "dataset_hard", "none"]),
    sts_pairs=st.integers(1, 7),
    mixing=st.sampled_from(["joint", "sequential"]),
    one_dataset=st.booleans(),
)


def ids(plan, places):
    """Places among a step's unique texts as text ids."""
    return plan.text_ids[places.numpy()]


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


@settings(max_examples=60)
@given(st.integers(0, 12), steps, st.integers(0, 3000))
def test_texts_of_a_step(seed, settings, step):
    """Unique and sorted; those that only STS pairs use are marked; pairs keep scores and data sets."""
    tasks, table = random_tasks(seed)
    plan = Planner(tasks, settings, seed).step(step, table)
    used = Counter()
    if plan.retrieval is not None:
        used.update(ids(plan, plan.retrieval.query_Q).tolist())
        used.update(ids(plan, plan.retrieval.candidate_C).tolist())
    only_sts = set()
    if plan.sts is not None:
        left, right = (ids(plan, x).tolist() for x in (plan.sts.left_P, plan.sts.right_P))
        only_sts = set(left + right) - set(used)
        used.update(left + right)
        known = Counter(
            (int(a), int(b), float(s), number)
            for number, data in enumerate(tasks.sts)
            for a, b, s in zip(data.left_P, data.right_P, data.score_P, strict=True)
        )
        pairs = zip(left, right, plan.sts.label_P.tolist(), plan.sts.group_P.tolist(), strict=True)
        assert set(pairs) <= set(known)
        assert len(left) == settings.sts_pairs
    assert plan.text_ids.tolist() == sorted(used)
    assert set(plan.text_ids[plan.is_sts].tolist()) == only_sts


def same_plan(one, two):
    assert one.text_ids.tolist() == two.text_ids.tolist()
    assert (one.step, one.epoch) == (two.step, two.epoch)
    for part, names in (
        ("retrieval", ("rows", "query_Q", "candidate_C")),
        ("sts", ("left_P", "right_P", "label_P")),
    ):
        left, right = getattr(one, part), getattr(two, part)
        assert (left is None) == (right is None)
        for name in names if left is not None else ():
            assert getattr(left, name).tolist() == getattr(right, name).tolist()


@settings(max_examples=20)
@given(steps, st.lists(st.integers(0, 5000), min_size=2, max_size=6))
def test_a_step_is_a_pure_function(settings, numbers):
    """Asked twice, in any order, of one planner or of a new one."""
    tasks, table = random_tasks(1)
    planner = Planner(tasks, settings, 3)
    first = [planner.step(step, table) for step in numbers]
    for step, plan in reversed(list(zip(numbers, first, strict=True))):
        same_plan(plan, planner.step(step, table))
        same_plan(plan, Planner(tasks, settings, 3).step(step, table))


def all_rows(settings, steps, seed=0, weights=(None, None, None)):
    tasks, table = random_tasks(2, weights=weights)
    planner = Planner(tasks, settings, seed)
    return tasks, planner, [planner.step(step, table) for step in range(steps)]


@pytest.mark.parametrize("mixing", ["joint", "sequential"])
def test_without_weights_an_epoch_holds_each_query_and_each_pair_once(mixing):
    settings = Step(queries=6, sts_pairs=3, mixing=mixing)  # 18 queries, 9 pairs: 3 steps an epoch
    tasks, planner, plans = all_rows(settings, 24)
    assert planner.num_queries == 18
    assert planner.num_pairs == 9
    rows = [row for plan in plans if plan.retrieval for row in plan.retrieval.rows.tolist()]
    for epoch in range(len(rows) // 18):
        assert sorted(rows[18 * epoch : 18 * epoch + 18]) == list(range(18))
    pairs = [
        (int(a), int(b), s, g)
        for plan in plans
        if plan.sts
        for a, b, s, g in zip(
            ids(plan, plan.sts.left_P),
            ids(plan, plan.sts.right_P),
            plan.sts.label_P.tolist(),
            plan.sts.group_P.tolist(),
            strict=True,
        )
    ]
    known = sorted(
        (int(a), int(b), float(s), g)
        for g, data in enumerate(tasks.sts)
        for a, b, s in zip(data.left_P, data.right_P, data.score_P, strict=True)
    )
    for epoch in range(len(pairs) // 9):
        assert sorted(pairs[9 * epoch : 9 * epoch + 9]) == known
    per_epoch = 3 if mixing == "joint" else 6
    assert [plan.epoch for plan in plans] == pytest.approx([(i + 1) / per_epoch for i in range(24)])
    assert planner.steps_for(2.0) == 2 * per_epoch


def test_seeds_and_epochs_have_orders_of_their_own():
    settings = Step(queries=18, sts_pairs=1)
    orders = [
        tuple(plan.retrieval.rows.tolist()) for seed in (0, 1) for plan in all_rows(settings, 2, seed)[2]
    ]
    assert len(set(orders)) == 4


def test_sequential_steps_hold_one_task_each_half_of_the_time():
    _, _, plans = all_rows(Step(queries=2, sts_pairs=2, mixing="sequential"), 2048)
    kinds = [plan.retrieval is not None for plan in plans]
    assert all((plan.retrieval is None) != (plan.sts is None) for plan in plans)
    assert sum(kinds[:1024]) == sum(kinds[1024:]) == 512
    assert kinds[:1024] != kinds[1024:]
    runs = sum(a != b for a, b in itertools.pairwise(kinds))
    assert abs(runs - 1024) < 5 * np.sqrt(512)  # as random as a coin


def test_weights_are_shares_and_each_set_runs_through_its_own_epochs():
    weights = (3.0, 1.0, None)  # the third counts by size: 6 * (3 + 1) / (7 + 5) = 2
    _, planner, plans = all_rows(Step(queries=16, sts_pairs=1), 2 * 1024 // 16, weights=weights)
    rows = np.concatenate([plan.retrieval.rows for plan in plans])
    for block in (rows[:1024], rows[1024:]):
        counts = Counter(planner.queries.set_of_query[block].tolist())
        assert counts == {0: 512, 1: 171, 2: 341}
    for number, size in enumerate((7, 5, 6)):
        mine = rows[planner.queries.set_of_query[rows] == number]
        for epoch in range(len(mine) // size):
            assert len(set(mine[epoch * size : (epoch + 1) * size].tolist())) == size


@pytest.mark.parametrize("weights", [(None, None, None), (3.0, 1.0, 2.0)])
def test_steps_of_one_data_set(weights):
    _, planner, plans = all_rows(Step(queries=3, sts_pairs=1, one_dataset=True), 1024, weights=weights)
    sets = [set(planner.queries.set_of_query[plan.retrieval.rows].tolist()) for plan in plans]
    assert {len(numbers) for numbers in sets} == {1}
    shares = np.array([7, 5, 6]) / 18 if weights[0] is None else np.array([3, 1, 2]) / 6
    counts = Counter(numbers.pop() for numbers in sets)
    assert all(abs(counts[number] - 1024 * shares[number]) < 1 for number in range(3))
    for number, size in enumerate((7, 5, 6)):
        rows = np.concatenate([plan.retrieval.rows for plan in plans])
        mine = rows[planner.queries.set_of_query[rows] == number]
        for epoch in range(len(mine) // size):
            assert len(set(mine[epoch * size : (epoch + 1) * size].tolist())) == size


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_shares_differ_from_the_weights_by_less_than_one_place(weights):
    mixture = Mixture([1] * len(weights), weights, 0)
    exact = np.array(weights) / sum(weights) * 1024
    assert mixture.sets.quota.sum() == 1024
    assert mixture.sets.quota.min() >= 1
    if exact.min() >= 1:  # else some were raised to one place
        assert np.abs(mixture.sets.quota - exact).max() < 1


@given(st.integers(0, 100), st.lists(st.integers(0, 5000), min_size=1, max_size=10))
def test_how_often_a_kind_came_before(seed, positions):
    sequence = Interleaved(np.array([700, 300, 24]), seed)
    kinds, before = sequence.at(np.arange(max(positions) + 1))
    found_kinds, found_before = sequence.at(np.array(positions))
    for position, kind, count in zip(positions, found_kinds, found_before, strict=True):
        assert kind == kinds[position]
        assert count == before[position] == (kinds[:position] == kind).sum()


def test_only_pairs_or_only_queries():
    tasks, table = random_tasks(4)
    plan = Planner(tasks, Step(queries=0, sts_pairs=4), 0).step(0, None)
    assert plan.retrieval is None
    assert plan.is_sts.all()
    assert Planner(tasks, Step(queries=0, sts_pairs=3), 0).steps_for(1) == 3
    plan = Planner(tasks, Step(queries=4, sts_pairs=0), 0).step(0, table)
    assert plan.sts is None
    assert not plan.is_sts.any()


def tasks_of(folder, *files, prompts=("", "", "")):
    """Tasks read from rows of (query, positives), a list of rows for each data set."""
    sets = []
    for number, rows in enumerate(files):
        path = folder / f"{number}.jsonl"
        lines = [json.dumps({"query": query, "positive": positives}) for query, positives in rows]
        path.write_text("\n".join(lines) + "\n")
        sets.append({"name": f"set{number}", "path": str(path)})
    prompts = dict(zip(("query", "passage", "sts"), prompts, strict=True))
    return load_tasks(Data(retrieval=sets), prompts, tokenize, fingerprint="", cache=folder / "cache")


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


def test_too_few_negatives_are_an_error_that_names_the_data_set():
    tasks, table = random_tasks(6)
    short = int((table.available_Q[:7] < 3).sum())
    assert short
    with pytest.raises(UserError, match=f"step.num_negatives: found 3, but {short} of 7 queries of 'set0'"):
        check_enough_negatives(tasks.retrieval, table, Step(num_negatives=3))
    check_enough_negatives(tasks.retrieval, table, Step(num_negatives=3, too_few_negatives="allow"))
    check_enough_negatives(
        tasks.retrieval, NegativeTable(np.zeros((18, 3), np.int32), 3), Step(num_negatives=3)
    )
