"""Scores read off a loss, against cosines worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from conan_embed.errors import UserError
from conan_embed.integrations.loss_scores import LossScores, scale_of

pytest.importorskip("sentence_transformers")
MARK, ROWS, NEGATIVES, WIDTH = 77, 4, 3, 8


class Model(nn.Module):
    """Gives back what it is given, as a SentenceTransformer does."""

    def forward(self, embedding_BD):
        return {"sentence_embedding": embedding_BD}


class Loss(nn.Module):
    """Embeds the columns one after the other, or all at once; then a smaller width, as a Matryoshka loss does."""

    scale = 20.0

    def __init__(self, model, *, at_once=False, columns=2 + NEGATIVES):
        super().__init__()
        self.model, self.at_once, self.columns = model, at_once, columns

    def forward(self, columns, labels):
        columns = columns[: self.columns]
        for rows in [torch.cat(columns)] if self.at_once else columns:
            self.model(rows)
        self.model(columns[0][:, :2])
        return torch.zeros(())


def batch(seed=0, mark=MARK):
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randn(ROWS, WIDTH, generator=generator) for _ in range(2 + NEGATIVES)]
    labels = torch.arange(ROWS * (3 + NEGATIVES)).view(ROWS, -1)
    labels[:, 0] = mark
    return columns, labels


def watched(**settings):
    model = Model()
    loss = Loss(model, **settings)
    scores = LossScores(MARK, NEGATIVES)
    assert scores.watch(SimpleNamespace(model=model, loss=loss)) == [loss]
    return scores, loss, model


@pytest.mark.parametrize("at_once", [False, True])
def test_cosines_and_shares_of_a_batch(at_once):
    scores, loss, _ = watched(at_once=at_once)
    columns, labels = batch()
    loss(columns, labels)
    [(label, cosine, share, sums)] = scores.take()
    query, positive, *negatives = (column.double().numpy() for column in columns)

    def cosines(other):
        return (query * other).sum(axis=1) / np.linalg.norm(query, axis=1) / np.linalg.norm(other, axis=1)

    expected = np.stack([cosines(negative) for negative in negatives], axis=1)
    odds = np.exp(20 * (expected - cosines(positive)[:, None]))
    np.testing.assert_array_equal(label, labels.numpy())
    np.testing.assert_allclose(cosine, expected, atol=1e-6)
    np.testing.assert_allclose(share, odds / (1 + odds), atol=1e-5)
    lengths = [np.linalg.norm(column, axis=1, keepdims=True) for column in (query, positive)]
    units = [query / lengths[0], positive / lengths[1]]
    np.testing.assert_allclose(sums, [rows.sum(axis=0) for rows in units], atol=1e-6)
    assert scores.num_batches == 1 and scores.take() == []


def test_other_data_sets_and_evaluation_are_not_looked_at():
    scores, loss, model = watched()
    loss(*batch(mark=MARK + 1))
    model.eval()
    loss(*batch())
    assert scores.take() == [] and scores.num_batches == 0


def test_a_loss_that_does_not_embed_the_negatives_is_refused():
    _, loss, _ = watched(columns=2)
    with pytest.raises(UserError, match="expected a loss that embeds every column"):
        loss(*batch())


def test_the_scale_of_a_loss():
    model = Model()
    by_temperature, around, none = nn.Module(), nn.Module(), nn.Module()
    by_temperature.temperature = 0.05
    around.loss = Loss(model)
    assert scale_of(Loss(model)) == 20 and scale_of(by_temperature) == pytest.approx(20)
    assert scale_of(around) == 20 and scale_of(none) is None
