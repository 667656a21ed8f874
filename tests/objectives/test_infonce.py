"""InfoNCE against the formula of the paper, written out in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.objectives.infonce import infonce
from conan_embed.objectives.relations import IGNORED, NEGATIVE, POSITIVE, Relations


def slow_infonce(query, candidate, relation, temperature, widths, ignore_above=None):
    """The equation, one query, one positive and one width at a time."""
    if ignore_above is not None:
        relation = slow_guard(query, candidate, relation, ignore_above, max(widths))
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


def slow_guard(query, candidate, relation, margin, width):
    """The relations without the negatives that lie above the query's best positive by more than the margin."""
    relation = relation.clone()
    cosine = torch.cosine_similarity(query[:, None, :width], candidate[None, :, :width], dim=2)
    for i in range(len(query)):
        positives = [cosine[i, p].item() for p in range(len(candidate)) if relation[i, p] == POSITIVE]
        for j in range(len(candidate)):
            if relation[i, j] == NEGATIVE and positives and cosine[i, j] > max(positives) + margin:
                relation[i, j] = IGNORED
    return relation


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
    ignore_above=st.sampled_from([None, 0.0, 0.1, -0.2]),
)
def test_loss_and_gradient_equal_the_formula(seed, block_rows, widths, ignore_above):
    query, candidate, relations = random_step(seed)
    query.requires_grad_(), candidate.requires_grad_()
    result = infonce(
        query,
        candidate,
        relations,
        temperature=0.1,
        widths=widths,
        block_rows=block_rows,
        ignore_above=ignore_above,
    )
    (result.loss * 1.7).backward()
    gradients = query.grad, candidate.grad
    query.grad = candidate.grad = None
    expected = slow_infonce(query, candidate, relations.rows(0, 5), 0.1, widths, ignore_above)
    (expected * 1.7).backward()
    torch.testing.assert_close(result.loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients[0], query.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradients[1], candidate.grad, rtol=1e-8, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    block_rows=st.sampled_from([1, 3, 100]),
    widths=st.sampled_from([(12,), (3, 5, 12), (2, 8)]),
    ignore_above=st.sampled_from([None, 0.0, -0.2]),
)
def test_shares_are_those_of_the_softmax_written_out(seed, block_rows, widths, ignore_above):
    """At full width, over what is left of the negatives; also of a query that has no positive, which has none."""
    query, candidate, relations = random_step(seed)
    relations.value_X[(relations.row_X == 2) & (relations.value_X == POSITIVE)] = IGNORED
    row, column = torch.nonzero(torch.rand(5, 11, generator=torch.Generator().manual_seed(seed)) < 0.3).T
    pairs = row.contiguous(), column.contiguous()
    result = infonce(
        query,
        candidate,
        relations,
        temperature=0.1,
        widths=widths,
        hard_negative_pairs=pairs,
        ignore_above=ignore_above,
        block_rows=block_rows,
    )
    width = max(widths)
    before = relations.to_dense()
    after = before
    if ignore_above is not None:
        after = slow_guard(query, candidate, before, ignore_above, width)
    weight = torch.exp(
        torch.cosine_similarity(query[:, None, :width], candidate[None, :, :width], dim=2) / 0.1
    )
    for i in range(5):
        own = [k for k in range(len(row)) if row[k] == i]
        positives = [weight[i, p] for p in range(11) if after[i, p] == POSITIVE]
        negatives = sum(weight[i, j] for j in range(11) if after[i, j] == NEGATIVE)
        hard = sum(weight[i, column[k]] for k in own if after[i, column[k]] == NEGATIVE)
        if not positives:
            assert result.positive_share_Q[i].isnan() and result.hard_share_Q[i].isnan()
            assert result.hard_share_X[own].isnan().all()
            continue
        shares = [(p / (p + negatives), hard / (p + negatives)) for p in positives]
        positive_share, hard_share = (
            float(sum(column)) / len(shares) for column in zip(*shares, strict=True)
        )
        assert result.positive_share_Q[i].item() == pytest.approx(positive_share, abs=1e-12)
        assert result.hard_share_Q[i].item() == pytest.approx(hard_share, abs=1e-12)
        assert result.ignored_Q[i] == int((before[i] != after[i]).sum())
        for k in own:
            one = weight[i, column[k]] if after[i, column[k]] == NEGATIVE else 0
            expected = float(one / (one + max(positives)))
            assert result.hard_share_X[k].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ignore_above", [None, 0.0])
def test_rows_shared_out_add_up_to_the_whole(ignore_above):
    query, candidate, relations = random_step(3)
    options = {"temperature": 0.1, "ignore_above": ignore_above}
    whole = infonce(query, candidate, relations, **options)
    parts = [
        infonce(query[a:b], candidate, relations.part(a, b), total_queries=5, **options)
        for a, b in ((0, 2), (2, 2), (2, 5))
    ]
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss, rtol=1e-12, atol=1e-12)
    for name in ("positive_share_Q", "hard_share_Q", "ignored_Q"):
        torch.testing.assert_close(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


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
