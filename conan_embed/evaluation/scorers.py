"""How each type of task is scored: a class per type, which reads the set, encodes it once and scores any width.

Each text is encoded once per task and prompt, at full width; every narrower (Matryoshka) width is a normalised prefix
of the same vectors. Prompts: `query` for queries, `passage` for documents and candidates, `sts` where all texts play
the same part. Protocols and main scores are mteb's, except for pair classification: average precision, as in the MTEB
paper, with the accuracy at the best threshold, by which mteb ranks C-MTEB today, beside it.

| type                | main score      | protocol                                                       |
|---------------------|-----------------|----------------------------------------------------------------|
| retrieval           | ndcg_at_10      | exact search                                                   |
| reranking           | map_at_1000     | each query's candidates in order of cosine                     |
| sts                 | cosine_spearman | cosine against gold scores                                     |
| pair_classification | cosine_ap       | cosine as score                                                |
| classification      | accuracy        | few-shot: mean of 10 logistic regressions                      |
| clustering          | v_measure       | one mini-batch k-means, batches of 500                         |
| bitext              | f1              | nearest of the second side for each text of the first          |

Few-shot accuracy (32 training texts a label, as in C-MTEB) is the main score of classification because it is mteb's:
published figures are of this kind, and a classifier on many labelled texts hides differences between embeddings.
`accuracy_full_train`, on all training texts, stands beside it.

A form of the vectors is a width (None: the full one) or a way to store them (`stored.Stored`).

Shapes: N texts, U distinct texts, P pairs, Q queries, K ranks, W width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from conan_embed.errors import UserError
from conan_embed.evaluation import discovery, metrics, sets
from conan_embed.evaluation.cached_encoder import Embedder, encode_finite, prefix
from conan_embed.evaluation.discovery import LocalTask
from conan_embed.evaluation.stored import Stored
from conan_embed.search.exact import search_vectors

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
# These come to C-MTEB and MTEB with mteb's default of 8.
SAMPLES_PER_LABEL_BY_PREFIX = {"AmazonReviews": 8, "Massive": 8, "Banking77": 8}

Floats = NDArray[np.floating]
Form = int | Stored | None


class Scorer(Protocol):
    """An encoded set.

    Attributes:
        rows: queries, pairs or texts that are scored.
    """

    rows: int

    def scores(self, form: Form) -> dict[str, float]:
        """Return the metrics of a form of the vectors."""
        ...

    def items(self) -> Floats | None:
        """Return what the main score at the full width is the mean of, None for types that have no such parts."""
        ...


class _Vectors:
    """Vectors of the distinct texts of a list."""

    def __init__(self, model: Embedder, texts: Sequence[str], prompt: str) -> None:
        index_of = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        self.rows_N = np.array([index_of[text] for text in texts], dtype=np.int64)
        self.full_UD = encode_finite(model, list(index_of), model.prompts[prompt])

    def distinct(self, form: Form) -> NDArray[np.float32]:
        """Return the vectors of the distinct texts, `[U, W]`."""
        return form.of(self.full_UD) if isinstance(form, Stored) else prefix(self.full_UD, form)

    def all(self, form: Form) -> NDArray[np.float32]:
        """Return the vectors of all texts, `[N, W]`."""
        return self.distinct(form)[self.rows_N]


def _pair_cosines(
    vectors_ND: Floats, first_P: NDArray[np.integer], second_P: NDArray[np.integer], form: Form
) -> Floats:
    """Return `metrics.pair_cosines`; ties count, so pairs of one Hamming distance have one cosine."""
    cosine_P = metrics.pair_cosines(vectors_ND, first_P, second_P)
    return cosine_P.round(5) if isinstance(form, Stored) and form.kind == "binary" else cosine_P


class RetrievalScorer:
    def __init__(self, model: Embedder, path: Path, limit: int | None) -> None:
        self.data = sets.read_retrieval(path, limit)
        self.rows = len(self.data.queries)
        self.queries = _Vectors(model, self.data.queries, "query")
        self.documents = _Vectors(model, self.data.documents, "passage")

    def scores(self, form: Form) -> dict[str, float]:
        return metrics.retrieval_metrics(self._gains(form), self.data.judged_query, self.data.judged_gain)

    def items(self) -> Floats:
        return metrics.ndcg_by_query(self._gains(None), self.data.judged_query, self.data.judged_gain)

    def found(self, form: Form = None) -> NDArray[np.int64]:
        """Return the document at each rank, `[Q, K]`; -1 where there are fewer."""
        vectors = torch.from_numpy(self.queries.all(form)), torch.from_numpy(self.documents.all(form))
        return search_vectors(*vectors, metrics.RETRIEVAL_DEPTH, exclude=self._excluded())[1].numpy()

    def _gains(self, form: Form) -> Floats:
        return gains(self.found(form), self.data)

    def _excluded(self) -> tuple[torch.Tensor, torch.Tensor]:
        is_excluded = self.data.excluded_document >= 0
        offsets = np.concatenate([[0], np.cumsum(is_excluded)])
        return torch.from_numpy(offsets), torch.from_numpy(self.data.excluded_document[is_excluded])


def gains(found_QK: NDArray[np.int64], data: sets.RetrievalSet) -> Floats:
    """Return the relevance of the document at each rank, `[Q, K]`, 0 where it was not judged."""
    judged, gain = _judged(data)
    if not len(judged):  # a limit may leave only queries whose documents the corpus lacks
        return np.zeros(found_QK.shape)
    pairs_QK = np.arange(len(found_QK))[:, None] * len(data.documents) + found_QK
    index_QK = np.searchsorted(judged, pairs_QK).clip(max=len(judged) - 1)
    return np.where((found_QK >= 0) & (judged[index_QK] == pairs_QK), gain[index_QK], 0.0)


def _judged(data: sets.RetrievalSet) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the judgements of documents that are there: query and document as one number, rising, and gain."""
    there = data.judged_document >= 0
    judged = data.judged_query[there] * len(data.documents) + data.judged_document[there]
    order = np.argsort(judged)
    return judged[order], data.judged_gain[there][order]


