"""Scores of hard negatives, read off the losses of a SentenceTransformerTrainer as it trains: no pass of their own.

However a loss cuts or joins its forward passes, it goes through the columns in order: anchors, positives, negatives.
Hooks on the model collect the embeddings that a loss makes; a hook on the loss turns them into cosines.

Shapes: B rows of a batch, n negatives per query, D width.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from conan_embed.errors import UserError
from conan_embed.integrations.in_use import Hook

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformerTrainer


class SeenBatch(NamedTuple):
    """What was seen of a batch of B rows.

    Attributes:
        labels: int64 [B, 2 + n + 1].
        score, share: float32 [B, n], cosine and share of each negative.
        sum_2D: float32, the sums of the embeddings of its queries and of its positives.
    """

    labels: np.ndarray
    score: np.ndarray
    share: np.ndarray
    sum_2D: np.ndarray


class LossScores:
    """Cosine and share of every hard negative of the batches whose labels bear a mark.

    Args:
        mark: first number of the labels of our data set.
        num_negatives: n, columns of negatives.

    Attributes:
        num_batches: that a loss took, this epoch.
    """

    def __init__(self, mark: int, num_negatives: int) -> None:
        self.mark, self.num_negatives = mark, num_negatives
        self.num_batches = 0
        self._model: torch.nn.Module | None = None
        self._outputs: list[torch.Tensor] | None = None  # embeddings of the loss at work
        self._seen: list[tuple[torch.Tensor, ...]] = []

    def watch(self, trainer: "SentenceTransformerTrainer") -> list[torch.nn.Module]:
        """Hook a trainer's model and losses; return the losses."""
        self._model = cast(torch.nn.Module, trainer.model)
        self._model.register_forward_hook(Hook(self._model_was_called))
        losses = list(trainer.loss.values()) if isinstance(trainer.loss, dict) else [trainer.loss]
        for loss in losses:
            loss.register_forward_pre_hook(Hook(self._loss_begins))
            loss.register_forward_hook(Hook(self._loss_ends))
        return losses

    def take(self) -> list[SeenBatch]:
        """Return what was seen of every batch since the last call."""
        seen, self._seen = self._seen, []
        return [SeenBatch(*(each.cpu().numpy() for each in batch)) for batch in seen]

    def _loss_begins(self, loss: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        labels = inputs[1]
        training = self._model is not None and self._model.training
        # Batches of other data sets carry other labels, and evaluation has no rows of ours.
        mine = isinstance(labels, torch.Tensor) and labels.ndim == 2 and labels.dtype == torch.int64
        self._outputs = [] if training and mine and int(labels[0, 0]) == self.mark else None

    def _model_was_called(self, model: torch.nn.Module, inputs: Any, output: dict[str, torch.Tensor]) -> None:
        if self._outputs is not None:
            self._outputs.append(output["sentence_embedding"].detach())

    def _loss_ends(self, loss: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._outputs is None:
            return
        labels = inputs[1]
        # What comes after the columns (smaller Matryoshka widths) is not looked at.
        embeddings, self._outputs = self._outputs, None
        width = max((rows.shape[1] for rows in embeddings), default=0)
        rows = torch.cat([rows for rows in embeddings if rows.shape[1] == width] or [torch.empty(0, 0)])
        columns, count = 2 + self.num_negatives, len(labels)
        if len(rows) < columns * count:
            raise UserError(
                f"{type(loss).__name__}: embedded {len(rows)} texts of a batch of {columns} columns x {count} rows; "
                "expected a loss that embeds every column, such as MultipleNegativesRankingLoss."
            )
        unit = torch.nn.functional.normalize(rows[: columns * count].float(), dim=1).view(columns, count, -1)
        score = (unit[0] * unit[1:]).sum(dim=2).T  # [B, 1 + n], the positive first
        share = torch.sigmoid((score[:, 1:] - score[:, :1]) * (scale_of(loss) or torch.nan))
        self._seen.append((labels.detach(), score[:, 1:], share, unit[:2].sum(dim=1)))
        self.num_batches += 1


def scale_of(loss: torch.nn.Module) -> float | None:
    """Return what a loss multiplies cosines by, 1 / tau; None where it says nothing of it."""
    if isinstance(scale := getattr(loss, "scale", None), int | float):
        return float(scale)
    if isinstance(temperature := getattr(loss, "temperature", None), int | float):
        return 1 / float(temperature)
    inner = getattr(loss, "loss", None)  # a loss around a loss, such as MatryoshkaLoss
    return scale_of(inner) if isinstance(inner, torch.nn.Module) else None
