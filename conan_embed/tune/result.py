"""What a tuning run found: `tune.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conan_embed.evaluation.statistics import averages, paired_differences
from conan_embed.files import read_json
from conan_embed.tune.plan import Files
from conan_embed.tune.verdict import Verdict


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
    """Attributes:
    folder: see the top of `tune.tune`.
    bm25: nDCG@10 of word search on the same questions, a fraction of one.
    share: of the tuned weights in model/; the rest is the base's.
    tried: by share, the scores on development questions and elsewhere.
    seconds: of everything after the pairs, by part; of a resumed run, of its last start.
    estimated: the same, as estimated before the start.
    """

    folder: Path
    verdict: Verdict
    elsewhere: Elsewhere
    bm25: float
    share: float
    tried: dict[str, dict[str, float]]
    seconds: dict[str, float]
    estimated: dict[str, float]

    def to_json(self) -> dict[str, Any]:
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
