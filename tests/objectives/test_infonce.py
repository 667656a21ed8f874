"""InfoNCE against the formula of the paper, written out in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.objectives.infonce import infonce
from conan_embed.objectives.relations import NEGATIVE, POSITIVE, Relations


def slow_infonce(query, candidate, relation, temperature, widths):
    """The equation, one query, one positive and one width at a time."""
    total = torch.zeros((), dtype=query.dtype)
    for width in widths:
        q = torch.nn.functional.normalize(query[:, :width], dim=1)
        c = torch.nn.functional.normalize(candidate[:, :width], dim=1)
        for i in range(len(q)):
            negatives = [
                torch.exp(q[i] @ c[j] / temperature) for j in range(len(c)) if relation[i, j] == NEGATIVE
            ]
            terms = []
            for p in range(len(c)):
                if relation[i, p] == POSITIVE:
                    positive = torch.exp(q[i] @ c[p] / temperature)
                    terms.append(-torch.log(positive / (positive + sum(negatives))))
            if terms:
                total = total + sum(terms) / len(terms)
    return total / len(query) / len(widths)


def random_step(seed, num_queries=5, num_candidates=11, width=12):
    """Queries with one to three positives, ragged negatives, ignored candidates, two data sets."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    pick = lambda high, *shape: torch.randint(high, shape, generator=generator)  # noqa: E731
    exceptions = {}
    for row in range(num_queries):
        for column in pick(num_candidates, 5).tolist():
            exceptions[row, column] = int(pick(3, 1)) - 1
        exceptions[row, int(pick(num_candidates, 1))] = POSITIVE
    keys = sorted(exceptions)
    relations = Relations(
        pick(3, num_queries) - 1,
        pick(2, num_candidates),
        torch.tensor([row for row, _ in keys]),
        torch.tensor([column for _, column in keys]),
        torch.tensor([exceptions[key] for key in keys], dtype=torch.int8),
    )
    return draw(num_queries, width), draw(num_candidates, width), relations


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    block_rows=st.sampled_from([1, 2, 3, 100]),
    widths=st.sampled_from([(12,), (4, 12), (3, 5, 12), (2, 8)]),
)
def test_loss_and_gradient_equal_the_formula(seed, block_rows, widths):
    query, candidate, relations = random_step(seed)
    query.requires_grad_(), candidate.requires_grad_()
    result = infonce(query, candidate, relations, temperature=0.1, widths=widths, block_rows=block_rows)
    (result.loss * 1.7).backward()
    gradients = query.grad, candidate.grad
    query.grad = candidate.grad = None
    expected = slow_infonce(query, candidate, relations.rows(0, 5), 0.1, widths)
    (expected * 1.7).backward()
    torch.testing.assert_close(result.loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients[0], query.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradients[1], candidate.grad, rtol=1e-8, atol=1e-10)


def test_rows_shared_out_add_up_to_the_whole():
    query, candidate, relations = random_step(3)
    whole = infonce(query, candidate, relations, temperature=0.1).loss
    parts = [
        infonce(query[a:b], candidate, relations.part(a, b), temperature=0.1, total_queries=5).loss
        for a, b in ((0, 2), (2, 2), (2, 5))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=1e-12)


def test_scores_are_full_width_cosines():
    query, candidate, relations = random_step(4)
    hard_negative_pairs = torch.tensor([0, 0, 3]), torch.tensor([1, 7, 2])
    result = infonce(
        query,
        candidate,
        relations,
        temperature=0.02,
        widths=(4, 12),
        hard_negative_pairs=hard_negative_pairs,
        block_rows=2,
    )
    cosine = torch.nn.functional.cosine_similarity(query[:, None], candidate[None], dim=2)
    torch.testing.assert_close(result.hard_negative_X, cosine[hard_negative_pairs])
    torch.testing.assert_close(result.positive_X, cosine[relations.positives()])


def test_large_logits_stay_finite_in_float32():
    query = torch.eye(4)
    relations = Relations(
        torch.zeros(4).long(),
        torch.zeros(4).long(),
        torch.arange(4),
        torch.arange(4),
        torch.ones(4, dtype=torch.int8),
    )
    result = infonce(query.requires_grad_(), -torch.eye(4), relations, temperature=1e-3)
    result.loss.backward()
    assert torch.isfinite(query.grad).all()
    assert result.loss.item() == pytest.approx(1000 + torch.tensor(3.0).log().item())


def test_a_query_without_negatives_has_loss_zero():
    relations = Relations(
        torch.tensor([-1]),
        torch.tensor([0]),
        torch.tensor([0]),
        torch.tensor([0]),
        torch.ones(1, dtype=torch.int8),
    )
    query = torch.randn(1, 4, requires_grad=True)
    result = infonce(query, torch.randn(1, 4), relations, temperature=0.05)
    result.loss.backward()
    assert result.loss.item() == 0
    assert (query.grad == 0).all()
