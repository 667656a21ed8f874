"""The rules against their formulas, negative by negative; and in the papers' numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.negatives.rules import EachRule, MeanRule, ShareRule, make_rule
from conan_embed.recipes.sections import Replacement

# Scores that meet the bounds exactly now and then: 1.15 * 0.6, 0.8, 0.4 and 0.7 are among them; nan is not seen.
score = st.sampled_from([-0.9, -0.8, -0.3, 0.0, 0.25, 0.4, 0.5, 0.6, 0.69, 0.7, 0.8, np.nan]) | st.floats(
    -1, 1, width=32
)
rows = st.lists(st.lists(st.tuples(score, score, score), min_size=3, max_size=3), min_size=1, max_size=4)


@given(rows)
def test_each_rule_in_a_loop(seen):
    initial, current, share = np.array(seen, np.float32).transpose(2, 0, 1)
    mean = MeanRule(1.15, 0.8).learned(initial, current, share)
    each = EachRule(1.2, 0.7, 0.4).learned(initial, current, share)
    without = EachRule(1.2, 0.7, None).learned(initial, current, share)
    small = ShareRule(0.25).learned(initial, current, share)
    for i in range(len(seen)):
        both = [j for j in range(3) if not np.isnan(initial[i, j]) and not np.isnan(current[i, j])]
        expected = False
        if both:
            first, now = (sum(float(x[i, j]) for j in both) / len(both) for x in (initial, current))
            expected = 1.15 * now < first and abs(now) < 0.8
        assert mean[i].tolist() == [expected] * 3
        for j in range(3):
            first, now = initial[i, j], current[i, j]
            learned = np.float32(1.2) * now < first and now < np.float32(0.7)
            assert without[i, j] == learned
            assert each[i, j] == (learned or first < np.float32(0.4))
            assert small[i, j] == (share[i, j] < np.float32(0.25))


def learned(rule, initial, current):
    initial, current = (np.array([scores], np.float32) for scores in (initial, current))
    return rule.learned(initial, current, np.full_like(initial, np.nan))[0].tolist()


def test_v1_in_the_papers_numbers():
    rule = MeanRule(1.15, 0.8)
    assert learned(rule, [0.6], [0.5]) == [True]  # 1.15 * 0.5 < 0.6
    assert learned(rule, [0.6], [0.53]) == [False]  # 1.15 * 0.53 > 0.6
    assert learned(rule, [0.99], [0.81]) == [False]  # below 0.99 / 1.15, but still hard by itself
    assert learned(rule, [-0.1], [-0.85]) == [False]  # |S| counts, as in the paper
    assert learned(rule, [0.6], [np.nan]) == [False]  # not seen since it was put in place


def test_a_mean_hides_what_each_negative_shows():
    initial, current = [0.9, 0.9, 0.9], [0.9, 0.9, 0.5]
    assert learned(MeanRule(1.2, 0.7), initial, current) == [False] * 3
    assert learned(EachRule(1.2, 0.7, 0.4), initial, current) == [False, False, True]
    assert learned(EachRule(1.2, 0.7, 0.4), [0.9, 0.39, 0.9], [np.nan] * 3) == [
        False,
        True,
        False,
    ]  # too easy


def test_the_recipe_names_them():
    assert make_rule(Replacement()) == MeanRule(1.15, 0.8)
    assert make_rule(Replacement(rule="each")) == EachRule(1.2, 0.7, 0.4)  # the numbers of v2
    assert make_rule(Replacement(rule="each", decay=1.1, max_score=0.9)) == EachRule(1.1, 0.9, 0.4)
    assert make_rule(Replacement(rule="share", min_share=0.1)) == ShareRule(0.1)
