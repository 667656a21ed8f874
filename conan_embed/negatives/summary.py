"""What mining found, in figures and examples: `mining.json`, the console and the report."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from conan_embed.console import console
from conan_embed.negatives.rankings import NONE, Ranking
from conan_embed.recipes.sections import Mining
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset

_FIRST = 10  # usable ranks whose mean score is reported
_SHOWN = 3  # negatives of an example


@dataclass(frozen=True)
class MinedNegative:
    text: str
    score: float
    rank: int


@dataclass(frozen=True)
class MinedExample:
    """A query, its first positives, and the first negatives that training can use."""

    query: str
    positives: list[str]
    positive_score: float
    negatives: list[MinedNegative]


@dataclass(frozen=True)
class MiningSummary:
    """Figures of the ranking of one data set.

    Attributes:
        ranks: K, ranks mined per query, those before the offset included.
        mean_negative_score: cosine of the first usable ranks; None where there are none.
        negatives_above_positive: share of the usable ranks that score above the query's best positive.
        usable_per_query: mean number of ranks from the offset on.
        bounded_out: candidates that the positive-aware bound removed.
        too_few: queries with fewer usable ranks than `mining.min_usable` in the whole data set, or than
            `mining.depth` where that is less.
    """

    queries: int
    passages: int
    ranks: int
    mean_positive_score: float
    mean_negative_score: float | None
    negatives_above_positive: float
    usable_per_query: float
    bounded_out: int
    too_few: int
    examples: list[MinedExample]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def print(self, name: str, folder: str | None = None) -> None:
        """Print a line about the data set `name`.

        Args:
            folder: that the ranking was read from; None: it was mined now.
        """
        negative = "none" if self.mean_negative_score is None else f"{self.mean_negative_score:.3f}"
        console.print(
            f"{name}: {self.queries:,} queries, {self.passages:,} passages; mean score of positives "
            f"{self.mean_positive_score:.3f}, of the first negatives {negative}"
        )
        if self.mean_negative_score is not None and self.mean_negative_score > self.mean_positive_score:
            console.print(
                f"{name}: the first negatives score above the positives. Many may be answers that nobody labelled, "
                "and training pushes them away; mining.max_positive_ratio: 0.95 with mining.subtract_background: true "
                "leaves those out (docs/negatives.md)."
            )
        if self.too_few:
            where = (
                "in the whole data set"
                if folder is None
                else f"in {folder}, which is not searched deeper; expected rankings mined with this recipe"
            )
            console.print(
                f"{name}: {self.too_few:,} of {self.queries:,} queries have fewer usable ranks than "
                f"mining.min_usable {where}."
            )


def summarize(
    data: RetrievalDataset, store: TextStore, ranking: Ranking, settings: Mining, *, examples: int = 3
) -> MiningSummary:
    """Return figures of what was mined, and some queries, evenly spaced over the data set."""
    offset = max(settings.offset, ranking.offset)
    scores = ranking.scores_QK[:, offset:]
    usable = (ranking.ids_QK[:, offset:] != NONE).sum(axis=1)
    above = scores > ranking.positive_Q[:, None]
    first = scores[:, :_FIRST][np.isfinite(scores[:, :_FIRST])]
    chosen = np.linspace(0, len(data) - 1, num=min(examples, len(data)), dtype=int)
    return MiningSummary(
        queries=len(data),
        passages=len(data.passages),
        ranks=int(ranking.ids_QK.shape[1]),
        mean_positive_score=float(ranking.positive_Q.mean()),
        mean_negative_score=float(first.mean()) if len(first) else None,
        negatives_above_positive=float(above.mean()) if above.size else 0.0,
        usable_per_query=float(usable.mean()),
        bounded_out=ranking.bounded_out,
        too_few=int((usable < min(settings.min_usable, settings.depth)).sum()),
        examples=[_example(data, store, ranking, offset, int(row)) for row in chosen],
    )


def _example(
    data: RetrievalDataset, store: TextStore, ranking: Ranking, offset: int, row: int
) -> MinedExample:
    ids, scores = ranking.ids_QK[row], ranking.scores_QK[row]
    return MinedExample(
        query=store.text(int(data.query_Q[row])),
        positives=[store.text(int(text)) for text in data.positives[data.list_Q[row]][:2]],
        positive_score=float(ranking.positive_Q[row]),
        negatives=[
            MinedNegative(store.text(int(ids[rank])), float(scores[rank]), rank)
            for rank in range(offset, min(offset + _SHOWN, len(ids)))
            if ids[rank] != NONE
        ],
    )
