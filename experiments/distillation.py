"""Is a teacher worth its price? A small model with labels alone, and with a large one's scores, embeddings, guard.

    python experiments/distillation.py --base STUDENT --teacher TEACHER --data DATA [--arms ...] [--seeds 0 1 2] [--write]

The recipe is distillation.yaml: two domains of pairs, scored on their own held-out sets and on two of other domains.
All arms see the same queries in the same order, with in-batch and mined negatives. Teachers are bi-encoders. Arms:

- the student as it is, and the teacher as it is;
- labels alone, with dynamic and with static negatives;
- KL, MarginMSE or embeddings beside the labels, and KL alone, each with dynamic negatives;
- KL with static negatives: are scores of replaced negatives worth something?
- the teacher's guard without any of its losses, against the guard on the student's own cosines;
- sentence-transformers: DistillKLDivLoss on the same rows with the same static negatives, as many steps of as many queries.

Arms are stored one by one under --output; an interrupted one resumes.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from mined_rows import mined_rows, with_prompts
from result_file import by_domain, options, write_result

from conan_embed.ablation.arms import Arm, folder_of
from conan_embed.ablation.comparison import Cell, compare
from conan_embed.ablation.job import ArmResult, make_job
from conan_embed.ablation.run import run_arms
from conan_embed.ablation.tables import markdown
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.files import write_json
from conan_embed.recipes.schema import Recipe
from conan_embed.training.run import load_table
from conan_embed.training.setup import load_base_model, load_data

OTHER_DOMAINS = ("DuReaderRobust", "SciFact")
METRICS = "metrics.jsonl"
RECIPE = Path(__file__).with_suffix(".yaml")
STATIC = "hard_negatives.source=static"
ARMS: dict[str, tuple[str, ...]] = {
    "labels": (),
    "labels, static": (STATIC,),
    "KL": ("teacher.kl=1.0",),
    "KL, static": ("teacher.kl=1.0", STATIC),
    "KL alone": ("teacher.kl=1.0", "teacher.contrastive=0.0"),
    "KL alone, static": ("teacher.kl=1.0", "teacher.contrastive=0.0", STATIC),
    "KL and guard": ("teacher.kl=1.0", "teacher.ignore_above_positive=0.0"),
    "margins": ("teacher.margin_mse=10.0",),
    "embeddings": ("teacher.embedding=10.0",),
    "own guard": ("loss.ignore_above_positive=0.0",),
    "teacher's guard": ("teacher.ignore_above_positive=0.0",),
}
PEER = "sentence-transformers, KL alone, static"
PAIRS = [("KL", "KL, static"), ("KL, static", PEER), ("KL alone, static", PEER)]
"""Compared directly, where both were run."""


def main() -> None:
    parser = options(__doc__, "runs/distillation")
    parser.add_argument("--teacher", type=Path, required=True, help="a bi-encoder")
    parser.add_argument("--arms", nargs="*", default=[*ARMS, PEER], choices=[*ARMS, PEER])
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings of all arms"
    )
    arguments = parser.parse_args()
    os.environ |= {
        "CONAN_BASE": str(arguments.base),
        "CONAN_TEACHER": str(arguments.teacher),
        "CONAN_DATA": str(arguments.data),
    }
    settings = [f"cache={arguments.output / 'cache'}", *arguments.set]
    arms = [
        Arm("student", trained=False),
        Arm("teacher", ("model.base=${oc.env:CONAN_TEACHER}",), trained=False),
        *(Arm(name, with_teacher(ARMS[name])) for name in arguments.arms if name != PEER),
    ]
    results = run_arms(RECIPE, settings, arms, arguments.seeds, arguments.output)
    if PEER in arguments.arms:
        results.append([peer_result(arguments, settings, seed) for seed in arguments.seeds])
        arms.append(Arm(PEER))
    write(arguments, arms, results)


def with_teacher(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Return the overrides of an arm, with the teacher's name where they need it."""
    needed = any(override.startswith("teacher.") for override in overrides)
    return ("teacher.model=${oc.env:CONAN_TEACHER}", *overrides) if needed else overrides


def write(arguments: argparse.Namespace, arms: list[Arm], results: list[list[ArmResult]]) -> None:
    against = next((number for number, arm in enumerate(arms) if arm.name == "labels"), 0)
    comparison = compare(arms, arguments.seeds, by_domain(results, OTHER_DOMAINS), against, "Distillation")
    pairs = pair_lines(arguments, arms, results)
    what = (
        f"Student {arguments.base.name}, teacher {arguments.teacher.name}; nDCG@10; "
        f"other domains: {', '.join(OTHER_DOMAINS)}. {len(arms) - 1} comparisons with {arms[against].name!r}, and "
        f"{max(0, len(pairs) - 3)} direct ones, each on two means and their average."
    )
    lines = [*markdown(comparison).splitlines(), "", *pairs, *second_lines(arguments, arms)]
    write_result("Distillation", what, lines, comparison.to_json(), arguments.write)


