"""Losses that pull a student to its teacher: by scores of a step's candidates, by margins, by embeddings.

Scores are cosines of the student and whatever the teacher gives (cosines, logits, labels). Where the teacher has no
score (nan) a candidate does not count.

    KL         sum_c p(c) log(p(c) / q(c)),  p = softmax(teacher / tau_t),  q = softmax(student / tau)
    MarginMSE  mean_n ((s(pos) - s(n)) - (t(pos) - t(n)))^2                   Hofstaetter et al. 2020
    embedding  mean over texts of 1 - cos(student, teacher)

KL is that of sentence-transformers' DistillKLDivLoss without its factor tau^2, which would make the loss vanish beside
InfoNCE at the temperatures of retrieval; the others are MarginMSELoss and EmbedDistillLoss ("cosine").

Every loss is divided by the queries (texts) of the whole step, so that the sum over the processes is that of the step.

Shapes: Q queries, C candidates, X pairs of a query and a positive, N texts, W width of the teacher.
"""

import torch
from torch.nn.functional import cosine_similarity, log_softmax, normalize


def cosines(query_QD: torch.Tensor, candidate_CD: torch.Tensor) -> torch.Tensor:
    """Return the cosines [Q, C] of rows of any length."""
    return normalize(query_QD, dim=1) @ normalize(candidate_CD, dim=1).T


def kl_divergence(
    student_QC: torch.Tensor,
    teacher_QC: torch.Tensor,
    counts_QC: torch.Tensor,
    *,
    temperature: float,
    teacher_temperature: float | None = None,
    total_queries: int | None = None,
) -> torch.Tensor:
    """Return the KL divergence of the student's softmax over candidates from the teacher's, mean over queries.

    Args:
        student_QC, teacher_QC: scores; nan where the teacher has none.
        counts_QC: bool, the candidates of each query that take part. Queries with fewer than two add nothing.
        temperature, teacher_temperature: tau and tau_t; the same when None.
        total_queries: divide by this many queries instead of Q, where rows are shared out over processes.

    Example:
        >>> student, teacher = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
        >>> everything = torch.ones(1, 2, dtype=torch.bool)
        >>> round(kl_divergence(student, teacher, everything, temperature=1.0).item(), 4)
        0.1109
        >>> kl_divergence(teacher, teacher, everything, temperature=1.0).item()
        0.0
    """
    counts_QC = counts_QC & ~teacher_QC.isnan()
    counts_QC = counts_QC & (counts_QC.sum(dim=1, keepdim=True) > 1)
    lowest = torch.finfo(student_QC.dtype).min / 4  # finite: no nan in gradients of what is masked
    log_q = log_softmax((student_QC / temperature).masked_fill(~counts_QC, lowest), dim=1)
    teacher = teacher_QC.to(student_QC.dtype) / (teacher_temperature or temperature)
    log_p = log_softmax(teacher.masked_fill(~counts_QC, lowest), dim=1)
    terms_QC = torch.where(counts_QC, log_p.exp() * (log_p - log_q), torch.zeros_like(log_q))
    return terms_QC.sum() / (total_queries or max(1, len(student_QC)))


def margin_mse(
    student_QC: torch.Tensor,
    teacher_QC: torch.Tensor,
    positives: tuple[torch.Tensor, torch.Tensor],
    negative_QC: torch.Tensor,
    *,
    total_queries: int | None = None,
) -> torch.Tensor:
    """Return the squared error of the margins between positives and negatives: mean over a query's, then over queries.

    Args:
        positives: rows and columns [X] of the positives, on the scores' device.
        negative_QC: bool, the negatives of each query.
        total_queries: as in `kl_divergence`.

    Example:
        >>> student, teacher = torch.tensor([[0.9, 0.4]]), torch.tensor([[1.0, 0.0]])
        >>> positive = torch.tensor([0]), torch.tensor([0])
        >>> round(margin_mse(student, teacher, positive, torch.tensor([[False, True]])).item(), 4)
        0.25
    """
    row_X, column_X = positives
    teacher_QC = teacher_QC.to(student_QC.dtype)
    target_XC = teacher_QC[row_X, column_X, None] - teacher_QC[row_X]
    margin_XC = student_QC[row_X, column_X, None] - student_QC[row_X]
    counts_XC = negative_QC[row_X] & ~target_XC.isnan()
    error_XC = torch.where(counts_XC, margin_XC - target_XC, torch.zeros_like(margin_XC))
    pairs_X = counts_XC.sum(dim=1)
    usable_Q = torch.zeros(len(student_QC), dtype=error_XC.dtype, device=error_XC.device)
    usable_Q.index_add_(0, row_X, (pairs_X > 0).to(error_XC.dtype))
    weight_X = 1 / (pairs_X.clamp(min=1) * usable_Q[row_X].clamp(min=1))
    return (error_XC.square().sum(dim=1) * weight_X).sum() / (total_queries or max(1, len(student_QC)))


def embedding_distance(
    student_NW: torch.Tensor, teacher_NW: torch.Tensor, *, total_texts: int | None = None
) -> torch.Tensor:
    """Return 1 - cosine of each text's two embeddings, mean over the texts.

    Args:
        total_texts: divide by this many texts instead of N, where they are shared out over processes.

    Example:
        >>> embedding_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item()
        1.0
    """
    distance_N = 1 - cosine_similarity(student_NW, teacher_NW.to(student_NW.dtype), dim=1)
    return distance_N.sum() / (total_texts or max(1, len(student_NW)))
