"""Do negatives that stay hard help? In-batch only, static, `ranking`, `bank` and `remine`: same steps, same seeds.

    python experiments/dynamic_negatives.py --base MODEL --data DATA [--steps 400] [--seeds 0 1 2] [--write]

DATA is laid out as finetune/, pretrain/ and eval/ (docs/data.md). Few queries seen often, so that static negatives are
learned and a replacement can follow; many passages, so that there is something to replace them by. Arms are run seed by
seed and kept in runs/dynamic-negatives/, so that an interrupted table goes on where it stopped (and says so while it is
not whole). Rankings are mined once. `conan-embed report RUN RUN ...` draws figure 2 of the paper for any of the arms.
"""

import argparse
import datetime
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import polars as pl

from conan_embed.console import console
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.local import evaluate
from conan_embed.files import read_json, read_json_lines, write_json
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
    "in-batch only": {"step": {"negatives": 0}},
    "static": {"negatives": {"source": "static"}},
    "ranking": {"negatives": {"source": "ranking"}},
    "bank": {"negatives": {"source": "bank", "refresh": 16}},
    "remine": {"negatives": {"source": "remine"}},
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
                        "negatives": "none" if arm == "in-batch only" else "mined",
                        "corpus": str(corpus_of(arguments, name)),
                    }
                    for name, (path, _) in SETS.items()
                ]
            },
            "step": {
                "queries": arguments.queries,
                "negatives": arguments.negatives,
                "sts_pairs": 0,
                "in_batch": "dataset",
                **change.get("step", {}),
            },
            "loss": {"temperature": arguments.temperature},
            "mining": {
                "depth": 100,
                "offset": arguments.offset,
                "below_positive": arguments.below_positive,
                "relative": not arguments.absolute,
            },
            "negatives": {
                "interval": arguments.interval,
                "decay": arguments.decay,
                "ceiling": arguments.ceiling,
                # The cosines of E5 all lie high, and the paper's bounds on them never fire (docs/log.md).
                "relative": not arguments.absolute,
                **change.get("negatives", {}),
            },
            "optimizer": {"learning_rate": arguments.learning_rate},
            "training": {"steps": arguments.steps, "seed": seed, "checkpoint_every": 100, "keep": 1},
            "tracking": {"tensorboard": False},
            "output": str(arguments.output / f"{arm.replace(' ', '-')}-{seed}"),
            "cache": str(arguments.output / "cache"),
        }
    )


def run_arm(arguments: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """Train and score one arm, or read its result."""
    path = arguments.output / f"{arm.replace(' ', '-')}-{seed}.json"
    if not path.exists():
        console.rule(f"{arm}, seed {seed}")
        settings = recipe(arguments, arm, seed)
        if settings.step.negatives:
            shared = mine(settings, arguments.output / "mining")  # what is there already is only read
            settings = settings.with_rankings(shared)
        train(settings)
        model = EmbeddingModel.load(Path(settings.output) / "model", max_length=arguments.max_length)
        results = evaluate(model, arguments.data / "eval", tasks=TASKS)
        checks = read_json_lines(Path(settings.output) / "negatives.jsonl")
        write_json(
            path,
            {
                **{key: result["main_score"] for key, result in results["tasks"].items()},
                "replaced": sum(check["replaced"] for check in checks),
            },
        )
    found: dict[str, float] = read_json(path)
    return found


def run_base(arguments: argparse.Namespace) -> dict[str, float]:
    """Score the model that every arm starts from, or read its result."""
    path = arguments.output / "base.json"
    if not path.exists():
        model = EmbeddingModel.load(arguments.base, max_length=arguments.max_length)
        results = evaluate(model, arguments.data / "eval", tasks=TASKS)
        write_json(
            path, {**{key: result["main_score"] for key, result in results["tasks"].items()}, "replaced": 0}
        )
    found: dict[str, float] = read_json(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--negatives", type=int, default=2)
    parser.add_argument("--rows", type=int, default=160, help="queries of each data set")
    parser.add_argument("--passages", type=int, default=2500, help="of the sets that bring no corpus")
    parser.add_argument("--offset", type=int, default=10, help="first ranks that are never negatives")
    parser.add_argument("--below-positive", type=float, help="bound of a negative's score; none unless given")
    parser.add_argument("--interval", type=int, default=20)
    parser.add_argument("--decay", type=float, default=1.15)
    parser.add_argument("--ceiling", type=float, default=0.8)
    parser.add_argument("--absolute", action="store_true", help="the rule on the cosines themselves")
    parser.add_argument("--temperature", type=float, default=0.02)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/dynamic-negatives"))
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {
        "base": [run_base(arguments)],
        **{arm: [] for arm in arguments.arms},
    }
    for seed in arguments.seeds:
        for arm in arguments.arms:
            results[arm].append(run_arm(arguments, arm, seed))
    lines = ["| arm | " + " | ".join(TASKS) + " | mean | replaced |", "|---|" + "---|" * (len(TASKS) + 2)]
    for arm, scores in results.items():
        cells = [[100 * score[task] for score in scores] for task in TASKS]
        cells.append([mean(100 * score[task] for task in TASKS) for score in scores])
        shown = [f"{mean(cell):.2f}" + (f" ± {stdev(cell):.2f}" if len(cell) > 1 else "") for cell in cells]
        lines.append(f"| {arm} | {' | '.join(shown)} | {mean(score['replaced'] for score in scores):.0f} |")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    bound = "none" if arguments.below_positive is None else f"{arguments.below_positive} of the positive's"
    what = (
        f"{arguments.base.name}; {arguments.steps} steps of {arguments.queries} queries x (1 positive + "
        f"{arguments.negatives} negatives), temperature {arguments.temperature}, {arguments.rows} queries of each of {len(SETS)} sets; "
        f"check every {arguments.interval} steps, decay {arguments.decay}, ceiling {arguments.ceiling}, "
        f"{'on the cosines themselves' if arguments.absolute else 'relative to the background'}; bound of a negative's score: {bound}, offset {arguments.offset}; {len(arguments.seeds)} seeds; nDCG@10 x 100, mean ± standard deviation."
    )
    text = "\n".join([f"# Dynamic hard negatives, {today}", "", what, "", *lines, ""])
    print(text)
    if arguments.write:
        folder = Path(__file__).parent / "results"
        (folder / f"dynamic_negatives_{today}.md").write_text(text, encoding="utf-8")
        (folder / f"dynamic_negatives_{today}.json").write_text(
            json.dumps(results, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
