"""One optimizer step: share out, embed, gather, joint loss, backward, update.

    plan (pure) -> texts to processes -> packed forward -> all embeddings, with gradient -> this process's rows of the
    loss -> backward, which sums the gradients over the processes (train_module.py) -> AdamW

Shapes: U unique texts of the step, D width.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from conan_embed.console import console
from conan_embed.device import AsyncHostCopy, to_device
from conan_embed.distributed import collectives
from conan_embed.distributed.placement import shares
from conan_embed.encoder.encode import autocast
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.negatives.background import above_background
from conan_embed.negatives.table import NegativeTable
from conan_embed.objectives.balance import JointLoss, RetrievalPart, StsPart, joint_loss
from conan_embed.planning.plan import StepPlan
from conan_embed.recipes.schema import Recipe
from conan_embed.training import figures
from conan_embed.training.train_module import PackedShare, TrainModule


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself; the same on every process."""

    loss: float
    retrieval: float | None
    sts: float | None
    positive_score: float | None
    negative_score: float | None
    positive_share: float | None  # of the softmax; with the next two 1 in all
    hard_share: float | None
    in_batch_share: float | None
    ignored: float | None  # candidates per query that the guard left out; None without a guard
    background: float | None  # mean cosine of a query and any candidate
    gradient_norm: float
    texts: int
    tokens: int
    seconds: float
    embedding_UD: torch.Tensor  # of the step's unique texts, without gradient


class NotFinite(UserError):
    """The loss or the gradient turned NaN or infinite."""


def learning_rate(recipe: Recipe, step: int, num_steps: int) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, then the schedule down to 0."""
    settings = recipe.optimizer
    warmup = round(settings.warmup_ratio * num_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - progress)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + float(np.cos(np.pi * progress)))
    return settings.learning_rate


@dataclass(frozen=True)
class ReadyStep:
    """A step's plan, and this process's texts of it on its device.

    Attributes:
        parts: for every process the places of its texts among the U.
    """

    plan: StepPlan
    parts: list[np.ndarray]
    share: PackedShare


def make_ready(train_module: TrainModule, plan: StepPlan, recipe: Recipe) -> ReadyStep:
    """Share the step's texts out and pack this process's; can be done while a GPU still works on the step before."""
    parts = shares(
        plan.texts.lengths(plan.text_ids),
        plan.is_sts,
        collectives.world_size(),
        recipe.training.placement,
        sts_share=recipe.training.sts_share,
    )
    return ReadyStep(
        plan, parts, train_module.pack_share(plan.texts, [plan.text_ids[part] for part in parts])
    )


def embed_step(train_module: TrainModule, ready: ReadyStep, recipe: Recipe) -> torch.Tensor:
    """Embed the step's texts, each process its share; return all of them on every process, [U, D], with gradient."""
    with autocast(train_module.model.device, recipe.training.precision):
        local = train_module.embed_share(ready.share)
    gathered = collectives.all_gather_rows(local, [len(part) for part in ready.parts])
    return gathered.index_select(0, to_device(np.argsort(np.concatenate(ready.parts)), gathered.device))


def step_loss(model: EmbeddingModel, embedding_UD: torch.Tensor, plan: StepPlan, recipe: Recipe) -> JointLoss:
    """Return this process's part of the joint loss of the step."""
    device = embedding_UD.device
    retrieval = sts = None
    if plan.retrieval is not None:
        start, stop = collectives.rank_slice(len(plan.retrieval.rows))
        rows, columns = plan.retrieval.hard_negative_pairs
        first, last = np.searchsorted(rows.numpy(), [start, stop])
        retrieval = RetrievalPart(
            embedding_UD.index_select(0, to_device(plan.retrieval.query_Q[start:stop], device)),
            embedding_UD.index_select(0, to_device(plan.retrieval.candidate_C, device)),
            plan.retrieval.relations.part(start, stop),
            len(plan.retrieval.rows),
            (rows[first:last] - start, columns[first:last]),
        )
    if plan.sts is not None:
        sts = StsPart(
            embedding_UD.index_select(0, to_device(plan.sts.left_P, device)),
            embedding_UD.index_select(0, to_device(plan.sts.right_P, device)),
            plan.sts.label_P,
            plan.sts.group_P,
            1 / collectives.world_size(),
        )
    return joint_loss(
        retrieval,
        sts,
        temperature=recipe.loss.temperature,
        sts_temperature=recipe.loss.sts_temperature,
        beta=recipe.loss.beta,
        widths=model.widths,
        ignore_above=recipe.loss.ignore_above_positive,
    )


