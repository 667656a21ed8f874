"""What teachers say of a step: against the teacher itself, pair by pair."""

import numpy as np
import pytest
import torch

from conan_embed.distillation.bank import axes_of, make_banks
from conan_embed.distillation.pair_scores import PairScores
from conan_embed.distillation.teacher import BiEncoderTeacher, PairTeacher
from conan_embed.objectives.relations import NEGATIVE, POSITIVE

CPU = torch.device("cpu")


def texts_of(tasks, plan):
    queries, candidates = (
        [tasks.store.text(int(i)) for i in plan.text_ids[positions.numpy()]]
        for positions in (plan.retrieval.query_Q, plan.retrieval.candidate_C)
    )
    return queries, candidates


def test_a_bi_encoder_knows_every_pair_of_a_step(step, teacher_model, tmp_path):
    tasks, _, plan = step
    banks = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    said = BiEncoderTeacher(*banks, margin=None, scale=3.0).score(plan, CPU)
    queries, candidates = texts_of(tasks, plan)
    query_QW = teacher_model.encode(queries, prompt="Q: ", precision="float32")
    candidate_CW = teacher_model.encode(candidates, prompt="P: ", precision="float32")
    np.testing.assert_allclose(said.score_QC, 3 * query_QW @ candidate_CW.T, atol=5e-3)
    np.testing.assert_allclose(said.query_QW, query_QW, atol=1e-3)
    np.testing.assert_allclose(said.candidate_CW, candidate_CW, atol=1e-3)
    assert not said.score_QC.isnan().any() and len(said.ignored[0]) == 0


def test_targets_are_projected_and_scores_and_guard_keep_the_whole_width(step, teacher_model, tmp_path):
    """Against a projection in float64."""
    tasks, _, plan = step
    banks = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    axes = axes_of(banks[1], 8, tmp_path)
    whole = BiEncoderTeacher(*banks, margin=0.0)
    projecting = BiEncoderTeacher(*banks, margin=0.0, axes_DW=axes)
    one, two = whole.score(plan, CPU), projecting.score(plan, CPU)
    assert torch.equal(one.score_QC, two.score_QC)
    assert all(map(torch.equal, one.ignored, two.ignored)) and len(one.ignored[0])
    for target, rows in ((two.query_QW, one.query_QW), (two.candidate_CW, one.candidate_CW)):
        expected = rows.numpy().astype(np.float64) @ axes
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(target, expected, atol=1e-5)
    assert not torch.allclose(two.query_QW @ two.candidate_CW.T, one.score_QC, atol=1e-2)
    assert whole.identity() != projecting.identity()


@pytest.mark.parametrize("margin", [-0.1, 0.0, 0.2])
def test_the_guard_ignores_what_the_teacher_puts_above_the_positive(step, teacher_model, tmp_path, margin):
    tasks, _, plan = step
    banks = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    said = BiEncoderTeacher(*banks, margin=margin).score(plan, CPU)
    relation, expected = plan.retrieval.relations.to_dense(), set()
    for q, row in enumerate(said.score_QC.tolist()):
        best = max(score for c, score in enumerate(row) if relation[q, c] == POSITIVE)
        expected |= {
            (q, c) for c, score in enumerate(row) if relation[q, c] == NEGATIVE and score > best + margin
        }
    assert set(zip(*(index.tolist() for index in said.ignored), strict=True)) == expected
    assert expected or margin > 0  # or nothing was looked at


def test_scores_of_pairs_reach_their_own_candidates_alone(step):
    tasks, _, plan = step
    content = tasks.store.content
    queries, candidates = plan.text_ids[plan.retrieval.query_Q], plan.text_ids[plan.retrieval.candidate_C]
    relation = plan.retrieval.relations.to_dense().numpy()
    row, column = (index.numpy() for index in plan.retrieval.hard_negative_pairs)
    scores = PairScores(
        content[queries[row]],
        content[candidates[column]],
        np.arange(len(row)),
        num_contents=content.max() + 1,
    )
    said = PairTeacher(scores, margin=None, scale=0.5).score(plan, CPU)
    for number, (q, c) in enumerate(zip(row, column, strict=True)):
        assert said.score_QC[q, c] == number / 2
    known = ~said.score_QC.isnan()
    assert known.sum() < relation.size / 2 and known.any()
