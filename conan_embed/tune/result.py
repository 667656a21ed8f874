"""What a tuning run found: `tune.json`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conan_embed.files import read_json
from conan_embed.tune.plan import Files
from conan_embed.tune.verdict import Verdict


@dataclass(frozen=True)
class Elsewhere:
    """Mean score of other domains before and after, fractions of one; `tasks`: both of each."""

    base: float
    tuned: float
    tasks: dict[str, tuple[float, float]]

    def sentence(self) -> str:
        difference = 100 * (self.tuned - self.base)
        return f"other domains: {100 * self.base:.1f} -> {100 * self.tuned:.1f} ({difference:+.1f})"


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
