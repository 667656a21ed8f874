"""What a tuning run found elsewhere: means in which types count the same, and an interval over questions."""

import numpy as np
import pytest

from conan_embed.tuning.result import compare_elsewhere
from conan_embed.tuning.verdict import judge


def test_one_set_has_the_interval_that_the_verdict_has() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(200)
    tuned = (base + generator.normal(0.02, 0.1, 200)).clip(0, 1)
    elsewhere = compare_elsewhere({"retrieval/a": base.tolist()}, {"retrieval/a": tuned.tolist()}, seed=3)
    verdict = judge(base, tuned, seed=3)
    assert (elsewhere.base, elsewhere.tuned) == pytest.approx((verdict.base, verdict.tuned))
    assert (elsewhere.low, elsewhere.high) == pytest.approx((verdict.low, verdict.high), abs=2e-3)
    assert elsewhere.low is not None and elsewhere.low < elsewhere.tuned - elsewhere.base


def test_types_count_the_same_however_many_sets_they_have() -> None:
    base = {"retrieval/a": [0.0, 1.0], "retrieval/b": [1.0, 1.0], "sts/c": [0.2]}
    tuned = {"retrieval/a": [1.0, 1.0], "retrieval/b": [0.0, 1.0], "sts/c": [0.6]}
    found = compare_elsewhere(base, tuned)
    assert found.base == pytest.approx((0.75 + 0.2) / 2)
    assert found.tuned == pytest.approx((0.75 + 0.6) / 2)
    assert found.tasks["retrieval/b"] == (1.0, 0.5)


def test_without_single_items_there_is_no_interval() -> None:
    found = compare_elsewhere({"clustering/a": [0.4]}, {"clustering/a": [0.39]})
    assert found.low is None and found.high is None
    assert found.sentence() == "other domains: 40.0 -> 39.0 (-1.0)"


def test_the_sentence_says_how_sure_it_is() -> None:
    base, tuned = [0.0, 0.5, 1.0, 0.5] * 20, [0.0, 0.5, 0.9, 0.5] * 20
    sentence = compare_elsewhere({"retrieval/a": base}, {"retrieval/a": tuned}).sentence()
    assert sentence.startswith("other domains: 50.0 -> 47.5 (-2.5, 95 % interval -3.")
