"""Fine-tuning with conan-embed against sentence-transformers: the same triples, batch, learning rate and examples seen.

    python experiments/against_sentence_transformers.py --base MODEL --data DATA [--steps 80] [--seeds 0 1 2] [--write]

DATA is laid out as finetune/{retrieval,corpus,sts} and eval/ (see docs/data.md). Both sides start from the same model,
read the same rows with the same mined hard negatives, and see them in batches of the same size, for the same number of
batches of each task. The difference is what this project is about: ours trains both tasks in every step (joint loss,
false negatives masked, one packed forward); sentence-transformers alternates batches of one data set each, drawn in
turn, InfoNCE (MultipleNegativesRankingLoss) and CoSENT, as its manual recommends. A joint step of ours holds what two of
its steps hold, so two arms of ours are compared with it: `ours` sees the same examples in half as many updates,
`ours-updates` makes the same number of updates and sees twice the examples.

Arms are run one by one and kept in runs/against-st/, so that an interrupted experiment goes on where it stopped.
"""

import argparse
import functools
from pathlib import Path
from statistics import mean
from typing import Any

import polars as pl
from mined_rows import mined_rows, with_prompts
from result_file import kept, main_scores, options, spread, write_result

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.recipes.schema import Recipe
from conan_embed.training.run import load_table, mine, train
from conan_embed.training.setup import load_base_model, load_data

RETRIEVAL = {
    "drcd": ("finetune/retrieval/drcd_dev.parquet", "finetune/corpus/drcd_dev.parquet"),
    "cmrc": ("finetune/retrieval/cmrc_trial.parquet", "finetune/corpus/cmrc_trial.parquet"),
    "medical": ("pretrain/qa_medical_toyhom.parquet", None),
    "tidb": ("pretrain/web_tidb_docs.parquet", None),
}
STS = ("finetune/sts/stsb_zh_train.parquet", "finetune/sts/lcqmc_dev.parquet")
ROWS = 3000  # of each retrieval set
TASKS = [
    "retrieval/MedicalQA",
    "retrieval/TiDBDocs",
    "retrieval/DuReaderRobust",
    "retrieval/SciFact",
    "sts/STSB",
    "sts/AFQMC",
]
QUERIES, NEGATIVES, PAIRS = 16, 3, 16  # one batch size for both tasks, as SentenceTransformerTrainer has it
LEARNING_RATE, TEMPERATURE, STS_TEMPERATURE = 3e-5, 0.02, 0.05
MAX_LENGTH = 128


def recipe(arguments: argparse.Namespace, seed: int, arm: str = "ours") -> Recipe:
    """Our side; the rankings are mined once and shared by all seeds and by the other side."""
    data = arguments.data
    return Recipe.model_validate(
        {
            "model": {"base": str(arguments.base), "max_length": MAX_LENGTH},
            "data": {
                "retrieval": [
                    {
                        "name": name,
                        "path": str(data / path),
                        "limit": ROWS,
                        **({"corpus": str(data / corpus)} if corpus else {}),
                    }
                    for name, (path, corpus) in RETRIEVAL.items()
                ],
                "sts": [{"name": Path(path).stem, "path": str(data / path)} for path in STS],
            },
            "step": {"queries": QUERIES, "num_negatives": NEGATIVES, "sts_pairs": PAIRS, "in_batch": "step"},
            "loss": {"temperature": TEMPERATURE, "sts_temperature": STS_TEMPERATURE},
            "mining": {"depth": 50, "offset": 10},
            "optimizer": {"learning_rate": LEARNING_RATE, "weight_decay": 0.0},
            "training": {
                "steps": arguments.steps * (2 if arm == "ours-updates" else 1),
                "seed": seed,
                "checkpoint_every": 0,
            },
            "tracking": {"tensorboard": False},
            "output": str(arguments.output / f"{arm}-{seed}"),
            "cache": str(arguments.output / "cache"),
        }
    )


