"""The teacher's losses of a step: weights, Matryoshka widths, embeddings."""

import pytest
import torch

from conan_embed.distillation.bank import axes_of, make_banks
from conan_embed.distillation.losses import teacher_loss
from conan_embed.distillation.teacher import BiEncoderTeacher
from conan_embed.objectives.balance import RetrievalPart
from conan_embed.objectives.relations import IGNORED
from conan_embed.recipes.teaching import Teacher

CPU = torch.device("cpu")


def test_losses_are_weighted_and_averaged_over_the_widths(step, student, teacher_model, tmp_path):
    tasks, _, plan = step
    banks = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    axes = axes_of(banks[1], 8, tmp_path)
    said = BiEncoderTeacher(*banks, margin=None, axes_DW=axes).score(plan, CPU)
    part = RetrievalPart(
        torch.randn(len(said.score_QC), 8),
        torch.randn(said.score_QC.shape[1], 8),
        plan.retrieval.relations,
        len(said.score_QC),
        plan.retrieval.hard_negative_pairs,
    )

    def loss(widths=(), **weights):
        return teacher_loss(part, said, Teacher(model="t", **weights), widths).item()

    kl, margins, embedding = (loss(**{name: 1.0}) for name in ("kl", "margin_mse", "embedding"))
    assert min(kl, margins, embedding) > 0
    assert loss(kl=2.0, margin_mse=0.5, embedding=3.0) == pytest.approx(2 * kl + margins / 2 + 3 * embedding)
    narrow = RetrievalPart(part.query_QD[:, :4], part.candidate_CD[:, :4], *list(vars(part).values())[2:])
    of_four = teacher_loss(narrow, said, Teacher(model="t", kl=1.0), ()).item()
    assert loss(widths=(8, 4), kl=1.0) == pytest.approx((kl + of_four) / 2)
    student_NW = torch.nn.functional.normalize(torch.cat([part.query_QD, part.candidate_CD]), dim=1)
    target_NW = torch.nn.functional.normalize(torch.cat([said.query_QW, said.candidate_CW]), dim=1)
    assert embedding == pytest.approx(1 - (student_NW * target_NW).sum(1).mean().item(), rel=1e-5)
    assert (plan.retrieval.relations.to_dense() == IGNORED).any()
