"""Evaluate an embedding model on the sets of a folder: `evaluate(model, "eval/")`.

Which sets a folder may hold is written in `sets`, how each type is scored in `scorers`, what comes back in `results`.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from conan_embed.console import progress_bar
from conan_embed.errors import UserError, suggestion
from conan_embed.evaluation.cached_encoder import CachedEncoder, Embedder, for_dataset
from conan_embed.evaluation.discovery import TYPES, LocalTask, content_hash, discover, select
from conan_embed.evaluation.results import EvaluationResult, TaskResult, check_finite
from conan_embed.evaluation.scorers import MAIN_SCORES, scorer_of
from conan_embed.evaluation.stored import Kind, Stored


def evaluate(
    model: Embedder,
    folder: str | Path | Sequence[LocalTask],
    *,
    tasks: Sequence[str] | None = None,
    widths: Sequence[int] | None = None,
    vectors: Sequence[Kind] = (),
    limit: Mapping[str, int] | None = None,
    precision: str | None = None,
    name: str = "model",
    items: bool = False,
) -> EvaluationResult:
    """Evaluate `model` on the sets of `folder` (see `conan_embed.evaluation.sets` for its layout).

    Args:
        model: an `EmbeddingModel`, or anything with `encode`, `prompts` (keys `query`, `passage`, `sts`) and `width`
            (`Embedder`).
        folder: the evaluation sets, or a list of them.
        tasks: types (`"sts"`) and tasks (`"retrieval/MedicalQA"`) to evaluate; all by default.
        widths: prefixes of the embedding to score as well, at most `model.width` each.
        vectors: kinds of stored vectors ("int8", "binary") to score as well, at the full width and at `widths`.
        limit: for each type of task, how many rows are enough (queries, pairs, texts; of classification the test
            texts). Always the same rows; the corpus of a retrieval task stays whole. For quick looks: such scores are
            not comparable with any others.
        precision: of matrix products, "bfloat16" or "float32", for models whose `encode` takes it; else the model's
            own.
        name: of the model, for the results.
        items: keep of each task the numbers that its main score is the mean of: that of each query, or pseudo-values of
            parts of the pairs (`metrics.pseudo_values`); not for classification, clustering and bitext.

    Returns:
        The scores by key, `result["sts/STSB"].main`, as fractions of one, and their means, `result.average`.

    Raises:
        UserError: a task, width or limit that does not exist, a file that is not as it should be, or NaN or infinity in
            embeddings or scores.

    Example:
        >>> evaluate(model, "eval/")["retrieval/faq"].main  # doctest: +SKIP
    """
    selected = select(discover(folder) if isinstance(folder, str | Path) else folder, tasks)
    check_widths(widths, model.width)
    _check_limits(limit or {})
    forms = [
        Stored(kind, width) for width in dict.fromkeys([model.width, *(widths or ())]) for kind in vectors
    ]
    results: dict[str, TaskResult] = {}
    with progress_bar(transient=True) as progress:
        bar = progress.add_task("Evaluating", total=len(selected), note="")
        for task in selected:
            progress.update(bar, note=task.key)
            rows = (limit or {}).get(task.type)
            # One task's texts at a time: those of all would not fit into memory.
            encoder = model if precision is None else CachedEncoder(model, precision=precision)
            results[task.key] = evaluate_task(
                encoder, task, widths=widths, stored=forms, limit=rows, items=items
            )
            progress.advance(bar)
    return EvaluationResult(
        name, model.width, dict(model.prompts), results, widths=tuple(widths or ()), precision=precision
    )


def evaluate_task(
    model: Embedder,
    task: LocalTask,
    *,
    widths: Sequence[int] | None = None,
    stored: Sequence[Stored] = (),
    limit: int | None = None,
    items: bool = False,
) -> TaskResult:
    """Evaluate `model` on one task; arguments as for `evaluate`, and forms of stored vectors.

    A model that was trained on a data set of the task's name, with prompts of its own, uses these.
    """
    started = time.perf_counter()
    metric = MAIN_SCORES[task.type]
    scorer = scorer_of(for_dataset(model, task.name), task, limit)
    scores = scorer.scores(None)
    check_finite(task.key, scores)
    by_width = {
        width: scores[metric] if width == model.width else scorer.scores(width)[metric]
        for width in widths or ()
    }
    check_finite(task.key, {f"{metric} at width {width}": score for width, score in by_width.items()})
    of_stored = {str(form): scorer.scores(form) for form in stored}
    parts = scorer.items() if items else None
    return TaskResult(
        main=scores[metric],
        metric=metric,
        scores=scores,
        by_width=by_width,
        rows=scorer.rows,
        seconds=time.perf_counter() - started,
        items=None if parts is None else [round(float(part), 6) for part in parts],
        content=f"{content_hash(task)}-{scorer.rows}",
        stored=of_stored,
    )


def _check_limits(limit: Mapping[str, int]) -> None:
    for type_, most in limit.items():
        if most < 1:
            raise UserError(f"limit of {type_}: found {most}, expected 1 or more.")
        if type_ not in TYPES:
            raise UserError(
                f"limit {type_!r}: no such type of task{suggestion(type_, TYPES)}; "
                f"expected one of {', '.join(TYPES)}."
            )


def widths_from(given: Sequence[str] | None) -> list[int] | None:
    """Return the widths that a person wrote, each as one number or several: `["256,512", "768"]`.

    Raises:
        UserError: something is not a number.
    """
    words = [word.strip() for text in given or () for word in text.split(",") if word.strip()]
    wrong = next((word for word in words if not word.isdigit()), None)
    if wrong is not None:
        raise UserError(f"width {wrong!r}: not a number; expected widths such as 256,512.")
    return [int(word) for word in words] or None


def check_widths(widths: Sequence[int] | None, full: int) -> None:
    """Raise UserError for a width that a model of width `full` does not have."""
    for width in widths or ():
        if not 1 <= width <= full:
            raise UserError(f"width {width}: the model has {full}, expected a width from 1 to {full}.")
