"""Estimates from measured speed, against sums of tokens written out; a measurement that leaves the model alone."""

import pytest
import torch

from conan_embed.tuning import speed as module
from conan_embed.tuning.speed import Speed, measure_speed
from tests.tiny_models import SENTENCES, make_tiny_model

SPEED = Speed(encode=1000.0, train=200.0, passage_tokens=50.0, query_tokens=10.0, lengths=(20, 80))


def test_seconds_are_tokens_over_speed() -> None:
    assert SPEED.encoding_seconds(100, 7) == pytest.approx((100 * 50 + 7 * 10) / 1000)
    assert SPEED.step_seconds(8, 3) == pytest.approx(8 * (10 + 4 * 50) / 200)


def test_a_smaller_bound_on_the_length_leaves_fewer_tokens() -> None:
    assert SPEED.step_seconds(8, 3, max_length=40) == pytest.approx(8 * (10 + 4 * 30) / 200)
    assert SPEED.step_seconds(8, 3, max_length=500) == SPEED.step_seconds(8, 3)


def test_measuring_counts_tokens_with_prompts_and_keeps_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    model = make_tiny_model("bert", prompts={"passage": "the passage ", "query": "q "})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    passages, queries = list(SENTENCES), list(SENTENCES[:3])
    found = measure_speed(model, queries, passages)
    lengths = [len(model.tokenize(["the passage " + text])[0]) for text in passages]
    assert found.lengths == tuple(lengths)
    assert found.passage_tokens == pytest.approx(sum(lengths) / len(lengths))
    assert found.query_tokens == pytest.approx(
        sum(len(model.tokenize(["q " + text])[0]) for text in queries) / 3
    )
    assert found.encode > 0 and found.train > 0 and 0 <= found.busy <= 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
