"""The joint loss of a step: Cross-GPU Batch Balance (section 3 of the paper).

    L = L_retrieval + beta * L_sts (+ L_teacher, distillation.py; + L_spread, spread.py)

Every step holds all tasks in a fixed balance, never one task drawn at random. Neither term knows how many processes
embedded the texts.
"""

from dataclasses import dataclass

import torch

from conan_embed.objectives.cosent import cosent_of_pairs
from conan_embed.objectives.infonce import InfoNCE, infonce
from conan_embed.objectives.relations import Relations


@dataclass(frozen=True)
class JointLoss:
    """Loss of this process's part of a step, and what it saw; the sum over all processes is the loss of the step.

    Attributes:
        total: scalar, differentiable.
        retrieval, sts: scalars without gradient, or None where the step holds no such task.
        nce: the retrieval loss of this part's queries with its scores and shares, or None.
        teacher: the teacher's losses, weighted, without gradient; None without a teacher.
        spread: the spread-out term, weighted, without gradient; None without one.
    """

    total: torch.Tensor
    retrieval: torch.Tensor | None
    sts: torch.Tensor | None
    nce: InfoNCE | None
    teacher: torch.Tensor | None = None
    spread: torch.Tensor | None = None


@dataclass(frozen=True)
class RetrievalPart:
    """The rows of the retrieval loss that one process works out; fields as in `infonce`."""

    query_QD: torch.Tensor
    candidate_CD: torch.Tensor
    relations: Relations
    total_queries: int
    hard_negative_pairs: tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class StsPart:
    """All STS pairs of a step; fields as in `cosent_of_pairs`. `share`: this process's share of the loss."""

    left_PD: torch.Tensor
    right_PD: torch.Tensor
    label_P: torch.Tensor
    group_P: torch.Tensor
    share: float


def joint_loss(
    retrieval: RetrievalPart | None,
    sts: StsPart | None,
    *,
    temperature: float,
    sts_temperature: float,
    beta: float,
    widths: tuple[int, ...],
    ignore_above: float | None = None,
    contrastive: float = 1.0,
    teacher: torch.Tensor | None = None,
    spread: torch.Tensor | None = None,
) -> JointLoss:
    """Return L_retrieval + beta * L_sts of a step (or of one process's part of it).

    Args:
        temperature, ignore_above: of the retrieval loss, see `infonce`.
        sts_temperature: of CoSENT.
        widths: Matryoshka prefixes of both.
        contrastive: weight of the retrieval loss.
        teacher, spread: this process's part of the teacher's losses and of the spread-out term, already weighted.
    """
    parts: list[torch.Tensor] = []
    nce = cosent = None
    if retrieval is not None:
        nce = infonce(
            retrieval.query_QD,
            retrieval.candidate_CD,
            retrieval.relations,
            temperature=temperature,
            widths=widths,
            total_queries=retrieval.total_queries,
            hard_negative_pairs=retrieval.hard_negative_pairs,
            ignore_above=ignore_above,
        )
        parts.append(contrastive * nce.loss)
    if sts is not None:
        cosent, _ = cosent_of_pairs(
            sts.left_PD, sts.right_PD, sts.label_P, sts.group_P, temperature=sts_temperature, widths=widths
        )
        cosent = cosent * sts.share
        parts.append(beta * cosent)
    parts += [term for term in (teacher, spread) if term is not None]
    return JointLoss(
        torch.stack(parts).sum(),
        None if nce is None else nce.loss.detach(),
        None if cosent is None else cosent.detach(),
        nce,
        None if teacher is None else teacher.detach(),
        None if spread is None else spread.detach(),
    )
