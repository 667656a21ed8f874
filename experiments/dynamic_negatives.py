"""Do negatives that stay hard help? In-batch only, static, `ranking`, `bank` and `remine`: same steps, same seeds.

    python experiments/dynamic_negatives.py --base MODEL --data DATA [--steps 400] [--seeds 0 1 2] [--write]

DATA is laid out as finetune/, pretrain/ and eval/ (docs/data.md). Few queries seen often, so that static negatives are
learned and a replacement can follow; many passages, so that there is something to replace them by. Arms are run seed by
seed and kept in runs/dynamic-negatives/, so that an interrupted table goes on where it stopped (and says so while it is
not whole). Rankings are mined once. `conan-embed report RUN RUN ...` draws figure 2 of the paper for any of the arms.
"""

import argparse
import functools
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import polars as pl
from result_file import kept, main_scores, options, spread, write_result

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.statistics import paired_differences
from conan_embed.files import read_json_lines
from conan_embed.recipes.schema import Recipe
from conan_embed.training.run import mine, train

# Queries and positives, and the passages that negatives are mined from; None: the positives of more rows.
SETS = {
    "drcd": ("finetune/retrieval/drcd_dev.parquet", "finetune/corpus/drcd_dev.parquet"),
    "cmrc": ("finetune/retrieval/cmrc_trial.parquet", "finetune/corpus/cmrc_trial.parquet"),
    "medical": ("pretrain/qa_medical_toyhom.parquet", None),
    "tidb": ("pretrain/web_tidb_docs.parquet", None),
}
TASKS = ["retrieval/MedicalQA", "retrieval/TiDBDocs", "retrieval/DuReaderRobust", "retrieval/SciFact"]
ARMS: dict[str, dict[str, Any]] = {
    "in-batch only": {"step": {"num_negatives": 0}},
    "static": {"hard_negatives": {"source": "static"}},
    "ranking": {"hard_negatives": {"source": "ranking"}},
    "bank": {"hard_negatives": {"source": "bank", "refresh": 16}},
    "remine": {"hard_negatives": {"source": "remine"}},
}


def corpus_of(arguments: argparse.Namespace, name: str) -> Path:
    """Return the file with the passages of a data set."""
    path, corpus = SETS[name]
    if corpus is not None:
        return arguments.data / corpus
    file: Path = arguments.output / f"{name}-passages.parquet"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        texts = pl.scan_parquet(arguments.data / path).select(pl.col("positive").alias("text"))
        texts.head(arguments.passages).unique(maintain_order=True).collect().write_parquet(file)
    return file


def recipe(arguments: argparse.Namespace, arm: str, seed: int) -> Recipe:
    change = ARMS[arm]
    return Recipe.model_validate(
        {
            "model": {"base": str(arguments.base), "max_length": arguments.max_length},
            "data": {
                "retrieval": [
                    {
                        "name": name,
                        "path": str(arguments.data / path),
                        "limit": arguments.rows,
                        "negative_source": "none" if arm == "in-batch only" else "mined",
                        "corpus": str(corpus_of(arguments, name)),
                    }
                    for name, (path, _) in SETS.items()
                    if name in arguments.sets
                ]
            },
            "step": {
                "queries": arguments.queries,
                "num_negatives": arguments.negatives,
                "sts_pairs": 0,
                "in_batch": "dataset",
                "too_few_negatives": "allow",  # where the bound leaves less
                **change.get("step", {}),
            },
            "loss": {"temperature": arguments.temperature},
            "mining": {
                "depth": 100,
                "offset": arguments.offset,
                "max_positive_ratio": arguments.max_positive_ratio or None,
                "subtract_background": not arguments.absolute,
            },
            "hard_negatives": {
                "interval": arguments.interval,
                "decay": arguments.decay,
                "max_score": arguments.ceiling,
                # The cosines of E5 all lie high, and the paper's bounds on them never fire (docs/log.md).
                "subtract_background": not arguments.absolute,
                **change.get("negatives", {}),
            },
            "optimizer": {"learning_rate": arguments.learning_rate},
            "training": {
                "steps": arguments.steps,
                "seed": seed,
                "checkpoint_every": 100,
                "keep_checkpoints": 1,
            },
            "tracking": {"tensorboard": False},
            "output": str(arguments.output / f"{arm.replace(' ', '-')}-{seed}"),
            "cache": str(arguments.output / "cache"),
        }
    )


