"""What a tuning run found: `tune.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conan_embed.evaluation.statistics import averages, paired_differences
from conan_embed.files import read_json
from conan_embed.tuning.plan import Files
from conan_embed.tuning.verdict import Verdict

if TYPE_CHECKING:
    import polars as pl

    from conan_embed.encoder.model import EmbeddingModel


@dataclass(frozen=True)
class Elsewhere:
    """Mean score of other domains before and after, fractions of one.

    Attributes:
        tasks: both scores of each.
        low, high: the 95 % interval of the difference, over the items of all tasks; None where no task has items.
    """

    base: float
    tuned: float
    tasks: dict[str, tuple[float, float]]
    low: float | None = None
    high: float | None = None

    def sentence(self) -> str:
        return f"other domains: {100 * self.base:.1f} -> {100 * self.tuned:.1f} ({self.difference()})"

    def difference(self) -> str:
        """Return the difference with its interval, in points of 100."""
        return ", 95 % interval ".join(
            filter(None, (f"{100 * (self.tuned - self.base):+.1f}", self.interval()))
        )

    def interval(self) -> str:
        """Return the interval of the difference, in points of 100; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"


def mean_elsewhere(items: Mapping[str, Sequence[float]]) -> float:
    """Return the mean score; types of tasks count the same.

    Args:
        items: of each task ("retrieval/python"), numbers whose mean is its score.
    """
    shares = averages(list(items))["average"]
    return float(sum(share * np.mean(items[task]) for task, share in shares.items()))


def compare_elsewhere(
    base: Mapping[str, Sequence[float]], tuned: Mapping[str, Sequence[float]], *, seed: int = 0
) -> Elsewhere:
    """Compare two models by their scores of other domains; types of tasks count the same.

    Args:
        base, tuned: as for `mean_elsewhere`.
    """
    scores = {task: np.array([base[task], tuned[task]], np.float64)[:, None, :] for task in base}
    estimate = paired_differences(scores, 0, seed=seed)["average"][1]
    means = {task: (float(values[0].mean()), float(values[1].mean())) for task, values in scores.items()}
    low, high = (end if np.isfinite(end) else None for end in (estimate.low, estimate.high))
    return Elsewhere(mean_elsewhere(base), mean_elsewhere(tuned), means, low, high)


@dataclass(frozen=True)
class TuneResult:
    """A finished tuning run. `print(result)` shows the verdict, what it cost elsewhere, and what to try next.

    Attributes:
        folder: of the run: `model/`, `passages.parquet`, `index/`, `report.html`, `scores/`, `pairs/` and more.
        verdict: its `word`, "BETTER", "NO CLEAR DIFFERENCE" or "WORSE", with the numbers behind it.
        elsewhere: scores of other domains before and after.
        bm25: nDCG@10 of word search on the same questions, a fraction of one.
        share: of the tuned weights in model/; the rest is the base's.
        tried: by share, the scores on development questions and elsewhere.
        seconds: of everything after the pairs, by part; of a resumed run, of its last start.
        estimated: the same, as estimated before the start.

    Example:
        >>> result = ce.tune("docs/", model="intfloat/multilingual-e5-small", output="runs/docs")  # doctest: +SKIP
        >>> print(result)  # doctest: +SKIP
        BETTER: nDCG@10 67.4 -> 84.3 (+16.9, 95 % interval +11.0 to +22.4) on 105 held-out questions; 48 won, 6 lost.
        other domains: 58.0 -> 57.9 (-0.1, 95 % interval -2.1 to +2.0)
        ...
    """

    folder: Path
    verdict: Verdict
    elsewhere: Elsewhere
    bm25: float
    share: float
    tried: dict[str, dict[str, float]]
    seconds: dict[str, float]
    estimated: dict[str, float]

    @cached_property
    def model(self) -> "EmbeddingModel":
        """The tuned model, merged with its base as `share` says, ready to encode."""
        from conan_embed.encoder.model import EmbeddingModel

        return EmbeddingModel.load(Files(self.folder).model)

    @property
    def report(self) -> Path:
        """The run as one self-contained HTML page."""
        return Files(self.folder).page

    def search(self, query: str, k: int = 5) -> "pl.DataFrame":
        """Return the `k` passages nearest to a query, best first.

        Returns:
            one row per hit, as from `Index.search`; `doc_id` says file, line and heading.

        Raises:
            UserError: an empty query, `k` below 1, or a part of the run that is missing.

        Example:
            >>> result.search("how do I rotate the logs?", k=3)["doc_id"].to_list()  # doctest: +SKIP
            ['docs/logs.md#12  Logs > Rotation', ...]
        """
        from conan_embed.search.index import as_frame
        from conan_embed.tuning.searching import search_tuned

        return as_frame([query], [search_tuned(query, self.folder, k=k)])

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Return what `tune.json` holds."""
        return {**asdict(self), "folder": str(self.folder), "sentence": self.verdict.sentence()}

    def lines(self) -> list[str]:
        """Return the outcome for a person."""
        return [
            self.verdict.sentence(),
            self.elsewhere.sentence() + self.merged(),
            f"word search (BM25) on the same questions: {100 * self.bm25:.1f}",
            self.verdict.advice(),
            f"time: {sum(self.seconds.values()) / 60:.1f} minutes, "
            f"estimated {sum(self.estimated.values()) / 60:.1f}",
        ]

    def merged(self) -> str:
        """Return how much of the tuned weights was kept; empty if all of it."""
        percent = f"{100 * self.share:.0f} %"
        return "" if self.share == 1 else f"; model/ holds {percent} tuned weights, the rest the base's"


def read_result(folder: Path) -> TuneResult:
    """Return the result of a finished run."""
    values = read_json(Files(folder).result)
    del values["sentence"]
    values["elsewhere"]["tasks"] = {key: tuple(pair) for key, pair in values["elsewhere"]["tasks"].items()}
    return TuneResult(
        **{
            **values,
            "folder": Path(folder),
            "verdict": Verdict(**values["verdict"]),
            "elsewhere": Elsewhere(**values["elsewhere"]),
        }
    )
