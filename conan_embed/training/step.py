"""One optimizer step: share out, embed, gather, joint loss, backward, update.

    plan (pure) -> texts to processes -> packed forward -> all embeddings, with gradient -> this process's rows of the
    loss -> backward, which sums the gradients over the processes (train_module.py) -> AdamW

Shapes: U unique texts of the step, X pairs of a query and its own hard negative, D width.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import xxhash

from conan_embed.console import console
from conan_embed.device import AsyncHostCopy, to_device
from conan_embed.distillation.losses import teacher_loss
from conan_embed.distillation.teacher import Teacher, TeacherStep
from conan_embed.distributed import collectives
from conan_embed.distributed.placement import shares
from conan_embed.encoder.encode import autocast
from conan_embed.errors import UserError
from conan_embed.negatives.background import Backgrounds, StepMeans, above_background
from conan_embed.negatives.table import NegativeTable
from conan_embed.objectives.balance import JointLoss, RetrievalPart, StsPart, joint_loss
from conan_embed.objectives.spread import spread_out
from conan_embed.planning.plan import RetrievalPlan, StepPlan, StsPlan
from conan_embed.recipes import teaching
from conan_embed.recipes.sections import Loss
from conan_embed.training import figures
from conan_embed.training.train_module import PackedShare, TrainModule


@dataclass(frozen=True)
class StepResult:
    """What a step came to; the same on every process.

    Attributes:
        loss, retrieval, sts: the joint loss and its parts, None where the step has no such part.
        positive_score, negative_score: mean cosine of the queries with their positives, and with their hard negatives.
        positive_share, hard_share, in_batch_share: mean shares of the softmax, together 1.
        ignored: candidates per query that the guard left out; None without a guard.
        teacher: the teacher's losses, weighted, and
        guarded: the candidates per query that its guard left out; None without a teacher.
        spread: the spread-out term, weighted; None without one.
        background: mean cosine of a query and any candidate.
        gradient_norm: before clipping.
        texts, tokens, seconds: of the step.
        negative_X, share_X: float64, cosine and share of each hard negative of the plan.
        embedding_UD: of the step's unique texts, without gradient.
    """

    loss: float
    retrieval: float | None
    sts: float | None
    positive_score: float | None
    negative_score: float | None
    positive_share: float | None
    hard_share: float | None
    in_batch_share: float | None
    ignored: float | None
    teacher: float | None
    guarded: float | None
    spread: float | None
    background: float | None
    gradient_norm: float
    texts: int
    tokens: int
    seconds: float
    negative_X: np.ndarray
    share_X: np.ndarray
    embedding_UD: torch.Tensor


class NotFinite(UserError):
    """The loss or the gradient turned NaN or infinite."""


@dataclass(frozen=True)
class ReadyStep:
    """A step's plan, and this process's texts of it on its device.

    Attributes:
        parts: for every process the positions of its texts among the U.
        teacher: what the teacher says of this process's queries; None without one.
    """

    plan: StepPlan
    parts: list[np.ndarray]
    share: PackedShare
    teacher: TeacherStep | None = None


def make_ready(module: TrainModule, plan: StepPlan, teacher: Teacher | None = None) -> ReadyStep:
    """Share the step's texts out and pack this process's; can be done while a GPU still works on the step before."""
    lengths = plan.texts.lengths(plan.text_ids)
    settings, world_size = module.settings, collectives.world_size()
    parts = shares(lengths, plan.is_sts, world_size, settings.placement, sts_share=settings.sts_share)
    share = module.pack_share(plan.texts, [plan.text_ids[part] for part in parts])
    if teacher is None or plan.retrieval is None:
        return ReadyStep(plan, parts, share)
    return ReadyStep(plan, parts, share, teacher.score(plan, module.model.device, module.model.dtype))


def embed_step(module: TrainModule, ready: ReadyStep) -> torch.Tensor:
    """Embed the step's texts, each process its share; return all of them on every process, [U, D], with gradient."""
    with autocast(module.model.device, module.settings.precision):
        local = module.embed_share(ready.share)
    embeddings = collectives.all_gather_rows(local, [len(part) for part in ready.parts])
    order = np.argsort(np.concatenate(ready.parts))
    return embeddings.index_select(0, to_device(order, embeddings.device))


def step_loss(
    embedding_UD: torch.Tensor,
    plan: StepPlan,
    settings: Loss,
    widths: tuple[int, ...],
    teacher: TeacherStep | None = None,
    teacher_settings: teaching.Teacher | None = None,
) -> JointLoss:
    """Return this process's part of the joint loss of the step, at the given Matryoshka widths."""
    retrieval = None if plan.retrieval is None else _retrieval_part(embedding_UD, plan.retrieval, teacher)
    taught = None
    if retrieval is not None and teacher is not None and teacher_settings is not None:
        taught = teacher_loss(retrieval, teacher, teacher_settings, widths)
    spread = None
    if plan.retrieval is not None and settings.spread_out is not None:
        spread = settings.spread_out * _spread_part(embedding_UD, plan.retrieval, widths)
    return joint_loss(
        retrieval,
        None if plan.sts is None else _sts_part(embedding_UD, plan.sts),
        temperature=settings.temperature,
        sts_temperature=settings.sts_temperature,
        beta=settings.beta,
        widths=widths,
        ignore_above=settings.ignore_above_positive,
        contrastive=1.0 if teacher_settings is None else teacher_settings.contrastive,
        teacher=taught,
        spread=spread,
    )


