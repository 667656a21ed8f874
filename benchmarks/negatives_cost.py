"""What dynamic hard negatives cost, at 100 k queries and 1 M passages (simulated scores and embeddings).

    python -m benchmarks.negatives_cost [--queries 100000] [--passages 1000000] [--width 256] [--flagged 500] [--write]

Per step: noting the scores of the step's queries, and writing the step's passages into the bank. Per check: the paper's
rule over the whole table (`ranking`), and embedding the flagged queries and ranking them anew against the whole bank
(`bank`). Beside them, one training step of the quickstart's MiniLM (64 queries, 7 negatives, real texts) on the same
machine, in the same run; queries are embedded by the same model.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.machine import write_result
from benchmarks.texts import triples
from benchmarks.train_speed import run_case
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.negatives.bank import PassageBank
from conan_embed.negatives.rules import MeanRule
from conan_embed.negatives.table import NegativeTable
from conan_embed.quickstart.run import bundled_model
from conan_embed.search.exact import top_k

NEGATIVES, DEPTH, STEP_QUERIES, INTERVAL = 7, 200, 64, 100


def seconds(action: Callable[[], object], times: int) -> float:
    """Return the median time of an action."""
    measured = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        measured.append(time.perf_counter() - started)
    return float(np.median(measured))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--flagged", type=int, default=500, help="queries ranked anew at a check")
    parser.add_argument("--seconds", type=float, default=30, help="how long the training step is measured")
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    table = NegativeTable(
        generator.integers(arguments.passages, size=(arguments.queries, DEPTH), dtype=np.int32), NEGATIVES
    )
    everyone = np.arange(arguments.queries)
    for mean in (0.6, 0.55):
        table.observe(everyone, generator.normal(mean, 0.1, (arguments.queries, NEGATIVES)))
    rule = MeanRule(1.15, 0.8)
    bank = PassageBank(np.arange(arguments.passages), arguments.width)
    for start in range(0, arguments.passages, 50_000):
        texts = np.arange(start, min(start + 50_000, arguments.passages))
        bank.write(texts, torch.randn(len(texts), arguments.width), 0)
    rows = generator.choice(arguments.queries, STEP_QUERIES, replace=False)
    texts = np.unique(generator.integers(arguments.passages, size=STEP_QUERIES * (1 + NEGATIVES)))
    embedding = torch.randn(len(texts), arguments.width)
    query = torch.nn.functional.normalize(torch.randn(arguments.flagged, arguments.width), dim=1)
    queries = triples(max(arguments.flagged, 1), 1)["query"].to_list()
    model = EmbeddingModel.load(bundled_model())
    costs = {
        "a step: note the scores": seconds(
            lambda: table.observe(rows, np.full((len(rows), NEGATIVES), 0.5)), 20
        ),
        "a step: write the bank": seconds(lambda: bank.write(texts, embedding, 1), 20),
        "a step: find the 64 oldest rows": seconds(lambda: bank.oldest(64), 5),
        "a check, `ranking`: the rule over the table": seconds(
            lambda: rule.learned(table.initial_QN, table.current_QN, table.share_QN), 5
        ),
        f"a check, `bank`: embed {arguments.flagged} queries": seconds(lambda: model.encode(queries), 1),
        f"a check, `bank`: rank {arguments.flagged} queries anew": seconds(
            lambda: top_k(query, bank.rows_MW, DEPTH, precision="bfloat16"), 1
        ),
    }
    found = run_case("ours", str(bundled_model()), STEP_QUERIES, arguments.seconds)
    assert not isinstance(found, str), found
    step = found["step_seconds"]
    lines = ["| what | seconds | training steps |", "|---|---|---|"]
    lines += [f"| {name} | {value:.4f} | {value / step:.4f} |" for name, value in costs.items()]
    lines.append(f"| one training step ({STEP_QUERIES} queries x {2 + NEGATIVES} texts) | {step:.2f} | 1 |")
    # Of each query: a ranking; of each slot a rank, S_0, S and share; counts.
    per_query = table.ranking_QK.nbytes / arguments.queries + 16 * NEGATIVES + 13
    per_million = 1e6 * (2 * arguments.width + 4) / 1e9
    lines += [
        "",
        f"Memory: table {per_query:.0f} bytes a query at depth {DEPTH} "
        f"({per_query / 1e3:.2f} GB per million); bank {per_million:.2f} GB per million "
        f"passages at width {arguments.width}. A check comes once in {INTERVAL} steps.",
    ]
    what = f"{arguments.queries:,} queries, {arguments.passages:,} passages, bank of width {arguments.width} in bfloat16."
    write_result("negatives_cost", what, lines, arguments.write)


if __name__ == "__main__":
    main()
