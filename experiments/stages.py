"""What is pre-training on weak pairs worth, what filtering them, and how many of them should be prompt and response?

    python experiments/stages.py --base MODEL --data DATA [--seeds 0 1 2] [--write]

DATA is laid out as finetune/, pretrain/ and eval/ (docs/data.md). Pre-training is that of pre-training.yaml, fine-tuning
that of fine-tuning.yaml, each with the same number of steps in all arms:

- the base model as it is, and fine-tuned at once;
- pre-trained on filtered pairs, and then fine-tuned;
- pre-trained on raw pairs, and then fine-tuned: a sample of each source, which is what `conan-embed filter` with its
  default rules was given for the filtered ones; the sources have the same shares in both;
- pre-trained with 0 and with 30 % prompt-response pairs (12 % in all others), and then fine-tuned. A step holds pairs of
  one source, and sources have their shares over 1,024 steps: those of a short run are near them.

Arms are run seed by seed and kept under --output, so that an interrupted table goes on where it stopped, inside an arm
too; more seeds can be added. The result compares what each question is about, paired by seed and test item, with the
first arm of its table (docs/experiments.md says what the intervals mean).
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import polars as pl
from result_file import options, write_result

from conan_embed.ablation.arms import Arm, folder_of
from conan_embed.ablation.comparison import Comparison, compare
from conan_embed.ablation.run import run_arms
from conan_embed.ablation.tables import score_lines, task_lines
from conan_embed.errors import UserError
from conan_embed.evaluation.statistics import LEVEL
from conan_embed.files import atomic_write, write_text
from conan_embed.filtering.pipeline import filter_pairs
from conan_embed.filtering.recipe import FilterRecipe
from conan_embed.recipes.data import RetrievalData
from conan_embed.recipes.loading import load_recipe

HERE = Path(__file__).parent
PROMPTS = "instructions"  # the set of pre-training.yaml that holds prompts and responses
SHARE = 12  # per cent of the pairs, as in the paper
TASKS = [
    "retrieval/MedicalQA",
    "retrieval/TiDBDocs",
    "reranking/MedicalQA-bm25neg",
    "sts/STSB",
    "sts/AFQMC",
    "pair_classification/Ocnli",
    "classification/EPRSTMT",
    "clustering/CLSClusteringS2S-csl",
]
QUESTIONS = {
    "Both stages": ("base", "fine-tuned", "pre-trained", "pre-trained, fine-tuned"),
    "Before fine-tuning": ("fine-tuned", "raw pairs, fine-tuned", "pre-trained, fine-tuned"),
    "Raw or filtered pairs, without fine-tuning": ("raw pairs", "pre-trained"),
    "Raw or filtered pairs, fine-tuned": ("raw pairs, fine-tuned", "pre-trained, fine-tuned"),
    "Share of prompt-response pairs, without fine-tuning": ("0 % prompts", "pre-trained", "30 % prompts"),
    "Share of prompt-response pairs, fine-tuned": (
        "0 % prompts, fine-tuned",
        "pre-trained, fine-tuned",
        "30 % prompts, fine-tuned",
    ),
}


def raw_pairs(arguments: argparse.Namespace, sources: list[RetrievalData]) -> Path:
    """Write a sample of every source, once; return the folder."""
    folder: Path = arguments.output / f"raw-{arguments.rows}"
    for source in sources:
        file = folder / f"{source.name}.parquet"
        if not file.exists():
            pairs = pl.read_parquet(source.path)
            with atomic_write(file) as aside:
                pairs.sample(min(arguments.rows, len(pairs)), seed=0, shuffle=True).write_parquet(aside)
    return folder


def filtered_pairs(arguments: argparse.Namespace, raw: Path, sources: list[RetrievalData]) -> Path:
    """Filter the raw pairs, once, and write a file for every source again; return the folder."""
    recipe = {
        "sources": [{"path": str(raw / f"{source.name}.parquet"), "name": source.name} for source in sources],
        "teacher": {"model": None if arguments.teacher is None else str(arguments.teacher)},
    }
    folder = raw.with_name(raw.name.replace("raw", "filtered"))
    filter_pairs(FilterRecipe.model_validate(recipe), folder)
    kept = pl.read_parquet(folder / "kept" / "*" / "*.parquet")
    for source in sources:
        file = folder / f"{source.name}.parquet"
        if not file.exists():
            with atomic_write(file) as aside:
                kept.filter(pl.col("source") == source.name).write_parquet(aside)
    return folder


def pre_training(arguments: argparse.Namespace, name: str, folder: Path, share: int) -> Path:
    """Write the recipe that pre-trains on the pairs in `folder`, with this share (per cent) of prompts; return its path."""
    settings = [*common(arguments), f"training.steps={arguments.steps}", *arguments.pre_training]
    recipe = load_recipe(HERE / "pre-training.yaml", settings)
    others = sum(data.weight or 0 for data in recipe.data.retrieval if data.name != PROMPTS)
    weight = others * share / (100 - share)
    sets = [
        data.model_copy(
            update={
                "path": str(folder / f"{data.name}.parquet"),
                "limit": None,
                "weight": weight if data.name == PROMPTS else data.weight,
            }
        )
        for data in recipe.data.retrieval
        if data.name != PROMPTS or share
    ]
    path: Path = arguments.output / "recipes" / f"{name}.yaml"
    changed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"retrieval": sets})})
    write_text(path, changed.as_yaml())
    return path


def common(arguments: argparse.Namespace) -> list[str]:
    """The settings of both stages."""
    return [
        f"model.max_length={arguments.max_length}",
        f"evaluation.tasks={json.dumps(arguments.tasks)}",
        "tracking.tensorboard=false",
        f"cache={arguments.output / 'cache'}",
    ]


def make_arms(arguments: argparse.Namespace, raw: Path, filtered: Path) -> list[Arm]:
    """Return all arms, each after the one that it starts from."""
    arms = [Arm("base", trained=False), Arm("fine-tuned")]
    for name, folder, share in (
        ("pre-trained", filtered, SHARE),
        ("raw pairs", raw, SHARE),
        ("0 % prompts", filtered, 0),
        ("30 % prompts", filtered, 30),
    ):
        arms.append(Arm(name, recipe=pre_training(arguments, folder_of(name), folder, share)))
        arms.append(Arm(f"{name}, fine-tuned", after=name))
    return arms


def tables(arms: list[Arm], seeds: list[int], results: list[list[dict[str, Any]]]) -> dict[str, Comparison]:
    """Return the comparison of each question."""
    place = {arm.name: number for number, arm in enumerate(arms)}
    return {
        question: compare(
            [arms[place[name]] for name in names], seeds, [results[place[name]] for name in names], against=0
        )
        for question, names in QUESTIONS.items()
    }


def main() -> None:
    parser = options(__doc__, "runs/stages")
    parser.add_argument("--steps", type=int, default=120, help="of pre-training")
    parser.add_argument("--fine-tuning-steps", type=int, default=96)
    parser.add_argument("--rows", type=int, default=8000, help="raw pairs of each source, at most")
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--teacher", type=Path, help="a model whose scores filter too")
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--pre-training", nargs="*", default=[], metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--fine-tuning", nargs="*", default=[], metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time")
    arguments = parser.parse_args()
    os.environ |= {"CONAN_BASE": str(arguments.base), "CONAN_DATA": str(arguments.data)}
    sources = load_recipe(HERE / "pre-training.yaml").data.retrieval
    raw = raw_pairs(arguments, sources)
    filtered = filtered_pairs(arguments, raw, sources)
    arms = make_arms(arguments, raw, filtered)
    fine_tuning = [
        *common(arguments),
        f"training.steps={arguments.fine_tuning_steps}",
        *arguments.fine_tuning,
    ]
    results = run_arms(
        HERE / "fine-tuning.yaml", fine_tuning, arms, arguments.seeds, arguments.output, jobs=arguments.jobs
    )
    compared = tables(arms, arguments.seeds, results)
    num_kept, num_raw = (
        sum(len(pl.read_parquet(folder / f"{source.name}.parquet")) for source in sources)
        for folder in (filtered, raw)
    )
    what = (
        f"{arguments.base.name}; {arguments.steps} steps of pre-training, {arguments.fine_tuning_steps} of fine-tuning, texts of at "
        f"most {arguments.max_length} tokens; {len(sources)} sources, {num_raw:,} raw pairs, of which the filter kept {num_kept:,}; "
        f"{SHARE} % prompt-response pairs where nothing else is said; seeds {', '.join(map(str, arguments.seeds))}. Main scores in per "
        "cent, mean ± standard deviation over the seeds; differences are paired, from the first arm of each table, with "
        f"{LEVEL:.0%} bootstrap intervals over seeds and test items; bold: the interval leaves out zero."
    )
    lines = [
        line
        for question, comparison in compared.items()
        for line in (f"## {question}", "", *score_lines(comparison))
    ]
    every_task = task_lines(compare(arms, arguments.seeds, results, against=0))
    write_result(
        "Two stages of training",
        what,
        [*lines, "## Every task", "", *every_task],
        {question: comparison.to_json() for question, comparison in compared.items()},
        arguments.write,
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
