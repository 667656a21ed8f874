"""Streamed pairs: how long a run takes to begin, how fast steps come, and how much memory they hold.

    python -m benchmarks.streaming [--write]

Passages of the Python documentation with a number behind them, in shards of 50,000 rows and row groups of 8,192, as
`conan-embed filter` writes them. The larger sets are links to the same shards: every footer and row group is read as if
it were another file. A step plans 512 pairs of one of two data sets and tokenises them (WordPiece, at most 128 tokens);
nothing is trained. From row to row there are more pairs; time and memory of a step must not grow with them.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from benchmarks import machine
from benchmarks.texts import passages
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.planning.streaming import StreamPlanner, open_streams
from conan_embed.quickstart.run import bundled_model
from conan_embed.recipes.data import Data
from conan_embed.recipes.sections import Step

SHARD_ROWS, GROUP_ROWS = 50_000, 8_192
SETS = ("one", "two")


def write_shards(folder: Path, shards: int) -> list[Path]:
    """Write so many shards of numbered passages; return them."""
    folder.mkdir(parents=True)
    texts = pl.Series(passages(20_000))
    paths = []
    for number in range(shards):
        row = np.arange(number * SHARD_ROWS, (number + 1) * SHARD_ROWS)
        positive = texts[row % len(texts)] + pl.Series(row).cast(pl.String)
        frame = pl.DataFrame({"query": positive.str.slice(0, 60), "positive": positive})
        paths.append(folder / f"{number:05}.parquet")
        pq.write_table(frame.to_arrow(), paths[-1], row_group_size=GROUP_ROWS, compression="zstd")
    return paths


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(folder: Path, model: EmbeddingModel, steps: int, window: int) -> list[str]:
    """Open the data sets of `folder` and plan steps; return the cells of a row."""
    sets = [{"name": name, "path": str(folder / name), "negative_source": "none"} for name in SETS]
    data = Data.model_validate({"retrieval": sets, "stream": True, "shuffle_window": window})
    started = time.perf_counter()
    planner = StreamPlanner(
        open_streams(data),
        model.prompts,
        model.tokenize,
        Step(queries=512, num_negatives=0, sts_pairs=0, one_dataset=True),
        0,
    )
    opened = time.perf_counter()
    planner.step(0)
    first = time.perf_counter()
    # From the middle of the data, as a resumed run begins.
    middle = planner.steps_for(0.5)
    seconds, most, tokens = [], 0.0, 0
    for step in range(middle, middle + steps):
        began = time.perf_counter()
        plan = planner.step(step)
        seconds.append(time.perf_counter() - began)
        tokens += int(plan.texts.lengths(plan.text_ids).sum())
        most = max(most, resident_mib())
    return [
        f"{planner.num_pairs:,}",
        f"{opened - started:.2f}",
        f"{first - opened:.2f}",
        f"{1000 * np.mean(seconds):.0f}",
        f"{1000 * np.max(seconds):.0f}",
        f"{tokens / sum(seconds):,.0f}",
        f"{most:,.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--window", type=int, default=65_536)
    parser.add_argument(
        "--links", type=int, nargs="*", default=[1, 10, 1000], help="times the shards are seen"
    )
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    model = EmbeddingModel.load(str(bundled_model()), max_length=128)
    before = resident_mib()
    lines = [
        "| pairs | seconds to begin | to the first step | ms a step, mean | longest | tokens a second | resident MiB |",
        "|" + "---|" * 7,
    ]
    with tempfile.TemporaryDirectory() as temporary:
        shards = write_shards(Path(temporary) / "shards", 4)
        for times in arguments.links:
            folder = Path(temporary) / str(times)
            for name in SETS:
                (folder / name).mkdir(parents=True)
                for copy in range(times):
                    for shard in shards:
                        (folder / name / f"{copy:05}-{shard.name}").symlink_to(shard)
            lines.append("| " + " | ".join(measure(folder, model, arguments.steps, arguments.window)) + " |")
    what = (
        f"Steps of 512 pairs, {arguments.steps} a row, windows of {arguments.window:,} rows, one process; the model and the "
        f"libraries alone hold {before:,.0f} MiB. The longest step is one that reads a window."
    )
    machine.write_result("streaming", what, lines, arguments.write)


if __name__ == "__main__":
    main()
