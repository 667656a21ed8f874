"""Spread-out regularisation against loops in float64 and against sentence-transformers."""

import pytest
import torch

from conan_embed.objectives.spread import spread_out


def rows(count, width=7, seed=0):
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow(text_ND, widths):
    total = 0.0
    for width in widths:
        pairs = [
            torch.cosine_similarity(text_ND[i, :width], text_ND[j, :width], dim=0) ** 2
            for i in range(len(text_ND))
            for j in range(len(text_ND))
            if i != j
        ]
        total = total + sum(pairs) / len(pairs) / len(widths)
    return total


@pytest.mark.parametrize(("count", "widths"), [(2, (7,)), (5, (7, 3)), (12, (7, 4, 2))])
def test_the_mean_squared_cosine_and_its_gradient(count, widths):
    text_ND = rows(count).requires_grad_()
    found, expected = spread_out(text_ND, widths), slow(text_ND, widths)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(value, text_ND)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cut", [0, 2, 9])
def test_the_parts_of_two_processes_add_up(cut):
    text_ND = rows(9)
    parts = spread_out(text_ND, (7, 3), (0, cut)) + spread_out(text_ND, (7, 3), (cut, 9))
    torch.testing.assert_close(parts, spread_out(text_ND, (7, 3)))


def test_float32_keeps_six_digits():
    text_ND = rows(300, 64)
    torch.testing.assert_close(
        spread_out(text_ND.float(), (64,)).double(), spread_out(text_ND, (64,)), rtol=1e-5, atol=0
    )


def test_it_is_the_second_moment_of_sentence_transformers():
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    theirs = losses.GlobalOrthogonalRegularizationLoss(None, mean_weight=None, aggregation="sum")
    queries, positives = rows(6) + 2, rows(6, seed=1) + 2
    expected = theirs.compute_loss_from_embeddings([queries, positives])["gor_second_moment"]
    # Theirs is counted from 1/D, what random directions have, and 0 below that.
    found = spread_out(queries, (7,)) - 1 / 7 + spread_out(positives, (7,)) - 1 / 7
    torch.testing.assert_close(found, expected)


def test_a_single_text_has_nothing_to_spread():
    assert spread_out(rows(1), (7,)) == pytest.approx(0, abs=1e-12)
    assert spread_out(rows(0), (7,)) == 0
