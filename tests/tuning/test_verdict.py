"""BETTER only where it is: the interval leaves out zero, and the pairs mean something."""

import numpy as np
import pytest

from conan_embed.tuning.verdict import judge


def _scores(difference: float, questions: int, seed: int = 0) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    base = generator.choice([0.0, 0.5, 1.0], questions)
    tuned = base + generator.normal(difference, 0.3, questions)
    return base.tolist(), tuned.tolist()


@pytest.mark.parametrize(
    ("difference", "word"), [(0.1, "BETTER"), (-0.1, "WORSE"), (0.0, "NO CLEAR DIFFERENCE")]
)
def test_a_clear_difference_is_called_one(difference: float, word: str) -> None:
    verdict = judge(*_scores(difference, 400))
    assert verdict.word == word
    assert verdict.low <= verdict.difference <= verdict.high
    assert verdict.difference == pytest.approx(verdict.tuned - verdict.base)
    assert verdict.won + verdict.lost == 400
    assert word in verdict.sentence()


def test_models_that_do_not_differ_get_better_or_worse_once_in_twenty() -> None:
    words = [judge(*_scores(0.0, 100, seed=seed)).word for seed in range(200)]
    assert words.count("NO CLEAR DIFFERENCE") >= 0.9 * 200


def test_the_same_model_twice_is_no_difference() -> None:
    base, _ = _scores(0, 50)
    verdict = judge(base, base)
    assert (verdict.word, verdict.difference, verdict.won, verdict.lost) == ("NO CLEAR DIFFERENCE", 0, 0, 0)


def test_no_gain_counts_where_pairs_are_unrelated() -> None:
    verdict = judge(*_scores(0.2, 400), agreement=0.51)
    assert verdict.word == "NO CLEAR DIFFERENCE"
    assert "look unrelated" in verdict.sentence()
    assert "out of step" in verdict.advice()
    assert judge(*_scores(-0.2, 400), agreement=0.51).word == "WORSE"


def test_few_questions_give_long_intervals() -> None:
    few, many = judge(*_scores(0.05, 20)), judge(*_scores(0.05, 2000))
    assert few.high - few.low > 5 * (many.high - many.low)
