"""The gate before an export is written: what it lets through and what it sees."""

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.export import graph, parity
from tests.export.test_graph import torch_runner


class WithoutMask(graph.PaddedModel):
    """The classical mistake: padding is averaged too."""

    def _pool(self, hidden_NLH, mask_NL):
        return hidden_NLH.mean(dim=1)


class FirstInsteadOfLast(graph.PaddedModel):
    def _pool(self, hidden_NLH, mask_NL):
        return hidden_NLH[:, 0]


@pytest.mark.parametrize(("pooling", "wrong"), [("mean", WithoutMask), ("last", FirstInsteadOfLast)])
def test_the_gate_sees_a_wrong_pooling(tiny_model, pooling, wrong):
    model = tiny_model("bert", pooling=pooling)
    texts = parity.known_texts(model)
    expected = parity.embed(model, texts, model.width)
    found = parity.embed_with(torch_runner(wrong(model), model), texts)
    with pytest.raises(UserError, match=r"does not embed as the model does: cosine .* expected 0.9999"):
        parity.compare(found, expected, texts)


def test_the_gate_sees_a_lost_window(tiny_model):
    model = tiny_model("modernbert")
    texts = parity.known_texts(model)
    expected = parity.embed(model, texts, model.width)
    for layer in model.encoder.layers:
        layer.attn.sliding_window = None
    model.encoder.config.local_attention = 2 * model.max_length
    found = parity.embed_with(torch_runner(graph.PaddedModel(model), model), texts)
    with pytest.raises(UserError, match="does not embed"):
        parity.compare(found, expected, texts)


def test_the_gate_does_not_take_nan_for_an_answer():
    unit, texts = np.eye(20, dtype=np.float32), ["text"] * 20
    assert parity.compare(unit, unit, texts, "int8").cosine_min == 1
    with pytest.raises(UserError, match="nan"):
        parity.compare(np.full_like(unit, np.nan), unit, texts, "int8")


def turned(rows, angle):
    """Unit rows, each turned by `angle` in a plane of its own."""
    aside = np.random.default_rng(1).standard_normal(rows.shape)
    aside -= (aside * rows).sum(axis=1, keepdims=True) * rows
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return np.cos(angle) * rows + np.sin(angle) * aside


def random_rows(count=40, width=64):
    rows = np.random.default_rng(0).standard_normal((count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_int8_is_judged_by_a_low_percentile():
    rows, texts = random_rows(), ["text"] * 40
    copy = rows.copy()
    copy[3] = -copy[3]  # one text of forty
    assert parity.compare(copy, rows, texts, "int8").cosine_min == pytest.approx(-1)
    with pytest.raises(UserError, match="cosine -1"):
        parity.compare(copy, rows, texts)
    with pytest.raises(UserError, match=r"expected 0.97 or more"):
        parity.compare(turned(rows, 0.4), rows, texts, "int8")


def test_int8_is_judged_by_ranking(monkeypatch):
    rows, texts = random_rows(), ["text"] * 40
    monkeypatch.setitem(parity.FLOORS, "int8", -1.0)
    assert parity.compare(turned(rows, 0.05), rows, texts, "int8").nearest_kept > 0.8
    with pytest.raises(UserError, match="ranks texts otherwise"):
        parity.compare(turned(rows, 1.2), rows, texts, "int8")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_texts_that_the_tokenizer_does_not_know_are_left_out(tiny_model, family):
    model = tiny_model(family)
    given = ["好", "Yes.", "zzz qqq", "今天", *("a large file " * n for n in range(1, 9))]
    unknown = model.tokenizer.unk_token_id
    texts = parity.known_texts(model, given)
    assert texts[-1] == " ".join(texts[:-1])
    expected = [text for text in given if unknown not in model.tokenizer(text)["input_ids"]]
    assert texts[:-1] == expected and len(expected) > 7
