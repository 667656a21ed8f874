"""The search for near copies of held-out texts where thousands of pages nearly equal one another: seconds and memory.

python -m benchmarks.held_out_copies [--texts 20000] [--held-out 600] [--write]
"""

import argparse
import resource
import time

import polars as pl

from benchmarks.machine import write_result
from conan_embed.documents.held_out import HeldOutTexts


def page(number: int) -> str:
    return (
        f"This is page number {number} of the handbook. It tells how the part {number} is mounted, cleaned and stored, "
        "and whom to call when it breaks."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=20_000, help="looked up")
    parser.add_argument("--held-out", type=int, default=600)
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    own = pl.Series([page(number) for number in range(arguments.texts)])
    held_out = pl.Series([page(arguments.texts + number) for number in range(arguments.held_out)])
    started = time.perf_counter()
    found = HeldOutTexts(held_out).near(own)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    what = "Pages that differ in a number twice; Jaccard similarity of character 5-grams of 0.8 and more."
    lines = [
        "| texts | held out | near | seconds | peak of the process, GB |",
        "|---|---|---|---|---|",
        f"| {len(own):,} | {len(held_out):,} | {int(found.sum()):,} | {seconds:.1f} | {peak:.2f} |",
    ]
    write_result("held_out_copies", what, lines, arguments.write)


if __name__ == "__main__":
    main()