def train_step(
    train_module: TrainModule,
    plan: StepPlan | ReadyStep,
    table: NegativeTable | None,
    recipe: Recipe,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> StepResult:
    """Do one optimizer step and note the scores of the hard negatives in the table.

    Args:
        meanwhile: called when all work but the update is queued, before the one wait for its results: on a GPU what it
            does costs nothing. The table does not know this step's scores yet.

    Raises:
        NotFinite: loss or gradient is NaN or infinite; the parameters are as before.
        UserError: memory does not suffice, and smaller chunks are of no use or several processes take part.
    """
    started = time.perf_counter()
    ready = plan if isinstance(plan, ReadyStep) else make_ready(train_module, plan, recipe)
    plan = ready.plan
    while True:
        try:
            embedding_UD, loss = _forward_and_back(train_module, ready, recipe)
            break
        except torch.OutOfMemoryError as error:
            reason = str(error).split(". ")[0]
        # Outside of the handler: the error holds on to the tensors of the pass that failed.
        _make_room(train_module, ready, reason)
        ready = make_ready(train_module, plan, recipe)
    norm = train_module.clip_gradient(recipe.optimizer.max_grad_norm)
    reading = AsyncHostCopy(figures.collect(loss, norm, embedding_UD, plan))
    meanwhile()
    seen = figures.read(reading.numpy(), plan)
    optimizer, total, gradient_norm = train_module.optimizer, seen.total, seen.gradient_norm
    if not (np.isfinite(total) and np.isfinite(gradient_norm)):
        optimizer.zero_grad(set_to_none=True)
        name, value = ("gradient norm", gradient_norm) if np.isfinite(total) else ("loss", total)
        raise NotFinite(
            f"step {plan.step + 1}: the {name} is {value}, expected a finite number; {plan.named}."
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if table is not None and plan.retrieval is not None:
        score_X = seen.negative_X
        if recipe.hard_negatives.subtract_background:
            score_X = above_background(score_X, seen.background)
        score_QN, share_QN = (
            figures.by_slot(values_X, plan, table.num_negatives) for values_X in (score_X, seen.share_X)
        )
        table.observe(plan.retrieval.rows, score_QN, share_QN)
    has_guard = recipe.loss.ignore_above_positive is not None
    return StepResult(
        loss=total,
        retrieval=seen.retrieval if plan.retrieval is not None else None,
        sts=seen.sts if plan.sts is not None else None,
        positive_score=figures.mean(seen.positive_Q),
        negative_score=figures.mean_per_query(seen.negative_X, plan),
        positive_share=figures.mean(seen.positive_share_Q),
        hard_share=figures.mean(seen.hard_share_Q),
        in_batch_share=figures.mean(seen.in_batch_share_Q),
        ignored=figures.mean(seen.ignored_Q) if has_guard else None,
        background=seen.background if plan.retrieval is not None else None,
        gradient_norm=gradient_norm,
        texts=len(plan.text_ids),
        tokens=int(plan.texts.lengths(plan.text_ids).sum()),
        seconds=time.perf_counter() - started,
        embedding_UD=embedding_UD.detach(),
    )


def _forward_and_back(
    train_module: TrainModule, ready: ReadyStep, recipe: Recipe
) -> tuple[torch.Tensor, JointLoss]:
    # Dropout must not depend on what came before, or a resumed run would differ.
    torch.manual_seed(hash((recipe.training.seed, ready.plan.step, collectives.rank())) % 2**63)
    embedding_UD = embed_step(train_module, ready, recipe)
    loss = step_loss(train_module.model, embedding_UD, ready.plan, recipe)
    loss.total.backward()
    return embedding_UD, loss


def _make_room(train_module: TrainModule, ready: ReadyStep, reason: str) -> None:
    """After an out-of-memory error: forget the failed pass, make chunks smaller, and say so."""
    step, budget = ready.plan.step + 1, ready.share.token_budget
    train_module.optimizer.zero_grad(set_to_none=True)
    if collectives.world_size() > 1:  # the others wait in the middle of a pass that cannot be taken up again
        raise UserError(
            f"step {step}: {reason}; expected a smaller training.chunk_tokens (it was {budget:,}), "
            "training.activation_checkpointing: true, or a smaller step."
        )
    if not train_module.memory.shrink(budget):
        raise UserError(
            f"step {step}: {reason}, even with chunks of {budget:,} tokens; expected a smaller step or model."
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    console.print(
        f"step {step}: {reason}; from here on activations are computed again, in chunks of "
        f"{train_module.memory.chunk_tokens:,} tokens. The numbers stay the same."
    )