def run_arm(arguments: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """Train one arm and score it."""
    settings = recipe(arguments, arm, seed)
    if settings.step.num_negatives:
        shared = mine(settings, arguments.output / "mining")  # what is there already is only read
        settings = settings.with_rankings(shared)
    train(settings)
    checks = read_json_lines(Path(settings.output) / "negatives.jsonl")
    return {
        **score(arguments, Path(settings.output) / "model"),
        "replaced": sum(check["replaced"] for check in checks),
    }


def score(arguments: argparse.Namespace, model: Path) -> dict[str, float]:
    return main_scores(EmbeddingModel.load(model, max_length=arguments.max_length), arguments.data, TASKS)


def differences(results: dict[str, list[dict[str, float]]], arms: list[str]) -> list[str]:
    """Return lines of a table: how far each arm lies above the first two, paired by seed."""
    scores = {
        task: np.array([[[100 * score[task]] for score in results[arm]] for arm in arms]) for task in TASKS
    }
    head = ["mean of the four sets, per seed paired", *(f"above {arm}" for arm in arms[:2])]
    found = [paired_differences(scores, against)["average"] for against in range(len(arms[:2]))]
    cells = [[f"{e.value:+.2f} ({e.low:+.2f} to {e.high:+.2f})" for e in estimates] for estimates in found]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in zip(arms, *cells, strict=True)]


def main() -> None:
    parser = options(__doc__, "runs/dynamic-negatives")
    parser.add_argument("--steps", type=int, default=375)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--negatives", type=int, default=2)
    parser.add_argument(
        "--sets", nargs="*", default=["medical", "tidb"], choices=list(SETS), help="trained on"
    )
    parser.add_argument("--rows", type=int, default=600, help="queries of each data set")
    parser.add_argument("--passages", type=int, default=2000, help="of the sets that bring no corpus")
    parser.add_argument("--offset", type=int, default=10, help="first ranks that are never negatives")
    parser.add_argument(
        "--below-positive", type=float, default=0.95, help="bound of a negative's score; 0: none"
    )
    parser.add_argument("--interval", type=int, default=75)
    parser.add_argument("--decay", type=float, default=1.15)
    parser.add_argument("--ceiling", type=float, default=0.8)
    parser.add_argument("--absolute", action="store_true", help="the rule on the cosines themselves")
    parser.add_argument("--temperature", type=float, default=0.02)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    arguments = parser.parse_args()
    base = kept(
        arguments.output / "base.json", lambda: {**score(arguments, arguments.base), "replaced": 0}, "base"
    )
    results: dict[str, list[dict[str, float]]] = {"base": [base], **{arm: [] for arm in arguments.arms}}
    for seed in arguments.seeds:
        for arm in arguments.arms:
            path = arguments.output / f"{arm.replace(' ', '-')}-{seed}.json"
            train_it = functools.partial(run_arm, arguments, arm, seed)
            results[arm].append(kept(path, train_it, f"{arm}, seed {seed}"))
    lines = ["| arm | " + " | ".join(TASKS) + " | mean | replaced |", "|---|" + "---|" * (len(TASKS) + 2)]
    for arm, scores in results.items():
        cells = [[100 * score[task] for score in scores] for task in TASKS]
        cells.append([mean(100 * score[task] for task in TASKS) for score in scores])
        lines.append(
            f"| {arm} | {' | '.join(map(spread, cells))} | {mean(score['replaced'] for score in scores):.0f} |"
        )
    lines += ["", *differences(results, arguments.arms)]
    bound = f"{arguments.max_positive_ratio} of the positive's" if arguments.max_positive_ratio else "none"
    what = (
        f"{arguments.base.name}; {arguments.steps} steps of {arguments.queries} queries x (1 positive + "
        f"{arguments.negatives} negatives), temperature {arguments.temperature}, {arguments.rows} queries of each of {', '.join(arguments.sets)}; "
        f"check every {arguments.interval} steps, decay {arguments.decay}, ceiling {arguments.ceiling}, "
        f"{'on the cosines themselves' if arguments.absolute else 'relative to the background'}; bound of a negative's score: {bound}, offset {arguments.offset}; {len(arguments.seeds)} seeds; nDCG@10 x 100, mean ± standard deviation."
    )
    write_result("Dynamic hard negatives", what, lines, results, arguments.write)


if __name__ == "__main__":
    main()
