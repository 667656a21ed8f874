"""The search for near copies of held-out texts where thousands of pages nearly equal one another: seconds and memory.

Two callers of one search (filtering/known_texts.py): what `tune` and `evaluation.hold_out` leave out of training, and
the filter's `decontaminate`, whose texts stand on both sides of the pairs here. Seconds are of one core.

python -m benchmarks.held_out_copies [--texts 20000] [--held-out 600] [--write]
"""

import argparse
import resource
import time
from collections.abc import Callable

import polars as pl

from benchmarks.machine import write_result
from conan_embed.documents.held_out import HeldOutTexts
from conan_embed.filtering.decontamination import EvaluationIndex, index_evaluation, resemblance
from conan_embed.filtering.grams import code_points
from conan_embed.filtering.minhash import fingerprints, plain, text_keys
from conan_embed.filtering.recipe import Decontaminate, Duplicates


def page(number: int) -> str:
    return (
        f"This is page number {number} of the handbook. It tells how the part {number} is mounted, cleaned and stored, "
        "and whom to call when it breaks."
    )


def measure(search: Callable[[], int]) -> tuple[int, float, float]:
    """Return what a search returns, its seconds and the peak of memory so far."""
    started = time.process_time()
    near = search()
    return (
        near,
        time.process_time() - started,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def decontaminate(own: pl.Series, held_out: pl.Series) -> Callable[[], int]:
    """Return the filter's search, for pairs whose two sides are `own`."""
    setting, cut = Decontaminate(), Duplicates()
    texts = plain(held_out).to_frame("text")
    keys = pl.Series("key", text_keys(*code_points(texts["text"])), dtype=pl.UInt64)
    index = EvaluationIndex(index_evaluation(texts.with_columns(keys), cut))
    pairs = pl.DataFrame({"query": own, "positive": own}).with_row_index("id")
    own_texts = fingerprints(pairs, cut)[1]
    return lambda: resemblance(pairs, own_texts, index, setting).height // 2


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
    rows = [
        f"| {name} | {len(own):,} | {len(held_out):,} | {near:,} | {seconds:.1f} | {peak:.2f} |"
        for name, (near, seconds, peak) in (
            ("held-out texts", measure(lambda: int(HeldOutTexts(held_out).near(own).sum()))),
            ("decontamination", measure(decontaminate(own, held_out))),
        )
    ]
    what = "Pages that differ in a number twice; Jaccard similarity of character 5-grams of 0.8 and more."
    lines = [
        "| by | texts | held out | near | seconds | peak of the process, GB |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    write_result("held_out_copies", what, lines, arguments.write)


if __name__ == "__main__":
    main()
