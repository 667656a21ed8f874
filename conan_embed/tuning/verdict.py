"""Is the tuned model better? A verdict on held-out questions that nothing was chosen by."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from conan_embed.evaluation.statistics import paired_differences

Word = Literal["BETTER", "NO CLEAR DIFFERENCE", "WORSE"]

MIN_AGREEMENT = 0.6
"""A pair agrees where the base model finds its passage nearer than a random one. Half do by chance; of real pairs
nearly all. Below this share a higher score says nothing: the pairs are noise."""


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    word: whether the interval leaves out zero, and on which side.
    base, tuned: nDCG@10 on the reported questions, fractions of one.
    difference, low, high: tuned minus base, and the 95 % interval of the paired bootstrap over questions.
    questions: how many.
    won, lost: questions that the tuned model answers better, and worse.
    agreement: share of training pairs that agree, see MIN_AGREEMENT.
    """

    word: Word
    base: float
    tuned: float
    difference: float
    low: float
    high: float
    questions: int
    won: int
    lost: int
    agreement: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """Return the verdict for a person, scores in points of 100."""
        numbers = (
            f"{self.word}: nDCG@10 {100 * self.base:.1f} -> {100 * self.tuned:.1f} "
            f"({100 * self.difference:+.1f}, 95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}) "
            f"on {self.questions:,} held-out questions; {self.won:,} won, {self.lost:,} lost."
        )
        return f"{numbers} {self.noise()}".rstrip()

    def advice(self) -> str:
        """Return what to try next."""
        if self.agreement < MIN_AGREEMENT:
            return "Check that queries and answers belong together: are the rows of two columns out of step?"
        if self.word == "BETTER":
            return "Search with it; more documents or --minutes may give more."
        if self.word == "WORSE":
            return "Keep the base model. Read pairs.parquet: do the queries look like what your users ask?"
        return (
            "Keep the base model, or try more documents, --minutes, or pairs of real questions (a table with "
            "question and answer). Few held-out questions give long intervals."
        )

    def noise(self) -> str:
        """Return why no gain counts, where the pairs look unrelated; else nothing."""
        if self.agreement >= MIN_AGREEMENT:
            return ""
        return (
            f"Only {100 * self.agreement:.0f} % of the training pairs lie nearer together than random ones do "
            "(50 % by chance): they look unrelated, so no gain counts."
        )


def judge(base: Sequence[float], tuned: Sequence[float], *, agreement: float = 1.0, seed: int = 0) -> Verdict:
    """Compare two models by their scores of the same questions.

    Args:
        base, tuned: nDCG@10 of each question.
        agreement: see MIN_AGREEMENT.
    """
    scores = np.array([base, tuned], np.float64)[:, None, :]
    estimate = paired_differences({"retrieval": scores}, 0, seed=seed)["retrieval"][1]
    word: Word = "NO CLEAR DIFFERENCE"
    if estimate.high < 0:
        word = "WORSE"
    elif estimate.low > 0 and agreement >= MIN_AGREEMENT:
        word = "BETTER"
    difference_Q = scores[1, 0] - scores[0, 0]
    return Verdict(
        word=word,
        base=float(scores[0].mean()),
        tuned=float(scores[1].mean()),
        difference=estimate.value,
        low=estimate.low,
        high=estimate.high,
        questions=len(difference_Q),
        won=int((difference_Q > 1e-9).sum()),
        lost=int((difference_Q < -1e-9).sum()),
        agreement=agreement,
    )
