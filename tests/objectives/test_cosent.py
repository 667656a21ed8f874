"""CoSENT against its double sum."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.objectives.cosent import cosent, cosent_of_pairs


def slow_cosent(score, label, group, temperature):
    total = torch.ones((), dtype=score.dtype)
    for i in range(len(score)):
        for k in range(len(score)):
            if group[i] == group[k] and label[i] > label[k]:
                total = total + torch.exp((score[k] - score[i]) / temperature)
    return torch.log(total)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=24))
def test_loss_and_gradient_equal_the_double_sum(pairs):
    score = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([float(pair[1]) for pair in pairs])
    group = torch.tensor([pair[2] for pair in pairs])
    loss = cosent(score, label, group, temperature=0.05)
    (gradient,) = torch.autograd.grad(loss, score)
    expected = slow_cosent(score, label, group, 0.05)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    if expected.requires_grad:
        (expected_gradient,) = torch.autograd.grad(expected, score)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def test_order_of_the_pairs_does_not_matter():
    score, label, group = torch.randn(50).double(), torch.randint(5, (50,)).float(), torch.randint(2, (50,))
    order = torch.randperm(50)
    torch.testing.assert_close(
        cosent(score, label, group, temperature=0.05),
        cosent(score[order], label[order], group[order], temperature=0.05),
    )


def test_widths_are_prefix_cosines():
    left, right = torch.randn(6, 8).double().requires_grad_(), torch.randn(6, 8).double()
    label, group = torch.arange(6).float(), torch.zeros(6).long()
    loss, score = cosent_of_pairs(left, right, label, group, temperature=0.1, widths=(8, 3))
    cosine = lambda w: torch.nn.functional.cosine_similarity(left[:, :w], right[:, :w])  # noqa: E731
    expected = (slow_cosent(cosine(3), label, group, 0.1) + slow_cosent(cosine(8), label, group, 0.1)) / 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(score, cosine(8).detach())
    torch.testing.assert_close(*(torch.autograd.grad(value, left)[0] for value in (loss, expected)))
