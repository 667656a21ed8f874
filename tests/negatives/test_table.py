"""The table against a query in words and Python lists: windows and single slots, new rankings, any history."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.rules import EachRule, MeanRule
from conan_embed.negatives.table import NegativeTable

N = 3
WIDTH = 9


@dataclass
class SlowQuery:
    """One query: a list of texts, what each slot holds, and what is known of it."""

    ranking: list
    slots: list = field(default_factory=list)
    used: int = 0
    replacements: int = 0
    seen: bool = False

    def __post_init__(self):
        self.slots = [self.slot(text) for text in (self.ranking + [NONE] * N)[:N]]
        self.used = min(N, len(self.ranking))

    @staticmethod
    def slot(text, initial=None):
        return {"text": text, "initial": initial, "current": None, "share": None}

    @property
    def texts(self):
        return [slot["text"] for slot in self.slots]

    def see(self, scores, shares):
        self.seen = True  # also without negatives, which a check may find
        for slot, score, share in zip(self.slots, scores, shares, strict=True):
            if slot["text"] != NONE:
                slot["current" if slot["initial"] is not None else "initial"] = score
                slot["share"] = share

    def put(self, replacements):
        """Put (slot, text, score) in place."""
        for number, text, score in replacements:
            self.slots[number] = self.slot(text, score)
        self.replacements += bool(replacements)

    def advance(self, numbers, whole, restart):
        wanted = len(numbers)
        start = self.used
        if restart and start + (wanted if whole else 1) > len(self.ranking):
            start = 0
        free = [rank for rank in range(start, len(self.ranking)) if self.ranking[rank] not in self.texts]
        if whole and len(free) < wanted:
            numbers = []
        taken = list(zip(numbers, free, strict=False))
        self.put([(number, self.ranking[rank], None) for number, rank in taken])
        if taken:
            self.used = max(rank for _, rank in taken) + 1
        return [number for number, _ in taken]

    def renew(self, numbers, ids, scores, whole):
        in_use = set() if whole else set(self.texts)
        fresh = [(text, score) for text, score in zip(ids, scores, strict=False) if text not in in_use]
        if whole and len(fresh) < len(numbers):
            return []
        taken = list(zip(numbers, fresh, strict=False))
        if not taken:
            return []
        numbers = [number for number, _ in taken]
        stay = [
            slot["text"] for i, slot in enumerate(self.slots) if i not in numbers and slot["text"] != NONE
        ]
        self.ranking = (stay + [text for text, _ in fresh])[:WIDTH]
        self.put([(number, text, score) for number, (text, score) in taken])
        self.used = len(stay) + len(taken)
        return numbers


def table_of(slow):
    ranking = np.full((len(slow), WIDTH), NONE, np.int32)
    for row, query in enumerate(slow):
        ranking[row, : len(query.ranking)] = query.ranking
    return NegativeTable(ranking, N)


def assert_same(table, slow):
    assert table.in_use(np.arange(len(slow))).tolist() == [query.texts for query in slow]
    for name, values in (
        ("initial", table.initial_QN),
        ("current", table.current_QN),
        ("share", table.share_QN),
    ):
        expected = [[np.nan if slot[name] is None else slot[name] for slot in query.slots] for query in slow]
        np.testing.assert_array_equal(values, np.array(expected, np.float32))
    assert table.replacements_Q.tolist() == [query.replacements for query in slow]
    assert table.seen_Q.tolist() == [query.seen for query in slow]
    assert table.next_Q.tolist() == [query.used for query in slow]
    for whole, need in ((True, N), (False, 1)):
        expected = [query.used + need > len(query.ranking) for query in slow]
        assert table.exhausted(whole=whole).tolist() == expected
    for query in slow:
        texts = [text for text in query.texts if text != NONE]
        assert len(set(texts)) == len(texts)  # none twice in its row
    ranks = [query.ranking.index(text) for query in slow for text in query.texts if text != NONE]
    assert table.mean_rank == (pytest.approx(np.mean(ranks)) if ranks else pytest.approx(np.nan, nan_ok=True))


texts = st.lists(st.integers(0, 19), unique=True, max_size=WIDTH)
numbers = st.floats(-1, 1, width=32)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_histories(data):
    """Any rankings; any slots seen, moved on and ranked anew, whole or by themselves, in any order."""
    slow = [SlowQuery(ranking) for ranking in data.draw(st.lists(texts, min_size=1, max_size=4))]
    table = table_of(slow)
    assert_same(table, slow)
    for _ in range(data.draw(st.integers(1, 8))):
        rows = np.array(data.draw(st.lists(st.sampled_from(range(len(slow))), unique=True)), np.int64)
        action = data.draw(st.sampled_from(["see", "advance", "renew", "ask"]))
        if action == "see":
            scores, shares = (
                [[data.draw(numbers) if text != NONE else np.nan for text in slow[row].texts] for row in rows]
                for _ in range(2)
            )
            shape = (len(rows), N)
            table.observe(rows, np.array(scores).reshape(shape), np.array(shares).reshape(shape))
            for row, score, share in zip(rows, scores, shares, strict=True):
                slow[row].see([np.float32(x) for x in score], [np.float32(x) for x in share])
        elif action == "ask":
            assert table.take_seen().tolist() == [row for row, query in enumerate(slow) if query.seen]
            for query in slow:
                query.seen = False
        else:
            whole = data.draw(st.booleans())
            chosen = np.ones((len(rows), N), bool)
            if not whole:
                held = [
                    [text != NONE and data.draw(st.booleans()) for text in slow[row].texts] for row in rows
                ]
                chosen = np.array(held, bool).reshape(len(rows), N)
            if action == "advance":
                restart = data.draw(st.booleans())
                replaced = table.advance(rows, chosen, whole=whole, restart=restart)
                expected = [
                    slow[row].advance(np.flatnonzero(slots).tolist(), whole, restart)
                    for row, slots in zip(rows, chosen, strict=True)
                ]
            else:
                anew = [data.draw(texts) for _ in rows]
                ids = np.full((len(rows), WIDTH + 2), NONE, np.int32)
                scores = np.full(ids.shape, -np.inf, np.float32)
                for place, row_texts in enumerate(anew):
                    ids[place, : len(row_texts)] = row_texts
                    scores[place, : len(row_texts)] = np.linspace(0.9, 0.1, len(row_texts))
                replaced = table.renew(rows, chosen, ids, scores, whole=whole)
                expected = [
                    slow[row].renew(
                        np.flatnonzero(slots).tolist(),
                        ids[place, : len(anew[place])].tolist(),
                        scores[place],
                        whole,
                    )
                    for place, (row, slots) in enumerate(zip(rows, chosen, strict=True))
                ]
            assert [np.flatnonzero(row).tolist() for row in replaced] == expected
        assert_same(table, slow)


def test_the_papers_windows():
    """Placement i takes ranks (i - 1) n to i n; the end keeps or restarts."""
    for restart, expected in ((False, [0, 2, 4, 4, 4]), (True, [0, 2, 4, 0, 2])):
        table = NegativeTable(np.arange(7, dtype=np.int32)[None], 2)  # three whole windows and one text
        firsts = []
        for _ in range(5):
            firsts.append(int(table.in_use(np.array([0]))[0, 0]))
            table.advance(np.array([0]), np.ones((1, 2), bool), whole=True, restart=restart)
        assert firsts == expected


def test_what_ranked_a_negative_is_its_first_score():
    """S_0 known from mining: the first sight is S already, and may replace. Unknown: it is S_0."""
    known = np.array([[0.6, 0.5], [np.nan, np.nan]], np.float32)
    table = NegativeTable(np.arange(8, dtype=np.int32).reshape(2, 4), 2, known)
    rows = np.arange(2)
    table.observe(rows, np.full((2, 2), 0.3))
    learned = MeanRule(1.15, 0.8).learned(table.initial_QN, table.current_QN, table.share_QN)
    assert learned.tolist() == [[True, True], [False, False]]
    assert table.initial_QN[1].tolist() == pytest.approx([0.3, 0.3])
    assert table.advance(rows[:1], learned[:1], whole=True).all()
    assert np.isnan(table.initial_QN[0]).all()  # of a later window the score is an older model's: unknown


def test_a_negative_replaced_by_itself_leaves_the_others_as_they_were():
    table = NegativeTable(np.arange(6, dtype=np.int32)[None], 3, np.full((1, 3), 0.9))
    row = np.array([0])
    table.observe(row, np.array([[0.8, 0.1, 0.85]]))
    learned = EachRule(1.2, 0.7, None).learned(table.initial_QN, table.current_QN, table.share_QN)
    table.advance(row, learned, whole=False)
    assert table.in_use(row).tolist() == [[0, 3, 2]]
    np.testing.assert_allclose(table.initial_QN, [[0.9, np.nan, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(table.current_QN, [[0.8, np.nan, 0.85]], rtol=1e-6)


@given(st.integers(0, 1000))
def test_state_goes_through_a_file_and_on_bit_for_bit(tmp_path_factory, seed):
    from safetensors.numpy import load_file, save_file

    generator = np.random.default_rng(seed)
    ranking = np.array([generator.permutation(1000)[:12] for _ in range(6)], np.int32)
    ranking[2, 5:] = NONE

    def go_on(table, seed):
        generator = np.random.default_rng(seed)
        rows = np.arange(6)
        for step in range(6):
            held = table.in_use(rows) != NONE
            scores = np.where(held, generator.uniform(-1, 1, (6, 3)), np.nan)
            table.observe(rows, scores, scores)
            learned = EachRule(1.2, 0.7, 0.1).learned(table.initial_QN, table.current_QN, table.share_QN)
            if step % 3 == 2:
                table.renew(rows[:2], learned[:2], generator.permutation(40)[:16].reshape(2, 8), whole=False)
            table.advance(rows, learned & held, whole=False, restart=True)

    table = NegativeTable(ranking.copy(), 3)
    go_on(table, seed)
    path = tmp_path_factory.getbasetemp() / "table.safetensors"
    save_file(table.state(), path)
    other = NegativeTable(np.full((6, 12), NONE, np.int32), 3)
    other.load_state(load_file(path))
    for each in (table, other):
        go_on(each, seed + 1)
    for name, values in table.state().items():
        np.testing.assert_array_equal(values, other.state()[name])
        assert values.dtype == other.state()[name].dtype
    assert table.available_Q.tolist() == other.available_Q.tolist()