def _retrieval_part(
    embedding_UD: torch.Tensor, plan: RetrievalPlan, teacher: TeacherStep | None
) -> RetrievalPart:
    start, stop = collectives.rank_slice(len(plan.rows))
    rows, columns = plan.hard_negative_pairs
    first, last = np.searchsorted(rows.numpy(), [start, stop])
    relations = plan.relations.part(start, stop)
    if teacher is not None and len(teacher.ignored[0]):
        relations = relations.ignoring(*teacher.ignored)
    return RetrievalPart(
        _rows(embedding_UD, plan.query_Q[start:stop]),
        _rows(embedding_UD, plan.candidate_C),
        relations,
        len(plan.rows),
        (rows[first:last] - start, columns[first:last]),
    )


def _spread_part(embedding_UD: torch.Tensor, plan: RetrievalPlan, widths: tuple[int, ...]) -> torch.Tensor:
    """Return this process's part of the spread-out term, of the step's queries and of their positives."""
    positives = plan.candidate_C[plan.relations.positives()[1]]
    kinds = [torch.unique(texts) for texts in (plan.query_Q, positives)]
    parts = [
        spread_out(_rows(embedding_UD, texts), widths, collectives.rank_slice(len(texts))) for texts in kinds
    ]
    return torch.stack(parts).sum()


def _sts_part(embedding_UD: torch.Tensor, plan: StsPlan) -> StsPart:
    left, right = _rows(embedding_UD, plan.left_P), _rows(embedding_UD, plan.right_P)
    return StsPart(left, right, plan.label_P, plan.group_P, 1 / collectives.world_size())