class RerankingScorer:
    def __init__(self, model: Embedder, path: Path, limit: int | None) -> None:
        self.data = sets.read_reranking(path, limit)
        self.rows = len(self.data.queries)
        self.queries = _Vectors(model, self.data.queries, "query")
        self.candidates = _Vectors(model, self.data.candidates, "passage")

    def scores(self, form: Form) -> dict[str, float]:
        return metrics.reranking_metrics(self.data.candidate_query, self._cosines(form), self.data.relevant)

    def items(self) -> Floats:
        return metrics.map_by_query(self.data.candidate_query, self._cosines(None), self.data.relevant)

    def _cosines(self, form: Form) -> Floats:
        vectors = np.concatenate([self.queries.distinct(form), self.candidates.distinct(form)])
        query_rows = self.queries.rows_N[self.data.candidate_query]
        return _pair_cosines(vectors, query_rows, self.candidates.rows_N + len(self.queries.full_UD), form)


class StsScorer:
    metric = MAIN_SCORES["sts"]
    binary = False

    def __init__(self, model: Embedder, path: Path, limit: int | None) -> None:
        self.path, self.data = path, sets.read_pairs(path, limit, binary=self.binary)
        self.rows = len(self.data.score)
        if np.ptp(self.data.score) == 0:
            raise UserError(
                f"{path}: column 'score': every pair has {self.data.score[0]:g}, expected different scores: with one "
                "there is no correlation."
            )
        self.vectors = _Vectors(model, [*self.data.first, *self.data.second], "sts")

    def scores(self, form: Form) -> dict[str, float]:
        first, second = np.split(self.vectors.rows_N, 2)
        cosine_P = _pair_cosines(self.vectors.distinct(form), first, second, form)
        if np.ptp(cosine_P) == 0:
            discovery.print_once(
                f"{self.path}: all {self.rows:,} pairs have one cosine, which tells nothing apart."
            )
        return self._metrics(cosine_P, self.data.score)

    def items(self) -> Floats:
        first, second = np.split(self.vectors.rows_N, 2)
        cosine_P = metrics.pair_cosines(self.vectors.full_UD, first, second)
        return metrics.pseudo_values(
            lambda rows: self._metrics(cosine_P[rows], self.data.score[rows])[self.metric], self.rows
        )

    def _metrics(self, cosine_P: Floats, score_P: Floats) -> dict[str, float]:
        return metrics.sts_metrics(cosine_P, score_P)