def rows_with_negatives(arguments: argparse.Namespace) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that both sides train on: (query, positive, negative list) and (text_a, text_b, score in 0 .. 1)."""
    settings = recipe(arguments, 0)
    model = load_base_model(settings.model, settings.training.seed)
    tasks = load_data(settings.data, settings.cache, model)
    table = load_table(settings, tasks, model, arguments.output / "mining")
    assert table is not None
    retrieval = mined_rows(tasks, table, NEGATIVES)
    pairs = []
    for sts in tasks.sts:
        highest = sts.score_P.max()
        pairs += [
            (tasks.store.text(int(a)), tasks.store.text(int(b)), float(score / highest))
            for a, b, score in zip(sts.left_P, sts.right_P, sts.score_P, strict=True)
        ]
    return retrieval, pl.DataFrame(pairs, schema=["sentence1", "sentence2", "score"], orient="row")


def train_ours(arguments: argparse.Namespace, seed: int, arm: str) -> Path:
    settings = recipe(arguments, seed, arm)
    shared = mine(settings, arguments.output / "mining")  # what is there already is only read
    return train(settings.with_rankings(shared)) / "model"


def train_theirs(arguments: argparse.Namespace, seed: int) -> Path:
    """SentenceTransformerTrainer on two data sets, as many batches of each as our joint steps hold."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CoSENTLoss, MultipleNegativesRankingLoss

    retrieval, pairs = rows_with_negatives(arguments)
    # Two sets of one size, so that its proportional sampler draws as many batches of each.
    rows, count = (
        retrieval.sample(arguments.steps * QUERIES, seed=seed, shuffle=True),
        arguments.steps * PAIRS,
    )
    graded = pl.concat([pairs.sample(fraction=1, shuffle=True, seed=seed)] * (count // len(pairs) + 1)).head(
        count
    )
    prompts = load_base_model(recipe(arguments, seed).model, seed).prompts
    rows = with_prompts(rows, prompts)
    graded = graded.with_columns(
        pl.concat_str(pl.lit(prompts["sts"]), pl.col(name)).alias(name) for name in ("sentence1", "sentence2")
    )
    model = SentenceTransformer(str(arguments.base), device="cpu")
    model.max_seq_length = MAX_LENGTH
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    output = arguments.output / f"theirs-{seed}"
    settings = SentenceTransformerTrainingArguments(
        str(output / "trainer"),
        per_device_train_batch_size=QUERIES,
        max_steps=2 * arguments.steps,
        learning_rate=LEARNING_RATE,
        warmup_steps=round(0.05 * 2 * arguments.steps),
        lr_scheduler_type="linear",
        weight_decay=0.0,
        bf16=True,
        use_cpu=True,
        seed=seed,
        save_strategy="no",
        report_to="none",
        multi_dataset_batch_sampler="round_robin",
    )
    trainer = SentenceTransformerTrainer(
        model,
        settings,
        {"retrieval": Dataset.from_polars(rows), "sts": Dataset.from_polars(graded)},
        loss={
            "retrieval": MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
            "sts": CoSENTLoss(model, scale=1 / STS_TEMPERATURE),
        },
    )
    trainer.train()
    model.save(str(output / "model"))
    return output / "model"


def score(arguments: argparse.Namespace, model: Path) -> dict[str, float]:
    return main_scores(EmbeddingModel.load(model, max_length=MAX_LENGTH), arguments.data, TASKS)


def run_arm(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    """Train one arm and score it."""
    if name == "base":
        return score(arguments, arguments.base)
    trained = train_theirs(arguments, seed) if name == "theirs" else train_ours(arguments, seed, name)
    return score(arguments, trained)


def arm(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    """Return the scores of an arm, which is trained where there are none yet."""
    train_it = functools.partial(run_arm, arguments, name, seed)
    return means(kept(arguments.output / f"{name}-{seed}.json", train_it, f"{name}, seed {seed}"))


def means(scores: dict[str, float]) -> dict[str, float]:
    """Add the two means that the comparison is about."""
    kinds = {
        kind: [value for key, value in scores.items() if key.startswith(kind)]
        for kind in ("retrieval", "sts")
    }
    return {**scores, **{f"mean of {kind}": mean(values) for kind, values in kinds.items()}}


def table(base: dict[str, float], results: dict[str, list[dict[str, float]]]) -> list[str]:
    """A row per set: the base, then each arm as mean ± standard deviation, and its difference to theirs."""
    lines = [f"| set | base | {' | '.join(results)} |", "|---|---|" + "---|" * len(results)]
    for key, value in base.items():
        cells = [f"{100 * value:.2f}"]
        theirs = mean(100 * scores[key] for scores in results["theirs"])
        for name, found in results.items():
            values = [100 * scores[key] for scores in found]
            against = "" if name == "theirs" else f" ({mean(values) - theirs:+.2f})"
            cells.append(f"{spread(values)}{against}")
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = options(__doc__, "runs/against-st")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--arms", nargs="*", default=["theirs", "ours", "ours-updates"])
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.arms}
    base = arm(arguments, "base", 0)
    for seed in arguments.seeds:
        for name, found in results.items():
            found.append(arm(arguments, name, seed))
    lines = table(base, results)
    what = (
        f"{arguments.base.name}; {arguments.steps} steps of {QUERIES} queries x (1 positive + {NEGATIVES} negatives) and "
        f"{PAIRS} STS pairs; learning rate {LEARNING_RATE}, bfloat16, no dropout; {len(arguments.seeds)} seeds. "
        "theirs: sentence-transformers, two updates for each of these steps. Retrieval: nDCG@10 x 100; STS: Spearman x 100; "
        "mean ± standard deviation over the seeds (difference to theirs)."
    )
    write_result("Against sentence-transformers", what, lines, {"base": base, **results}, arguments.write)


if __name__ == "__main__":
    main()
