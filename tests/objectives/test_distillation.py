"""Losses of a teacher: against plain loops in float64, and against sentence-transformers' own on the same numbers."""

import math

import numpy as np
import pytest
import torch

from conan_embed.objectives.distillation import cosines, embedding_distance, kl_divergence, margin_mse
from conan_embed.objectives.relations import IGNORED, NEGATIVE, Relations

Q, N, D, W = 4, 3, 6, 9


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def own_candidates():
    """A positive and N negatives per query as columns of one matrix, as `Relations.one_positive` orders them."""
    relations = Relations.one_positive(Q, negatives_per_query=N)
    query, positive, negative = draw(Q, D, seed=1), draw(Q, D, seed=2), draw(Q, N, D, seed=3)
    candidates = torch.cat([positive, negative.flatten(0, 1)])
    label_QN = draw(Q, 1 + N, seed=4)
    teacher_QC = torch.full((Q, Q + Q * N), torch.nan, dtype=torch.float64)
    for i in range(Q):
        teacher_QC[i, i] = label_QN[i, 0]
        teacher_QC[i, Q + i * N : Q + (i + 1) * N] = label_QN[i, 1:]
    return relations, query, positive, negative, candidates, label_QN, teacher_QC


def gradient(loss, tensor):
    (found,) = torch.autograd.grad(loss, tensor)
    return found


@pytest.mark.parametrize("teacher_temperature", [None, 0.5])
def test_kl_is_that_of_sentence_transformers_without_its_factor(teacher_temperature):
    library = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    from sentence_transformers.util import pairwise_cos_sim

    relations, query, positive, negative, candidates, label_QN, teacher_QC = own_candidates()
    query.requires_grad_()
    counts = relations.to_dense() != IGNORED
    found = kl_divergence(
        cosines(query, candidates),
        teacher_QC,
        counts,
        temperature=0.3,
        teacher_temperature=teacher_temperature,
    )
    theirs = library.DistillKLDivLoss(
        torch.nn.Identity(),
        similarity_fct=pairwise_cos_sim,
        student_temperature=0.3,
        teacher_temperature=teacher_temperature or 0.3,
    )
    expected = theirs.compute_loss_from_embeddings([query, positive, *negative.unbind(1)], label_QN) / 0.3**2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(found, query), gradient(expected, query), rtol=1e-10, atol=1e-12)


def test_margin_mse_is_that_of_sentence_transformers():
    library = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    from sentence_transformers.util import pairwise_cos_sim

    relations, query, positive, negative, candidates, label_QN, teacher_QC = own_candidates()
    query.requires_grad_()
    negatives = relations.to_dense() == NEGATIVE
    found = margin_mse(cosines(query, candidates), teacher_QC, relations.positives(), negatives)
    theirs = library.MarginMSELoss(torch.nn.Identity(), similarity_fct=pairwise_cos_sim)
    expected = theirs.compute_loss_from_embeddings([query, positive, *negative.unbind(1)], label_QN)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(found, query), gradient(expected, query), rtol=1e-10, atol=1e-12)


def test_embedding_distance_is_that_of_sentence_transformers():
    library = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    student, teacher = draw(5, W, seed=1).requires_grad_(), draw(5, W, seed=2)
    found = embedding_distance(student, teacher)
    theirs = library.EmbedDistillLoss(torch.nn.Identity(), distance_metric="cosine")
    expected = theirs.compute_loss_from_embeddings([student], [teacher])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(found, student), gradient(expected, student), rtol=1e-10, atol=1e-12)


def ragged():
    """Several positives, ignored candidates, scores that the teacher does not have, a query without any."""
    generator = np.random.default_rng(0)
    relation = generator.choice([1, 0, -1, -1], (6, 10))
    relation[:, 0] = 1
    teacher = draw(6, 10, seed=5)
    teacher[torch.from_numpy(generator.random((6, 10)) < 0.3)] = torch.nan
    teacher[4] = torch.nan
    teacher[5, 1:] = torch.nan
    return Relations.from_dense(torch.from_numpy(relation)), relation, draw(6, 10, seed=6), teacher


def softmax(values, temperature):
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def test_kl_by_hand_where_scores_are_missing():
    relations, relation, student, teacher = ragged()
    student.requires_grad_()
    found = kl_divergence(
        student,
        teacher,
        relations.to_dense() != IGNORED,
        temperature=0.5,
        teacher_temperature=0.7,
        total_queries=11,
    )
    expected = 0.0
    for i in range(6):
        columns = [c for c in range(10) if relation[i, c] != 0 and not math.isnan(teacher[i, c])]
        if len(columns) < 2:
            continue
        p = softmax([teacher[i, c].item() for c in columns], 0.7)
        q = softmax([student[i, c].item() for c in columns], 0.5)
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 11
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert torch.isfinite(gradient(found, student)).all()


def test_margin_mse_by_hand_where_scores_are_missing():
    relations, relation, student, teacher = ragged()
    student.requires_grad_()
    found = margin_mse(
        student, teacher, relations.positives(), relations.to_dense() == NEGATIVE, total_queries=11
    )
    expected = 0.0
    for i in range(6):
        of_positives = []
        for p in np.flatnonzero(relation[i] == 1):
            errors = [
                ((student[i, p] - student[i, c]) - (teacher[i, p] - teacher[i, c])).item() ** 2
                for c in np.flatnonzero(relation[i] == -1)
                if not math.isnan(teacher[i, p] - teacher[i, c])
            ]
            if errors:
                of_positives.append(sum(errors) / len(errors))
        expected += sum(of_positives) / max(1, len(of_positives)) / 11
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert torch.isfinite(gradient(found, student)).all()


def test_parts_of_the_queries_add_up():
    relations, _, student, teacher = ragged()
    counts, negative = relations.to_dense() != IGNORED, relations.to_dense() == NEGATIVE
    whole = [
        kl_divergence(student, teacher, counts, temperature=0.5),
        margin_mse(student, teacher, relations.positives(), negative),
    ]
    parts = [torch.zeros((), dtype=torch.float64) for _ in whole]
    for rows in (slice(0, 2), slice(2, 6)):
        part = relations.part(rows.start, rows.stop)
        parts[0] += kl_divergence(
            student[rows], teacher[rows], counts[rows], temperature=0.5, total_queries=6
        )
        parts[1] += margin_mse(
            student[rows], teacher[rows], part.positives(), negative[rows], total_queries=6
        )
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
