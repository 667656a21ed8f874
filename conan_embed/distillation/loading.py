"""From the recipe's `teacher` section to a teacher that knows the run's texts."""

from pathlib import Path

import torch

from conan_embed.distillation.bank import make_banks
from conan_embed.distillation.cross_encoder import score_pairs
from conan_embed.distillation.pair_scores import PairScores
from conan_embed.distillation.teacher import BiEncoderTeacher, PairTeacher, Teacher
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes import teaching
from conan_embed.texts.tasks import Tasks


def load_teacher(
    settings: teaching.Teacher,
    tasks: Tasks,
    table: NegativeTable | None,
    width: int,
    cache: Path,
    device: torch.device,
) -> Teacher:
    """Load the teacher and let it see the data; all processes must call it. What it says is kept in `cache`.

    Args:
        table: the hard negatives, whose first ranks a cross-encoder scores.
        width: of the student.

    Raises:
        UserError: no such model, or data without scores where they should teach.
    """
    margin, scale = settings.ignore_above_positive, settings.scale
    if settings.kind == "columns":
        scores = _scores_of_data(tasks)
        return PairTeacher(scores, margin=margin, scale=scale)
    assert settings.model is not None
    if settings.kind == "cross-encoder":
        scores = score_pairs(settings, tasks, table, cache, device)
        return PairTeacher(scores, margin=margin, scale=scale)
    teacher = EmbeddingModel.load(settings.model, prompts=settings.prompts).to(device).eval()
    # A wider teacher's embeddings are projected where they themselves are the target; scores keep the full width.
    project = width if settings.embedding and teacher.width > width else None
    queries, passages = make_banks(
        teacher, tasks.store, tasks.retrieval, cache, precision=settings.precision, width=project
    )
    return BiEncoderTeacher(queries, passages, margin=margin, scale=scale)


def _scores_of_data(tasks: Tasks) -> PairScores:
    content = tasks.store.content
    parts = [
        (content[data.scored_query_X], content[data.scored_passage_X], data.score_X)
        for data in tasks.retrieval
        if data.score_X is not None
    ]
    if not parts:
        raise UserError(
            "teacher.kind: columns, but no data set has scores; expected data.retrieval.scores, a table of query, "
            "passage and score."
        )
    return PairScores.joined(parts, num_contents=int(content.max()) + 1)
