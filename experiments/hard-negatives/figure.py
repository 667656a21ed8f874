"""Draw how hard the negatives stay: their share of the softmax, and their scores (the paper's figure 2), over steps.

    python experiments/hard-negatives/figure.py OUTPUT/own ["static, bound" "bank, share, bound"] --to docs/hard-negatives.png

OUTPUT is that of run.py; lines are means over the seeds that are there, smoothed over 15 steps.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from conan_embed.ablation.arms import folder_of

SMOOTHED = 15
PANELS = (
    ("share/hard", "softmax on a query's hard negatives", 100.0, "per cent"),
    ("score/negative", "mean score of hard negatives", 1.0, "cosine"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of one scope")
    parser.add_argument("arms", nargs="*", default=["static, bound", "bank, share, bound"])
    parser.add_argument("--to", type=Path, default=Path("hard-negatives.png"))
    arguments = parser.parse_args()
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    for axes, (column, title, factor, unit) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for arm in arguments.arms:
            curve = factor * mean_curve(arguments.folder / folder_of(arm), column)
            axes.plot(np.arange(len(curve)) + SMOOTHED / 2, curve, label=arm)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(arguments.to, dpi=160)
    print(arguments.to)


def mean_curve(arm: Path, column: str) -> np.ndarray:
    """Return the mean over seeds, each smoothed: float64 [steps - SMOOTHED + 1]."""
    runs = [pl.read_ndjson(file)[column].to_numpy() for file in sorted(arm.glob("seed-*/metrics.jsonl"))]
    steps = min(map(len, runs))
    kernel = np.full(SMOOTHED, 1 / SMOOTHED)
    return np.mean([np.convolve(run[:steps], kernel, mode="valid") for run in runs], axis=0)


if __name__ == "__main__":
    main()
