"""The teacher's losses of one process's part of a step, with their weights.

Shapes: Q queries of the part, C candidates, D width of the student, W of the teacher.
"""

import torch
from torch.nn.functional import normalize

from conan_embed.device import to_device
from conan_embed.distillation.teacher import TeacherStep
from conan_embed.distributed import collectives
from conan_embed.objectives.balance import RetrievalPart
from conan_embed.objectives.distillation import cosines, embedding_distance, kl_divergence, margin_mse
from conan_embed.objectives.relations import IGNORED, NEGATIVE
from conan_embed.recipes.teaching import Teacher


def teacher_loss(
    part: RetrievalPart, teacher: TeacherStep, settings: Teacher, widths: tuple[int, ...]
) -> torch.Tensor:
    """Return the weighted sum of the teacher's losses; those of scores are means over the Matryoshka widths.

    The softmax of the KL runs over all candidates that the relations do not ignore, MarginMSE over all positives and
    negatives, as far as the teacher has scores.
    """
    loss = part.query_QD.new_zeros(())
    if settings.kl or settings.margin_mse:
        widths = widths or (part.query_QD.shape[1],)
        terms = [_of_scores(part, teacher, settings, width) for width in widths]
        loss = loss + torch.stack(terms).mean()
    if settings.embedding:
        loss = loss + settings.embedding * _of_embeddings(part, teacher)
    return loss


def _of_scores(part: RetrievalPart, teacher: TeacherStep, settings: Teacher, width: int) -> torch.Tensor:
    student_QC = cosines(part.query_QD[:, :width], part.candidate_CD[:, :width])
    relation_QC = to_device(part.relations.to_dense(), student_QC.device)
    loss = student_QC.new_zeros(())
    if settings.kl:
        loss = loss + settings.kl * kl_divergence(
            student_QC,
            teacher.score_QC,
            relation_QC != IGNORED,
            temperature=settings.temperature,
            teacher_temperature=settings.teacher_temperature,
            total_queries=part.total_queries,
        )
    if settings.margin_mse:
        row, column = part.relations.positives()
        positives = to_device(row, student_QC.device), to_device(column, student_QC.device)
        loss = loss + settings.margin_mse * margin_mse(
            student_QC,
            teacher.score_QC,
            positives,
            relation_QC == NEGATIVE,
            total_queries=part.total_queries,
        )
    return loss


def _of_embeddings(part: RetrievalPart, teacher: TeacherStep) -> torch.Tensor:
    """Queries and candidates count alike; each process takes its queries, and its share of the candidates."""
    assert teacher.query_QW is not None and teacher.candidate_CW is not None
    num_candidates = len(part.candidate_CD)
    mine = slice(*collectives.rank_slice(num_candidates))
    student = torch.cat([part.query_QD, part.candidate_CD[mine]])
    target = normalize(torch.cat([teacher.query_QW, teacher.candidate_CW[mine]]), dim=1)
    total = part.total_queries + num_candidates
    return embedding_distance(student[:, : target.shape[1]], target, total_texts=total)
