"""From the recipe's `teacher` section to a teacher that knows the run's texts."""

import functools
from pathlib import Path

import numpy as np
import torch

from conan_embed.console import console
from conan_embed.distillation.bank import axes_of, make_banks
from conan_embed.distillation.cross_encoder import score_pairs
from conan_embed.distillation.pair_scores import PairScores
from conan_embed.distillation.teacher import BiEncoderTeacher, PairTeacher, Teacher
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes import teaching
from conan_embed.texts.tasks import RetrievalDataset, Tasks


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
        UserError: no such model, or data without scores where they should teach, or with those of other texts alone.
    """
    margin, scale = settings.ignore_above_positive, settings.scale
    if settings.kind == "columns":
        scores = _scores_of_data(tasks)
        _check_coverage(tasks, table)
        return PairTeacher(scores, margin=margin, scale=scale)
    assert settings.model is not None
    if settings.kind == "cross-encoder":
        scores = score_pairs(settings, tasks, table, cache, device)
        return PairTeacher(scores, margin=margin, scale=scale)
    teacher = EmbeddingModel.load(settings.model, prompts=settings.prompts).to(device).eval()
    queries, passages = make_banks(teacher, tasks.store, tasks.retrieval, cache, precision=settings.precision)
    # A wider teacher's embeddings are projected where they themselves are the target; scores keep the full width.
    is_projected = settings.embedding and teacher.width > width
    axes_DW = axes_of(passages, width, cache) if is_projected else None
    return BiEncoderTeacher(queries, passages, margin=margin, scale=scale, axes_DW=axes_DW)


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
            "passage and score, or the columns 'pos_scores' and 'neg_scores' beside its texts."
        )
    return PairScores.joined(parts, num_contents=int(content.max()) + 1)


def _check_coverage(tasks: Tasks, table: NegativeTable | None) -> None:
    """Print for each data set how much of it the scores reach, and how many of them reach nothing.

    Raises:
        UserError: no query of a data set with scores has one for a positive: its texts are written otherwise there.
    """
    start = 0
    for data in tasks.retrieval:
        ranking_QK = np.empty((len(data), 0), np.int32)
        if table is not None:
            ranking_QK = table.ranking_QK[start : start + len(data)]
        start += len(data)
        line = f"{data.name}: no scores of a teacher."
        if data.score_X is not None:
            line = _coverage(data, ranking_QK, tasks.store.content)
        if collectives.is_main_process():
            console.print(line)


def _coverage(data: RetrievalDataset, ranking_QK: np.ndarray, content: np.ndarray) -> str:
    assert data.scored_query_X is not None and data.scored_passage_X is not None
    key = functools.partial(_pair_keys, content)
    scored = np.unique(key(data.scored_query_X, data.scored_passage_X))
    row, positive = data.positives.rows(data.list_Q)
    positive_keys = key(data.query_Q[row], positive)
    num_queries = len(np.unique(row[np.isin(positive_keys, scored)]))
    if not num_queries:
        raise UserError(
            f"data.retrieval {data.name!r}: scores for a positive of 0 of its {len(data):,} queries in "
            f"{len(scored):,} scored pairs; expected pairs of the data, queries and passages written as there."
        )
    row, rank = np.nonzero(ranking_QK != NONE)
    negative_keys = key(data.query_Q[row], ranking_QK[row, rank])
    num_used = int(np.isin(scored, np.concatenate([positive_keys, negative_keys])).sum())
    return (
        f"{data.name}: {num_queries:,} of {len(data):,} queries have a teacher's score for a positive; {num_used:,} of "
        f"{len(scored):,} scored pairs are a query with a positive or a ranked negative of its own, the others have no "
        "effect."
    )


def _pair_keys(content: np.ndarray, query: np.ndarray, passage: np.ndarray) -> np.ndarray:
    """Return one integer for each pair of text ids, the same for pairs of equal contents."""
    keys: np.ndarray = content[query].astype(np.int64) * (int(content.max()) + 1) + content[passage]
    return keys
