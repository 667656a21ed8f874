"""The paper's rule, query by query and check by check, against the vectorised table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.rules import no_longer_hard
from conan_embed.negatives.sources import NextWindow
from conan_embed.negatives.table import NegativeTable, mean

# Scores that meet the rule's two bounds exactly now and then: 1.15 * 0.6 and 0.8 are among them.
scores = st.sampled_from([-0.9, -0.8, -0.3, 0.0, 0.25, 0.5, 0.6, 0.69, 0.7, 0.79, 0.8, 0.9]) | st.floats(
    -1, 1, width=32
)


class SlowQuery:
    """One query as section 4 of the paper describes it, in words and Python numbers."""

    def __init__(self, ranking, n):
        self.ranking = [text for text in ranking if text != NONE]
        self.n = n
        self.placement = 1
        self.replacements = 0
        self.initial = None  # S_0
        self.current = None  # S

    def negatives(self):
        """Placement i takes ranks (i - 1) n to i n (the offset of 10 is taken off the ranking already)."""
        found = self.ranking[(self.placement - 1) * self.n : self.placement * self.n]
        return found + [NONE] * (self.n - len(found))

    def see(self, score):
        if self.initial is None:
            self.initial = score
        else:
            self.current = score

    def no_longer_hard(self, decay, ceiling):
        if self.current is None:
            return False
        # The table holds float32; so do both sides of the comparison.
        return np.float32(decay * self.current) < self.initial and abs(self.current) < np.float32(ceiling)

    def replace(self, on_exhausted):
        """Return whether other negatives are in use afterwards."""
        if self.n * (self.placement + 1) <= len(self.ranking):
            self.placement += 1
        elif on_exhausted == "restart" and self.placement > 1:
            self.placement = 1
        else:
            return False
        self.replacements += 1
        self.initial = self.current = None
        return True


def check(table, decay, max_score, on_exhausted="keep"):
    """Apply the rule and move flagged queries to their next window; return the rows flagged and those replaced."""
    flagged = np.flatnonzero(
        no_longer_hard(table.initial_Q, table.current_Q, decay=decay, max_score=max_score)
    )
    replaced = NextWindow(table, restart=on_exhausted == "restart").replace(flagged)
    return flagged.tolist(), replaced.tolist()


@settings(max_examples=500)
@given(st.data())
def test_random_histories(data):
    """Any rankings, any scores, seen in any order and number, any checks in between."""
    n = data.draw(st.integers(1, 4))
    depth = data.draw(st.integers(0, 14))
    lengths = data.draw(st.lists(st.integers(0, depth), min_size=1, max_size=5))
    decay, ceiling = data.draw(st.sampled_from([(1.15, 0.8), (1.2, 0.7)]))
    on_exhausted = data.draw(st.sampled_from(["keep", "restart"]))
    ranking = np.full((len(lengths), depth), NONE, np.int32)
    for row, length in enumerate(lengths):
        ranking[row, :length] = np.random.default_rng(row).permutation(100)[:length]
    table = NegativeTable(ranking.copy(), n)
    slow = [SlowQuery(row.tolist(), n) for row in ranking]
    for _ in range(data.draw(st.integers(1, 8))):
        for _ in range(data.draw(st.integers(0, 3))):
            rows = data.draw(st.lists(st.sampled_from(range(len(slow))), unique=True))
            seen = [
                np.float32(data.draw(scores)) if any(x != NONE for x in slow[row].negatives()) else np.nan
                for row in rows
            ]
            table.observe(np.array(rows, np.int64), np.array(seen, np.float64))
            for row, score in zip(rows, seen, strict=True):
                if not np.isnan(score):
                    slow[row].see(score)
        flagged = [row for row, query in enumerate(slow) if query.no_longer_hard(decay, ceiling)]
        watched = [query for query in slow if query.current is not None]
        exhausted = sum(query.n * (query.placement + 1) > len(query.ranking) for query in slow)
        ranks = [(query.placement - 1) * n + (n - 1) / 2 for query in slow]
        expected_means = [
            np.mean([getattr(q, name) for q in watched]) if watched else np.nan
            for name in ("initial", "current")
        ]
        watched_now = ~np.isnan(table.current_Q)
        means = [mean(table.initial_Q[watched_now]), mean(table.current_Q[watched_now])]
        assert (watched_now.sum(), table.exhausted_Q.sum()) == (len(watched), exhausted)
        assert table.mean_rank == pytest.approx(np.mean(ranks))
        flagged_rows, replaced_rows = check(table, decay, ceiling, on_exhausted)
        replaced = [row for row in flagged if slow[row].replace(on_exhausted)]
        assert flagged_rows == flagged
        assert replaced_rows == replaced
        np.testing.assert_allclose(means, expected_means, rtol=1e-5, atol=1e-6)
        assert table.in_use(np.arange(len(slow))).tolist() == [query.negatives() for query in slow]
        assert table.replacements_Q.tolist() == [query.replacements for query in slow]


def one_query(scores):
    table = NegativeTable(np.arange(30, dtype=np.int32)[None], 5)
    for score in scores:
        table.observe(np.array([0]), np.array([score]))
    _, replaced = check(table, 1.15, 0.8)
    return len(replaced), table.in_use(np.array([0]))[0].tolist()


def test_the_rule_in_the_papers_numbers():
    assert one_query([0.6, 0.5]) == (1, [5, 6, 7, 8, 9])  # 1.15 * 0.5 < 0.6
    assert one_query([0.6, 0.53]) == (0, [0, 1, 2, 3, 4])  # 1.15 * 0.53 > 0.6
    assert one_query([0.99, 0.81]) == (0, [0, 1, 2, 3, 4])  # below 0.99 / 1.15, but still hard by itself
    assert one_query([-0.1, -0.85]) == (0, [0, 1, 2, 3, 4])  # |S| counts, as in the paper
    assert one_query([0.6, 0.2, 0.59]) == (0, [0, 1, 2, 3, 4])  # the last score counts, not the lowest
    assert one_query([0.6]) == (0, [0, 1, 2, 3, 4])  # seen once: S_0, no S yet


def test_windows_follow_each_other_and_the_end_keeps_or_wraps():
    for on_exhausted, expected in (("keep", [0, 2, 4, 4, 4]), ("restart", [0, 2, 4, 0, 2])):
        table = NegativeTable(np.arange(7, dtype=np.int32)[None], 2)  # three whole windows and one text
        firsts = []
        for _ in range(5):
            firsts.append(int(table.in_use(np.array([0]))[0, 0]))
            table.observe(np.array([0]), np.array([0.7]))
            table.observe(np.array([0]), np.array([0.1]))
            check(table, 1.15, 0.8, on_exhausted)
        assert firsts == expected


def test_after_a_replacement_watching_begins_anew():
    table = NegativeTable(np.arange(30, dtype=np.int32)[None], 5)
    row = np.array([0])
    table.observe(row, np.array([0.6]))
    table.observe(row, np.array([0.1]))
    assert check(table, 1.15, 0.8)[1] == [0]
    assert check(table, 1.15, 0.8)[0] == []
    table.observe(row, np.array([0.5]))  # the new S_0
    table.observe(row, np.array([0.45]))
    assert check(table, 1.15, 0.8)[0] == []  # 1.15 * 0.45 > 0.5
    table.observe(row, np.array([0.4]))
    assert check(table, 1.15, 0.8)[0] == [0]


def test_new_rankings_start_at_their_first_window():
    table = NegativeTable(np.arange(20, dtype=np.int32).reshape(2, 10), 3)
    for score in (0.6, 0.1):
        table.observe(np.array([0, 1]), np.array([score, score]))
    check(table, 1.15, 0.8)
    table.replace_rankings(np.array([1]), np.array([[50, 51, 52, 53]]))
    assert table.in_use(np.array([0, 1])).tolist() == [[3, 4, 5], [50, 51, 52]]
    assert table.available_Q.tolist() == [10, 4]
    assert table.ranking_QK[1].tolist() == [50, 51, 52, 53, *[NONE] * 6]
    assert table.replacements_Q.tolist() == [1, 2]
    table.replace_rankings(np.array([1]), np.arange(12)[None])  # a longer one is cut
    assert table.ranking_QK[1].tolist() == list(range(10))


@given(st.integers(0, 1000))
def test_state_goes_through_a_file_and_on_bit_for_bit(tmp_path_factory, seed):
    from safetensors.numpy import load_file, save_file

    generator = np.random.default_rng(seed)
    ranking = generator.integers(0, 1000, (6, 12)).astype(np.int32)
    ranking[2, 5:] = NONE

    def go_on(table, seed):
        generator = np.random.default_rng(seed)
        for _ in range(6):
            table.observe(np.arange(6), generator.uniform(-1, 1, 6))
            check(table, 1.15, 0.8, "restart")

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
