"""Evaluate an embedding model on the sets of a folder, with mteb's protocols, in one encoding pass.

Each text is encoded once per task and prompt, at full width; every narrower (Matryoshka) width is a
normalised prefix of the same vectors. Prompts: `query` for queries, `passage` for documents and
candidates, `sts` where all texts play the same part. The main score of each type of task is mteb's,
except for pair classification: average precision, as in the MTEB paper, with the accuracy at the best
threshold, by which mteb ranks C-MTEB today, beside it.

| type                | main score      | protocol                                                       |
|---------------------|-----------------|----------------------------------------------------------------|
| retrieval           | ndcg_at_10      | exact search; a query that is a document is not its own answer |
| reranking           | map_at_1000     | each query's candidates in order of cosine                     |
| sts                 | cosine_spearman | cosine against gold scores                                     |
| pair_classification | cosine_ap       | cosine as score                                                |
| classification      | accuracy        | few-shot: mean of 10 logistic regressions                      |
| clustering          | v_measure       | one mini-batch k-means, batches of 500                         |
| bitext              | f1              | nearest neighbour, mean of both directions                     |

Few-shot accuracy (32 training texts a label, as in C-MTEB) is the main score of classification because
it is mteb's: published figures are of this kind, and a classifier on many labelled texts hides
differences between embeddings. `accuracy_full_train`, on all training texts, stands beside it.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from conan_embed.console import progress_bar
from conan_embed.errors import UserError, suggestion
from conan_embed.evaluation import metrics, sets
from conan_embed.evaluation.sets import TYPES, LocalTask
from conan_embed.search.exact import top_k

MAIN_SCORES = {
    "retrieval": "ndcg_at_10",
    "reranking": "map_at_1000",
    "sts": "cosine_spearman",
    "pair_classification": "cosine_ap",
    "classification": "accuracy",
    "clustering": "v_measure",
    "bitext": "f1",
}
SAMPLES_PER_LABEL = 32  # what C-MTEB's own classification tasks set
# These two come to C-MTEB and MTEB with mteb's default of 8.
SAMPLES_PER_LABEL_BY_PREFIX = {"Massive": 8, "Banking77": 8}


class Embedder(Protocol):
    """What evaluation needs of a model."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """Text put before queries (`query`), documents (`passage`) and all others (`sts`)."""
        ...

    @property
    def width(self) -> int:
        """Length of a full vector."""
        ...

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> NDArray[np.float32]:
        """Return float32 `[N, width]` with rows of length 1; `prompt` is put before each text."""
        ...


def evaluate(
    model: Embedder,
    folder: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    widths: Sequence[int] | None = None,
    limit: Mapping[str, int] | None = None,
    on_task: Callable[[str, dict[str, Any]], None] | None = None,
    name: str = "model",
    items: bool = False,
) -> dict[str, Any]:
    """Evaluate `model` on the sets of `folder` (see `conan_embed.evaluation.sets` for its layout).

    Args:
        model: has `encode`, `prompts` (keys `query`, `passage`, `sts`) and `width`.
        folder: the evaluation sets.
        tasks: types (`"sts"`) and tasks (`"retrieval/MedicalQA"`) to evaluate; all by default.
        widths: prefixes of the embedding to score as well, at most `model.width` each.
        limit: for each type of task, how many rows are enough (queries, pairs, texts; of classification
            the test texts). Always the same rows; the corpus of a retrieval task stays whole. For quick
            looks: such scores are not comparable with any others.
        on_task: called with key and result after each task.
        name: of the model, for the results.
        items: add to each task `items`, a list whose mean is the main score: that of each query, or pseudo-values
            of parts of the pairs (`metrics.pseudo_values`); not for classification, clustering and bitext.

    Returns:
        A dictionary fit for JSON, scores as fractions of one: `model` (the name), `width`, `prompts`;
        `tasks`, for each key such as `"sts/STSB"` a dictionary with `main_score`, `metric` (the name of
        the main score), every metric by name, `rows`, `seconds` and, where asked for, `widths` (main
        score by width, `{"256": 0.7}`); `summary`, see `summarise`; and, where asked for, `widths`
        (summary by width).

    Raises:
        UserError: a task, width or limit that does not exist, or a file that is not as it should be.
    """
    selected = sets.select(sets.discover(folder), tasks)
    check_widths(widths, model.width)
    for type_, most in (limit or {}).items():
        if most < 1:
            raise UserError(f"limit of {type_}: found {most}, expected 1 or more.")
        if type_ not in TYPES:
            raise UserError(
                f"limit {type_!r}: no such type of task{suggestion(type_, TYPES)}; "
                f"expected one of {', '.join(TYPES)}."
            )
    results: dict[str, dict[str, Any]] = {}
    with progress_bar(transient=True) as progress:
        bar = progress.add_task("Evaluating", total=len(selected), note="")
        for task in selected:
            progress.update(bar, note=task.key)
            rows = (limit or {}).get(task.type)
            results[task.key] = evaluate_task(model, task, widths=widths, limit=rows, items=items)
            if on_task is not None:
                on_task(task.key, results[task.key])
            progress.advance(bar)
    report = {
        "model": name,
        "width": model.width,
        "prompts": dict(model.prompts),
        "tasks": results,
        "summary": summarise({key: result["main_score"] for key, result in results.items()}),
    }
    if widths:
        report["widths"] = {
            str(width): summarise({key: result["widths"][str(width)] for key, result in results.items()})
            for width in widths
        }
    return report


def evaluate_task(
    model: Embedder,
    task: LocalTask,
    *,
    widths: Sequence[int] | None = None,
    limit: int | None = None,
    items: bool = False,
) -> dict[str, Any]:
    """Evaluate `model` on one task; arguments and result as for `evaluate`."""
    started = time.perf_counter()
    metric = MAIN_SCORES[task.type]
    num_rows, score, parts = _PREPARE[task.type](model, task, limit)
    scores = score(None)
    result: dict[str, Any] = {"main_score": scores[metric], "metric": metric, **scores, "rows": num_rows}
    if widths:
        result["widths"] = {
            str(width): scores[metric] if width == model.width else score(width)[metric] for width in widths
        }
    if items and parts is not None:
        result["items"] = [round(float(part), 6) for part in parts()]
    result["seconds"] = time.perf_counter() - started
    return result


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


def summarise(main_scores: Mapping[str, float]) -> dict[str, float]:
    """Average the main scores of tasks (`{"sts/STSB": 0.7, ...}`).

    Returns:
        The mean of each type that occurs, under its name; `average`, the mean of these (mteb's "Mean
        (TaskType)"), in which each type counts the same; `average_of_tasks`, the mean of all tasks
        ("Mean (Task)").
    """
    means = {
        type_: float(np.mean([score for key, score in main_scores.items() if type_of(key) == type_]))
        for type_ in types_of(main_scores)
    }
    return {
        **means,
        "average": float(np.mean(list(means.values()))),
        "average_of_tasks": float(np.mean(list(main_scores.values()))),
    }


def type_of(key: str) -> str:
    """Return the type of a task: `sts` for `sts/STSB`."""
    return key.split("/", 1)[0]


def types_of(keys: Iterable[str]) -> list[str]:
    """Return the types that occur, in the order of `TYPES`; mteb has others, which come last."""
    found = dict.fromkeys(map(type_of, keys))
    return [*(type_ for type_ in TYPES if type_ in found), *(type_ for type_ in found if type_ not in TYPES)]


# ---- one function per type: reads, encodes once, returns the number of rows, how to score a width, and the items ----

Score = Callable[[int | None], dict[str, float]]  # of a width (None: the full width) -> metrics
Items = Callable[[], NDArray[np.floating]]  # what the main score at the full width is the mean of
Prepared = tuple[int, Score, Items | None]


class _Vectors:
    """Vectors of the distinct texts of a list."""

    def __init__(self, model: Embedder, texts: Sequence[str], prompt: str) -> None:
        index_of = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        self.rows_N = np.array([index_of[text] for text in texts], dtype=np.int64)
        self.distinct_UD = model.encode(list(index_of), prompt=model.prompts[prompt])
        assert self.distinct_UD.shape == (len(index_of), model.width)

    def distinct(self, width: int | None) -> NDArray[np.float32]:
        """Return the vectors of the distinct texts, `[U, width]`."""
        if width is None or width == self.distinct_UD.shape[1]:
            return self.distinct_UD
        prefix = torch.from_numpy(self.distinct_UD[:, :width])
        return torch.nn.functional.normalize(prefix, dim=1).numpy()

    def all(self, width: int | None) -> NDArray[np.float32]:
        """Return the vectors of all texts, `[N, width]`."""
        return self.distinct(width)[self.rows_N]


def _retrieval(model: Embedder, task: LocalTask, limit: int | None) -> Prepared:
    data = sets.read_retrieval(task.path, limit)
    queries = _Vectors(model, data.queries, "query")
    documents = _Vectors(model, data.documents, "passage")

    has_own = data.own_document >= 0
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(has_own)]))
    exclude = (offsets, torch.from_numpy(data.own_document[has_own]))
    # A judgement as one number, so that all (query, document) pairs found are looked up at once.
    judged = data.judged_query * len(data.documents) + data.judged_document
    order = np.argsort(judged)
    judged, gain = judged[order], data.judged_gain[order]

    def gains(width: int | None) -> NDArray[np.floating]:
        vectors = torch.from_numpy(queries.all(width)), torch.from_numpy(documents.all(width))
        found_QK = top_k(*vectors, metrics.RETRIEVAL_DEPTH, exclude=exclude)[1].numpy()
        pairs_QK = np.arange(len(found_QK))[:, None] * len(data.documents) + found_QK
        place_QK = np.searchsorted(judged, pairs_QK).clip(max=len(judged) - 1)
        return np.where((found_QK >= 0) & (judged[place_QK] == pairs_QK), gain[place_QK], 0.0)

    def score(width: int | None) -> dict[str, float]:
        return metrics.retrieval_metrics(gains(width), data.judged_query, data.judged_gain)

    def items() -> NDArray[np.floating]:
        return metrics.ndcg_by_query(gains(None), data.judged_query, data.judged_gain)

    return len(data.queries), score, items


def _reranking(model: Embedder, task: LocalTask, limit: int | None) -> Prepared:
    data = sets.read_reranking(task.path, limit)
    queries = _Vectors(model, data.queries, "query")
    candidates = _Vectors(model, data.candidates, "passage")

    def cosine(width: int | None) -> NDArray[np.floating]:
        vectors = np.concatenate([queries.distinct(width), candidates.distinct(width)])
        query_rows = queries.rows_N[data.candidate_query]
        return metrics.pair_cosines(vectors, query_rows, candidates.rows_N + len(queries.distinct_UD))

    def score(width: int | None) -> dict[str, float]:
        return metrics.reranking_metrics(data.candidate_query, cosine(width), data.relevant)

    def items() -> NDArray[np.floating]:
        return metrics.map_by_query(data.candidate_query, cosine(None), data.relevant)

    return len(data.queries), score, items


def _pair_cosines(model: Embedder, data: sets.PairSet) -> Callable[[int | None], NDArray[np.floating]]:
    vectors = _Vectors(model, [*data.first, *data.second], "sts")
    first, second = np.split(vectors.rows_N, 2)
    return lambda width: metrics.pair_cosines(vectors.distinct(width), first, second)


def _sts(model: Embedder, task: LocalTask, limit: int | None) -> Prepared:
    data = sets.read_pairs(task.path, limit)
    cosines = _pair_cosines(model, data)

    def score(width: int | None) -> dict[str, float]:
        return metrics.sts_metrics(cosines(width), data.score)

    def items() -> NDArray[np.floating]:
        cosine = cosines(None)
        return metrics.pseudo_values(
            lambda rows: metrics.sts_metrics(cosine[rows], data.score[rows])[MAIN_SCORES["sts"]], len(cosine)
        )

    return len(data.score), score, items


def _pair_classification(model: Embedder, task: LocalTask, limit: int | None) -> Prepared:
    data = sets.read_pairs(task.path, limit, binary=True)
    cosines = _pair_cosines(model, data)
    positive = data.score == 1

    def score(width: int | None) -> dict[str, float]:
        return metrics.pair_classification_metrics(cosines(width), positive)

    def items() -> NDArray[np.floating]:
        cosine, main = cosines(None), MAIN_SCORES["pair_classification"]
        return metrics.pseudo_values(
            lambda rows: metrics.pair_classification_metrics(cosine[rows], positive[rows])[main], len(cosine)
        )

    return len(positive), score, items


def _classification(model: Embedder, task: LocalTask, limit: int | None) -> Prepared:
    train, test = sets.read_classification(task.path, limit)
    vectors = _Vectors(model, [*train.texts, *test.texts], "sts")
    samples_per_label = few_shot_size(task.name)

    def score(width: int | None) -> dict[str, float]:
        train_ND, test_ND = np.split(vectors.all(width), [len(train.texts)])
        scores = metrics.few_shot_metrics(train_ND, train.labels, test_ND, test.labels, samples_per_label)
        if width is None:  # the slow one is not repeated for every width
            full = metrics.full_train_accuracy(train_ND, train.labels, test_ND, test.labels)
            scores["accuracy_full_train"] = full
        return scores

    return len(test.texts), score, None


def few_shot_size(name: str) -> int:
    """Return how many training texts a label mteb draws for the classification set of that name."""
    sizes = (count for prefix, count in SAMPLES_PER_LABEL_BY_PREFIX.items() if name.startswith(prefix))
    return next(sizes, SAMPLES_PER_LABEL)


def _clustering(model: Embedder, task: LocalTask, limit: int | None) -> Prepared:
    data = sets.read_labelled(task.path, limit)
    vectors = _Vectors(model, data.texts, "sts")

    def score(width: int | None) -> dict[str, float]:
        vectors_ND = vectors.all(width)
        scores = {"v_measure": metrics.v_measure(vectors_ND, data.labels)}
        if width is None:  # ten times as slow
            scores["mean_v_measure"] = metrics.mean_v_measure(vectors_ND, data.labels)
        return scores

    return len(data.texts), score, None


def _bitext(model: Embedder, task: LocalTask, limit: int | None) -> Prepared:
    data = sets.read_bitext(task.path, limit)
    first, second = _Vectors(model, data.first, "sts"), _Vectors(model, data.second, "sts")

    def score(width: int | None) -> dict[str, float]:
        return metrics.bitext_metrics(first.all(width), second.all(width), data.names)

    return len(data.first), score, None


_PREPARE: dict[str, Callable[[Embedder, LocalTask, int | None], Prepared]] = {
    "retrieval": _retrieval,
    "reranking": _reranking,
    "sts": _sts,
    "pair_classification": _pair_classification,
    "classification": _classification,
    "clustering": _clustering,
    "bitext": _bitext,
}