def pair_lines(arguments: argparse.Namespace, arms: list[Arm], results: list[list[ArmResult]]) -> list[str]:
    """Return a table of direct comparisons, with intervals over seeds and test items."""
    names = [arm.name for arm in arms]
    lines = ["| | in domain | other domains |", "| --- | --- | --- |"]
    for name, other in PAIRS:
        if name not in names or other not in names:
            continue
        both = [names.index(name), names.index(other)]
        chosen = [arms[number] for number in both], [results[number] for number in both]
        rows = compare(chosen[0], arguments.seeds, by_domain(chosen[1], OTHER_DOMAINS), 1).rows
        cells = [rows[domain][0] for domain in ("in domain", "other domains")]
        texts = [f"{100 * cell.difference:+.2f} ({_interval(cell)})" for cell in cells]
        lines.append(f"| {name} above {other} | {' | '.join(texts)} |")
    return [*lines, ""]


def _interval(cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return "no interval"
    return f"{100 * cell.low:+.2f} to {100 * cell.high:+.2f}"


def second_lines(arguments: argparse.Namespace, arms: list[Arm]) -> list[str]:
    """Return a table: seconds of a step of each arm, the median over steps and seeds."""
    lines = ["| seconds of a step, median | |", "| --- | --- |"]
    for arm in arms:
        runs = [arguments.output / folder_of(arm.name) / f"seed-{seed}" for seed in arguments.seeds]
        if arm.trained:
            seconds = np.concatenate([pl.read_ndjson(run / METRICS)["seconds"].to_numpy() for run in runs])
            lines.append(f"| {arm.name} | {np.median(seconds):.2f} |")
    return [*lines, ""]


def peer_result(arguments: argparse.Namespace, settings: list[str], seed: int) -> ArmResult:
    """Return what sentence-transformers comes to; it is trained where there is no result yet."""
    job = make_job(RECIPE, settings, Arm(PEER, (STATIC,)), seed, arguments.output)
    if job.result.exists():
        return job.read_result()
    started = time.time()
    recipe = job.recipe
    assert job.rankings is not None and recipe.evaluation.folder is not None  # those of the arms
    steps, model = train_peer(arguments, recipe, job.rankings)
    found = evaluate(
        EmbeddingModel.load(model, max_length=recipe.model.max_length),
        recipe.evaluation.folder,
        tasks=recipe.evaluation.tasks,
        items=True,
    )
    result = ArmResult(
        arm=PEER,
        seed=seed,
        scores={key: task.main for key, task in found.items()},
        seen={
            "updates": steps,
            "queries": steps * recipe.step.queries,
            "pairs": 0,
            "tokens": 0,
            "replaced": 0,
        },
        seconds=round(time.time() - started, 1),
        items={key: list(task.items) for key, task in found.items() if task.items is not None},
    )
    write_json(job.result, result.to_json())
    return result


def train_peer(arguments: argparse.Namespace, recipe: Recipe, rankings: Path) -> tuple[int, Path]:
    """Train the student by DistillKLDivLoss on the teacher's scores; return steps and the model's folder."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import DistillKLDivLoss
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Takes the seconds of each step."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    rows = scored_rows(arguments, recipe, rankings)
    model = SentenceTransformer(str(arguments.base), device="cpu")
    model.max_seq_length = recipe.model.max_length
    output = Path(recipe.output)
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            str(output / "trainer"),
            per_device_train_batch_size=recipe.step.queries,
            num_train_epochs=recipe.training.epochs,
            learning_rate=recipe.optimizer.learning_rate,
            warmup_ratio=recipe.optimizer.warmup_ratio,
            bf16=True,
            use_cpu=True,
            seed=recipe.training.seed,
            save_strategy="no",
            report_to="none",
        ),
        Dataset.from_polars(rows),
        loss=DistillKLDivLoss(model, temperature=0.05),
    )
    output.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    pl.DataFrame({"seconds": clock.seconds}).write_ndjson(output / METRICS)
    model.save(str(output / "model"))
    return trainer.state.global_step, output / "model"


def scored_rows(arguments: argparse.Namespace, recipe: Recipe, rankings: Path) -> pl.DataFrame:
    """Return query, positive, negatives, and the teacher's cosines of positive and negatives; prompts are in the texts."""
    student = load_base_model(recipe.model, recipe.training.seed)
    tasks = load_data(recipe.data, recipe.cache, student)
    table = load_table(recipe, tasks, student, rankings)
    assert table is not None
    rows = mined_rows(tasks, table, recipe.step.num_negatives)
    teacher = EmbeddingModel.load(arguments.teacher, max_length=recipe.model.max_length)
    query_QD, *candidates = (
        teacher.encode(
            rows[name].to_list(), prompt=teacher.prompts["query" if name == "query" else "passage"]
        )
        for name in rows.columns
    )
    labels_QC = np.stack([(query_QD * candidate_QD).sum(axis=1) for candidate_QD in candidates], axis=1)
    return with_prompts(rows, student.prompts).with_columns(pl.Series("label", labels_QC.tolist()))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
