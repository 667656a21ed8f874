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
import datetime
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import polars as pl

from conan_embed.console import console
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.local import evaluate
from conan_embed.files import read_json, write_json
from conan_embed.recipes.schema import Recipe
from conan_embed.training.rankings import make_table
from conan_embed.training.run import load_data, load_model, mine, train

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
            "step": {"queries": QUERIES, "negatives": NEGATIVES, "sts_pairs": PAIRS, "in_batch": "step"},
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
    model = load_model(settings)
    tasks = load_data(settings, model)
    table = make_table(settings, tasks, model, arguments.output / "mining")
    assert table is not None
    records, start = [], 0
    for data in tasks.retrieval:
        for row in range(len(data)):
            negatives = table.ranking_QK[start + row, :NEGATIVES]
            positive = data.positives[data.list_Q[row]][0]
            records.append(
                [tasks.store.text(int(text)) for text in (data.query_Q[row], positive, *negatives)]
            )
        start += len(data)
    retrieval = pl.DataFrame(
        records, schema=["anchor", "positive", *(f"negative_{n}" for n in range(NEGATIVES))], orient="row"
    )
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
    prompts = load_model(recipe(arguments, seed)).prompts
    rows = rows.with_columns(
        pl.concat_str(
            pl.lit(prompts["query"] if name == "anchor" else prompts["passage"]), pl.col(name)
        ).alias(name)
        for name in rows.columns
    )
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
    loaded = EmbeddingModel.load(model, max_length=MAX_LENGTH)
    results = evaluate(loaded, arguments.data / "eval", tasks=TASKS)
    return {key: result["main_score"] for key, result in results["tasks"].items()}


def arm(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    """Train and score one arm, or read its result."""
    path = arguments.output / f"{name}-{seed}.json"
    if not path.exists():
        console.rule(f"{name}, seed {seed}")
        if name == "base":
            model = arguments.base
        else:
            model = train_theirs(arguments, seed) if name == "theirs" else train_ours(arguments, seed, name)
        write_json(path, score(arguments, model))
    found: dict[str, float] = read_json(path)
    return found


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
        theirs = mean(scores[key] for scores in results["theirs"])
        for name, found in results.items():
            values = [scores[key] for scores in found]
            spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
            against = "" if name == "theirs" else f" ({100 * (mean(values) - theirs):+.2f})"
            cells.append(f"{100 * mean(values):.2f}{spread}{against}")
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=["theirs", "ours", "ours-updates"])
    parser.add_argument("--output", type=Path, default=Path("runs/against-st"))
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.arms}
    base = means(arm(arguments, "base", 0))
    for seed in arguments.seeds:
        for name, found in results.items():
            found.append(means(arm(arguments, name, seed)))
    lines = table(base, results)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    what = (
        f"{arguments.base.name}; {arguments.steps} steps of {QUERIES} queries x (1 positive + {NEGATIVES} negatives) and "
        f"{PAIRS} STS pairs; learning rate {LEARNING_RATE}, bfloat16, no dropout; {len(arguments.seeds)} seeds. "
        "theirs: sentence-transformers, two updates for each of these steps. Retrieval: nDCG@10 x 100; STS: Spearman x 100; "
        "mean ± standard deviation over the seeds (difference to theirs)."
    )
    command = "python experiments/against_sentence_transformers.py " + " ".join(sys.argv[1:])
    text = "\n".join([f"# Against sentence-transformers, {today}", "", what, "", *lines, ""])
    print(command, text, sep="\n\n")
    if arguments.write:
        folder = Path(__file__).parent / "results"
        (folder / f"against_sentence_transformers_{today}.md").write_text(text, encoding="utf-8")
        raw = {"base": base, **results}
        (folder / f"against_sentence_transformers_{today}.json").write_text(
            json.dumps(raw, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
