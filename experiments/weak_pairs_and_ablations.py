"""Does weakly supervised pre-training help, and what is each part of fine-tuning worth? Sized for a GPU.

    python experiments/weak_pairs_and_ablations.py --base MODEL --data DATA [--only weak ablations] [--seeds 0 1 2]

DATA is laid out as finetune/, pretrain/ and eval/ (docs/data.md); a DATA/filtered/ of `conan-embed filter` adds the arm
that pre-trains on filtered pairs. MODEL is a plain encoder.

- weak: MODEL fine-tuned at once, or after as many steps again on weak pairs, raw or filtered.
- ablations: fine-tuning as in conan-v1-finetune, with one thing changed in each arm.

Arms go seed by seed and are kept under --output: the same command goes on where it stopped, inside a run too (a request
to stop saves a checkpoint). The tables are printed at the end, with the arms that are there.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from conan_embed.console import console
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.files import read_json, write_json
from conan_embed.recipes.schema import Recipe
from conan_embed.training.run import mine, train

RETRIEVAL = {
    "drcd": "finetune/corpus/drcd_dev.parquet",
    "cmrc": "finetune/corpus/cmrc_trial.parquet",
    "c3_mixed": "finetune/corpus/c3_mixed.parquet",
    "csnli": None,
    "cinlid_idioms": None,
}
FILES = {"drcd": "drcd_dev", "cmrc": "cmrc_trial"}
STS = ("stsb_zh_train", "lcqmc_dev", "atec_dev", "chinese_sts_simtrain")
# One category each of the kinds that the paper names: news, encyclopedia, web, academic, question and answer, dialogue.
WEAK = (
    "news_cctv",
    "kb_laws",
    "web_lctt_sections",
    "web_goldminer",
    "acad_paperlists_en",
    "instr_alpaca_zh",
    "llm_smile",
    "social_weibo_reposts",
)
TASKS = [
    "retrieval/MedicalQA",
    "retrieval/TiDBDocs",
    "retrieval/DuReaderRobust",
    "reranking/MedicalQA-bm25neg",
    "sts",
    "pair_classification",
]
WEAK_ARMS: dict[str, str | None] = {
    "fine-tuned only": None,
    "raw pairs first": "pretrain",
    "filtered pairs first": "filtered",
}
ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "as it is": {},
    "one task a step": {"step": {"mixing": "sequential"}},
    "static negatives": {"negatives": {"source": "static"}},
    "no hard negatives": {"step": {"negatives": 0, "in_batch": "step"}},
    "three negatives": {"step": {"negatives": 3}},
    "in-batch negatives too": {"step": {"in_batch": "dataset"}},
    "no sts": {"step": {"sts_pairs": 0}},
    "one width": {"model": {"widths": []}},
    "no dense layer": {"model": {"dense_width": None, "widths": []}},
    "first ranks too": {"mining": {"offset": 0}},
}


def shared(arguments: argparse.Namespace, output: Path, seed: int) -> dict[str, Any]:
    """The settings of all recipes here."""
    return {
        "optimizer": {"learning_rate": arguments.learning_rate},
        "training": {"steps": arguments.steps, "seed": seed, "checkpoint_every": 200, "keep": 1},
        "tracking": {"tensorboard": False},
        "output": str(output),
        "cache": str(arguments.output / "cache"),
    }


def finetuning(arguments: argparse.Namespace, base: Path, output: Path, seed: int, change: Any) -> Recipe:
    """Return conan-v1-finetune over the data at hand, with the changes of an arm."""
    negatives = change.get("step", {}).get("negatives", 7)
    sets = [
        {
            "name": name,
            "path": str(arguments.data / f"finetune/retrieval/{FILES.get(name, name)}.parquet"),
            "limit": arguments.rows,
            "negatives": "mined" if negatives else "none",
            **({"corpus": str(arguments.data / corpus)} if corpus else {}),
        }
        for name, corpus in RETRIEVAL.items()
    ]
    sts = [
        {
            "name": name,
            "path": str(arguments.data / f"finetune/sts/{name}.parquet"),
            **({"limit": arguments.rows} if arguments.rows else {}),
        }
        for name in STS
    ]
    with_sts = change.get("step", {}).get("sts_pairs", 32) > 0
    sections: dict[str, dict[str, Any]] = {
        "model": {
            "base": str(base),
            "pooling": "cls",
            "dense_width": 1792,
            "widths": [1792, 1024, 512, 256],
            "max_length": arguments.max_length,
        },
        "data": {"retrieval": sets, "sts": sts if with_sts else []},
        "step": {
            "queries": arguments.queries,
            "in_batch": "none",
            "sts_pairs": 32,
            "too_few_negatives": "allow",
        },
        "loss": {"temperature": 0.02},
        "mining": {"depth": 100, "offset": 10},
        "negatives": {"source": "ranking", "interval": 50},
    }
    for name, values in change.items():
        sections[name] |= values
    return Recipe.model_validate(sections | shared(arguments, output, seed))


def pretraining(arguments: argparse.Namespace, folder: str, output: Path, seed: int) -> Recipe:
    """Return conan-v1-pretrain over the weak pairs in `folder`."""
    sets = [
        {
            "name": name,
            "path": str(arguments.data / folder / f"{name}.parquet"),
            "negatives": "none",
            "limit": arguments.rows,
        }
        for name in WEAK
    ]
    return Recipe.model_validate(
        {
            "model": {"base": str(arguments.base), "pooling": "cls", "max_length": arguments.max_length},
            "data": {"retrieval": sets, "on_bad_row": "drop"},
            "step": {
                "queries": 8 * arguments.queries,
                "negatives": 0,
                "in_batch": "dataset",
                "one_dataset": True,
                "sts_pairs": 0,
            },
            "loss": {"temperature": 0.02},
            **shared(arguments, output, seed),
        }
    )


def finetuned(
    arguments: argparse.Namespace, name: str, base: Path, seed: int, change: dict[str, Any]
) -> dict[str, float]:
    """Fine-tune and score one arm, or read its result."""
    run = arguments.output / f"{name.replace(' ', '-')}-{seed}"
    result = run.with_suffix(".json")
    if not result.exists():
        console.rule(f"{name}, seed {seed}")
        settings = finetuning(arguments, base, run, seed, change)
        if settings.step.negatives:
            # Rankings hang on the model and on the offset: arms that share both share them.
            ranked_by = base.parent.name if base.name == "model" else "base"
            settings = settings.with_rankings(
                mine(settings, arguments.output / f"mining-{ranked_by}-{settings.mining.offset}")
            )
        train(settings)
        model = EmbeddingModel.load(run / "model", max_length=arguments.max_length)
        write_json(
            result, scores(evaluate(model.to(device_of()), arguments.data / "eval", tasks=arguments.tasks))
        )
    found: dict[str, float] = read_json(result)
    return found


def device_of() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def scores(results: dict[str, Any]) -> dict[str, float]:
    return {key: result["main_score"] for key, result in results["tasks"].items()}


def weak_arm(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    folder = WEAK_ARMS[name]
    base = arguments.base
    if folder is not None:
        run = arguments.output / f"pretrained-on-{folder}-{seed}"
        if not (run / "model").exists():
            console.rule(f"pre-training on {folder}, seed {seed}")
            train(pretraining(arguments, folder, run, seed))
        base = run / "model"
    return finetuned(arguments, f"weak {name}", base, seed, {})


def table(title: str, results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return one line an arm: every task and their mean, x 100, mean and standard deviation over the seeds."""
    tasks = sorted({task for runs in results.values() for run in runs for task in run})
    lines = [f"## {title}", "", f"| arm | {' | '.join(tasks)} | mean |", "|---|" + "---|" * (len(tasks) + 1)]
    for arm, runs in results.items():
        cells = [
            *([100 * run[task] for run in runs] for task in tasks),
            [100 * mean(run.values()) for run in runs],
        ]
        shown = [f"{mean(cell):.2f}" + (f" ± {stdev(cell):.2f}" if len(cell) > 1 else "") for cell in cells]
        lines.append(f"| {arm} | {' | '.join(shown)} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["weak", "ablations"], choices=["weak", "ablations"])
    parser.add_argument("--arms", nargs="*", help="names of arms; else all")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rows", type=int, help="of each data set; else all")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--output", type=Path, default=Path("runs/weak-pairs-and-ablations"))
    arguments = parser.parse_args()
    lines: list[str] = []
    try:
        for kind in arguments.only:
            arms = list(WEAK_ARMS if kind == "weak" else ABLATIONS)
            if kind == "weak" and not (arguments.data / "filtered").exists():
                arms.remove("filtered pairs first")
            arms = [arm for arm in arms if not arguments.arms or arm in arguments.arms]
            results: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
            for seed in arguments.seeds:
                for arm in arms:
                    if kind == "weak":
                        found = weak_arm(arguments, arm, seed)
                    else:
                        found = finetuned(arguments, arm, arguments.base, seed, ABLATIONS[arm])
                    results[arm].append(found)
            lines += table("Weak pairs" if kind == "weak" else "Ablations", results)
    except UserError as error:
        sys.exit(str(error))
    text = "\n".join(lines)
    print(text)
    (arguments.output / "table.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
