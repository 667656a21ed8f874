"""Is a teacher worth its price? A small model with labels alone, and with a large one's scores, embeddings, guard.

    python experiments/distillation.py --base STUDENT --teacher TEACHER --data DATA [--steps 400] [--seeds 0 1 2] [--write]

DATA is laid out as finetune/, pretrain/ and eval/ (docs/data.md). All arms see the same queries in the same order, with
in-batch and mined negatives; teachers are bi-encoders. Arms:

- the student as it is, and the teacher as it is;
- labels alone, with static and with dynamic negatives;
- KL, MarginMSE and embeddings beside the labels, KL alone, each with dynamic negatives;
- KL with static negatives: are scores of replaced negatives worth something?
- the teacher's guard without any of its losses, against the guard on the student's own cosines.

Arms are run seed by seed and kept under --output; an interrupted table, or arm, goes on where it stopped. Differences
are paired by seed.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from result_file import kept, main_scores, options, spread, write_result

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.statistics import paired_differences
from conan_embed.recipes.schema import Recipe
from conan_embed.training.run import mine, train

SETS = {"medical": "pretrain/qa_medical_toyhom.parquet", "tidb": "pretrain/web_tidb_docs.parquet"}
TASKS = ["retrieval/MedicalQA", "retrieval/TiDBDocs", "retrieval/DuReaderRobust", "retrieval/SciFact"]
DYNAMIC = {"source": "ranking", "rule": "share"}
STATIC = {"source": "static"}
ARMS: dict[str, dict[str, Any]] = {
    "labels": {},
    "labels, static": {"hard_negatives": STATIC},
    "labels, own guard": {"loss": {"ignore_above_positive": 0.0}},
    "teacher's guard": {"teacher": {"ignore_above_positive": 0.0}},
    "kl": {"teacher": {"kl": 1.0}},
    "kl, static": {"teacher": {"kl": 1.0}, "hard_negatives": STATIC},
    "kl, guard": {"teacher": {"kl": 1.0, "ignore_above_positive": 0.0}},
    "kl alone": {"teacher": {"kl": 1.0, "contrastive": 0.0}},
    "margin": {"teacher": {"margin_mse": 10.0}},
    "embedding": {"teacher": {"embedding": 10.0}},
}


def recipe(arguments: argparse.Namespace, arm: str, seed: int) -> Recipe:
    """Return the recipe of one run."""
    change = ARMS[arm]
    teacher = change.get("teacher")
    sets = [
        {"name": name, "path": str(arguments.data / path), "limit": arguments.rows}
        for name, path in SETS.items()
    ]
    return Recipe.model_validate(
        {
            "model": {"base": str(arguments.base), "max_length": arguments.max_length},
            "data": {"retrieval": sets},
            "teacher": teacher and {"model": str(arguments.teacher), "temperature": 0.05, **teacher},
            "step": {
                "queries": arguments.queries,
                "num_negatives": 4,
                "sts_pairs": 0,
                "too_few_negatives": "allow",
            },
            "loss": {"temperature": 0.05, **change.get("loss", {})},
            "mining": {"depth": 100, "max_positive_ratio": 0.95, "subtract_background": True},
            "hard_negatives": {"interval": 50, **change.get("hard_negatives", DYNAMIC)},
            "optimizer": {"learning_rate": arguments.learning_rate},
            "training": {
                "steps": arguments.steps,
                "seed": seed,
                "checkpoint_every": 50,
                "keep_checkpoints": 1,
            },
            "tracking": {"tensorboard": False},
            "output": str(arguments.output / f"{arm.replace(' ', '-').replace(',', '')}-{seed}"),
            "cache": str(arguments.output / "cache"),
        }
    )


def run_arm(arguments: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """Train one arm and score it."""
    settings = recipe(arguments, arm, seed)
    settings = settings.with_rankings(mine(settings, arguments.output / "mining"))
    began = time.monotonic()
    train(settings)
    seconds = time.monotonic() - began
    return score(arguments, Path(settings.output) / "model") | {"seconds": round(seconds, 1)}


def score(arguments: argparse.Namespace, model: Path) -> dict[str, float]:
    """Return the main score of each task."""
    loaded = EmbeddingModel.load(model, max_length=arguments.max_length)
    return main_scores(loaded, arguments.data, arguments.tasks)


def table(results: dict[str, list[dict[str, float]]], arms: list[str], tasks: list[str]) -> list[str]:
    """Return a line per arm: each task, their mean, how far it lies above labels alone, and seconds."""
    scores = {task: np.array([[[100 * run[task]] for run in results[arm]] for arm in arms]) for task in tasks}
    above = paired_differences(scores, arms.index("labels"))["average"]
    names = [task.split("/")[1] for task in tasks]
    lines = [f"| | {' | '.join(names)} | mean | above labels | s |", "|---" * (len(tasks) + 4) + "|"]
    for place, arm in enumerate(arms):
        cells = [spread([100 * run[task] for run in results[arm]]) for task in tasks]
        average = spread([100 * float(np.mean([run[task] for task in tasks])) for run in results[arm]])
        gain = above[place]
        seconds = np.mean([run["seconds"] for run in results[arm]])
        difference = f"{gain.value:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"
        lines.append(f"| {arm} | {' | '.join(cells)} | {average} | {difference} | {seconds:.0f} |")
    return lines


def main() -> None:
    parser = options(__doc__, "runs/distillation")
    parser.add_argument("--teacher", type=Path, required=True, help="a bi-encoder")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--rows", type=int, default=4000, help="of each data set")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--tasks", nargs="*", default=TASKS, help="evaluated on")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    arguments = parser.parse_args()
    untrained = {
        name: kept(arguments.output / f"{name}.json", lambda path=path: score(arguments, path), name)
        for name, path in (("student", arguments.base), ("teacher", arguments.teacher))
    }
    arms = ["labels", *(arm for arm in arguments.arms if arm != "labels")]
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for seed in arguments.seeds:
        for arm in arms:
            path = arguments.output / f"{arm.replace(' ', '-').replace(',', '')}-{seed}.json"
            run = kept(path, lambda arm=arm, seed=seed: run_arm(arguments, arm, seed), f"{arm}, seed {seed}")
            results[arm].append(run)
    before = [
        f"- {name}: "
        + ", ".join(f"{task.split('/')[1]} {100 * scores[task]:.2f}" for task in arguments.tasks)
        for name, scores in untrained.items()
    ]
    what = f"{arguments.steps} steps of {arguments.queries} queries, seeds {arguments.seeds}."
    raw = {"untrained": untrained, "results": results}
    write_result(
        "Distillation", what, [*before, "", *table(results, arms, arguments.tasks)], raw, arguments.write
    )


if __name__ == "__main__":
    main()