class PairClassificationScorer(StsScorer):
    metric = MAIN_SCORES["pair_classification"]
    binary = True

    def _metrics(self, cosine_P: Floats, score_P: Floats) -> dict[str, float]:
        return metrics.pair_classification_metrics(cosine_P, score_P == 1)


class ClassificationScorer:
    def __init__(self, model: Embedder, path: Path, limit: int | None) -> None:
        self.train, self.test = sets.read_classification(path, limit)
        self.rows = len(self.test.texts)
        self.samples_per_label = few_shot_size(path.name)
        self.vectors = _Vectors(model, [*self.train.texts, *self.test.texts], "sts")

    def scores(self, form: Form) -> dict[str, float]:
        train_ND, test_ND = np.split(self.vectors.all(form), [len(self.train.texts)])
        data = train_ND, self.train.labels, test_ND, self.test.labels
        scores = metrics.few_shot_metrics(*data, self.samples_per_label)
        if form is None:  # the slow one is not repeated for every width
            scores["accuracy_full_train"] = metrics.full_train_accuracy(*data)
        return scores

    def items(self) -> None:
        return None


def few_shot_size(name: str) -> int:
    """Return how many training texts a label mteb draws for the classification set of that name."""
    sizes = (count for start, count in SAMPLES_PER_LABEL_BY_PREFIX.items() if name.startswith(start))
    return next(sizes, SAMPLES_PER_LABEL)


class ClusteringScorer:
    def __init__(self, model: Embedder, path: Path, limit: int | None) -> None:
        self.data = sets.read_labelled(path, limit)
        self.rows = len(self.data.texts)
        if len(set(self.data.labels)) < 2:
            raise UserError(
                f"{path}: the limit leaves {self.rows:,} texts, which all have the label {self.data.labels[0]!r}, "
                "expected two labels or more: give a higher limit."
            )
        self.vectors = _Vectors(model, self.data.texts, "sts")

    def scores(self, form: Form) -> dict[str, float]:
        vectors_ND = self.vectors.all(form)
        scores = {"v_measure": metrics.v_measure(vectors_ND, self.data.labels)}
        if form is None:  # ten times as slow
            scores["mean_v_measure"] = metrics.mean_v_measure(vectors_ND, self.data.labels)
        return scores

    def items(self) -> None:
        return None


class BitextScorer:
    def __init__(self, model: Embedder, path: Path, limit: int | None) -> None:
        self.data = sets.read_bitext(path, limit)
        self.rows = len(self.data.first)
        self.first = _Vectors(model, self.data.first, "sts")
        self.second = _Vectors(model, self.data.second, "sts")

    def scores(self, form: Form) -> dict[str, float]:
        return metrics.bitext_metrics(self.first.all(form), self.second.all(form), self.data.names)

    def items(self) -> None:
        return None


_SCORERS: Mapping[str, type[Scorer]] = {
    "retrieval": RetrievalScorer,
    "reranking": RerankingScorer,
    "sts": StsScorer,
    "pair_classification": PairClassificationScorer,
    "classification": ClassificationScorer,
    "clustering": ClusteringScorer,
    "bitext": BitextScorer,
}


def scorer_of(model: Embedder, task: LocalTask, limit: int | None) -> Scorer:
    """Read and encode a task; `limit` as for `evaluate`."""
    return _SCORERS[task.type](model, task.path, limit)  # type: ignore[call-arg]