def _rows(embedding_UD: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return embedding_UD.index_select(0, to_device(positions, embedding_UD.device))


def train_step(
    module: TrainModule,
    ready: ReadyStep,
    loss_settings: Loss,
    teacher_settings: teaching.Teacher | None = None,
    *,
    max_grad_norm: float | None,
    meanwhile: Callable[[], None] = lambda: None,
) -> StepResult:
    """Do one optimizer step.

    Args:
        loss_settings, teacher_settings: the recipe's sections.
        meanwhile: called when all work but the update is queued, before the one wait for its results: on a GPU what it
            does costs nothing.

    Raises:
        NotFinite: loss or gradient is NaN or infinite; the parameters are as before.
        UserError: out of memory, and smaller chunks are of no use or several processes take part.
    """
    started = time.perf_counter()
    plan = ready.plan
    embedding_UD, loss = _forward_and_back_within_memory(module, ready, loss_settings, teacher_settings)
    norm = module.clip_gradient(max_grad_norm)
    guarded = 0 if ready.teacher is None else len(ready.teacher.ignored[0])
    copy = AsyncHostCopy(figures.collect(loss, norm, embedding_UD, plan, guarded))
    meanwhile()
    seen = figures.read(copy.numpy(), plan)
    try:
        _check_finite(seen, plan)
        module.optimizer.step()
    finally:
        module.optimizer.zero_grad(set_to_none=True)
    has_guard = loss_settings.ignore_above_positive is not None
    return _result(
        seen,
        plan,
        embedding_UD.detach(),
        started,
        has_guard=has_guard,
        has_teacher=ready.teacher is not None,
        has_spread=loss.spread is not None,
    )


def _forward_and_back_within_memory(
    module: TrainModule, ready: ReadyStep, settings: Loss, teacher_settings: teaching.Teacher | None
) -> tuple[torch.Tensor, JointLoss]:
    """Return the step's embeddings and loss; after an out-of-memory error, once more with smaller chunks."""
    while True:
        try:
            return _forward_and_back(module, ready, settings, teacher_settings)
        except torch.OutOfMemoryError as error:
            reason = str(error).split(". ")[0]
        # Outside of the handler: the error holds on to the tensors of the pass that failed.
        _make_room(module, ready, reason)
        ready = replace(make_ready(module, ready.plan), teacher=ready.teacher)


def _check_finite(seen: figures.Figures, plan: StepPlan) -> None:
    for name, value in (("loss", seen.total), ("gradient norm", seen.gradient_norm)):
        if not np.isfinite(value):
            raise NotFinite(
                f"step {plan.step + 1}: the {name} is {value}, expected a finite number; {plan.description}."
            )


def _result(
    seen: figures.Figures,
    plan: StepPlan,
    embedding_UD: torch.Tensor,
    started: float,
    *,
    has_guard: bool,
    has_teacher: bool,
    has_spread: bool,
) -> StepResult:
    has_retrieval, has_sts = plan.retrieval is not None, plan.sts is not None
    return StepResult(
        loss=seen.total,
        retrieval=seen.retrieval if has_retrieval else None,
        sts=seen.sts if has_sts else None,
        positive_score=figures.mean(seen.positive_Q),
        negative_score=figures.mean_per_query(seen.negative_X, plan),
        positive_share=figures.mean(seen.positive_share_Q),
        hard_share=figures.mean(seen.hard_share_Q),
        in_batch_share=figures.mean(seen.in_batch_share_Q),
        ignored=figures.mean(seen.ignored_Q) if has_guard else None,
        teacher=seen.teacher if has_teacher else None,
        guarded=seen.guarded / len(seen.positive_Q) if has_teacher else None,
        spread=seen.spread if has_spread else None,
        background=seen.background if has_retrieval else None,
        gradient_norm=seen.gradient_norm,
        texts=len(plan.text_ids),
        tokens=int(plan.texts.lengths(plan.text_ids).sum()),
        seconds=time.perf_counter() - started,
        negative_X=seen.negative_X,
        share_X=seen.share_X,
        embedding_UD=embedding_UD,
    )


def observe_negatives(table: NegativeTable, plan: StepPlan, result: StepResult) -> None:
    """Note in the table how the hard negatives of a step have scored."""
    if plan.retrieval is None:
        return
    score_X = result.negative_X
    if table.backgrounds is not None:
        table.backgrounds.update(_step_means(table.backgrounds, plan.retrieval, result.embedding_UD))
        row_X = plan.retrieval.rows[plan.retrieval.hard_negative_pairs[0].numpy()]
        score_X = above_background(score_X, table.backgrounds.of(row_X))
    score_QN, share_QN = (
        figures.by_slot(values_X, plan, table.num_negatives) for values_X in (score_X, result.share_X)
    )
    table.observe(plan.retrieval.rows, score_QN, share_QN)


def _step_means(backgrounds: Backgrounds, plan: RetrievalPlan, embedding_UD: torch.Tensor) -> StepMeans:
    row_X, column_X = plan.relations.positives()
    answered_Q, query_X = np.unique(row_X.numpy(), return_inverse=True)
    sets, set_Q = np.unique(backgrounds.set_of(plan.rows[answered_Q]), return_inverse=True)
    unit_UD = torch.nn.functional.normalize(embedding_UD.float(), dim=1)
    means = [
        _means(_rows(unit_UD, texts), number, len(sets))
        for texts, number in ((plan.query_Q[answered_Q], set_Q), (plan.candidate_C[column_X], set_Q[query_X]))
    ]
    return StepMeans(sets, np.bincount(set_Q), *means)


def _means(rows_ND: torch.Tensor, number_N: np.ndarray, count: int) -> np.ndarray:
    """Return float32 [count, D], the mean of the rows of each number; the same on every process, bit for bit."""
    is_of_SN = np.arange(count)[:, None] == number_N
    weight_SN = torch.from_numpy(is_of_SN / is_of_SN.sum(axis=1, keepdims=True)).to(rows_ND)
    return (weight_SN @ rows_ND).cpu().numpy()  # a sum by index would add in another order each time


def _forward_and_back(
    module: TrainModule, ready: ReadyStep, settings: Loss, teacher_settings: teaching.Teacher | None
) -> tuple[torch.Tensor, JointLoss]:
    # Dropout must not depend on what came before, or a resumed run would differ.
    keys = np.array([module.settings.seed, ready.plan.step, collectives.rank()], np.int64)
    torch.manual_seed(xxhash.xxh3_64_intdigest(keys.tobytes()) >> 1)
    embedding_UD = embed_step(module, ready)
    loss = step_loss(embedding_UD, ready.plan, settings, module.model.widths, ready.teacher, teacher_settings)
    loss.total.backward()
    return embedding_UD, loss


def _make_room(module: TrainModule, ready: ReadyStep, reason: str) -> None:
    """After an out-of-memory error: forget the failed pass, make chunks smaller, and say so."""
    step, budget = ready.plan.step + 1, ready.share.token_budget
    module.optimizer.zero_grad(set_to_none=True)
    if collectives.world_size() > 1:  # the others wait in the middle of a pass that cannot be taken up again
        raise UserError(
            f"step {step}: {reason}; expected a smaller training.chunk_tokens (it was {budget:,}), "
            "training.activation_checkpointing: true, or a smaller step."
        )
    if not module.memory.shrink(budget):
        raise UserError(
            f"step {step}: {reason}, even with chunks of {budget:,} tokens; expected a smaller step or model."
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    console.print(
        f"step {step}: {reason}; from here on activations are computed again, in chunks of "
        f"{module.memory.chunk_tokens:,} tokens. Results stay the same up to rounding, and to dropout's masks."
    )
