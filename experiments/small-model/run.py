"""Train the small model and show what each stage gave.

    python experiments/small-model/run.py --base MODEL --data DATA [--look] [--write]

Stages, each resumable, each chosen by the development sets that data.py holds out of the training files:

1. pre-training on filtered pairs (pre-training.yaml), left out if fine-tuning is no better from it;
2. fine-tuning in joint steps, with the training splits of evaluated sets (fine-tuning.yaml) and without
   (zero-shot.yaml);
3. weights between the fine-tuned model and the base, the share chosen as well;
4. the evaluation sets, once: base, zero-shot, with splits, at widths 384, 256 and 128, beside published values.

--look runs stages 1 to 3 on a tenth of the steps, in a folder of its own, and shows the development sets: look at that
first. The script can be stopped at any time and goes on from its checkpoints.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import polars as pl
from data import write_data

sys.path.insert(0, str(Path(__file__).parents[1]))
from result_file import kept, write_result

from conan_embed.console import console
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.recipes.loading import load_recipe
from conan_embed.training.run import train
from conan_embed.tuning.merge import merge_models

HERE = Path(__file__).parent
WIDTHS = [384, 256, 128]
STARTS = ("base", "pre-trained")
SHARES = (1.0, 0.8, 0.6, 0.4)
COLUMNS = {"with splits": "fine-tuning.yaml", "zero-shot": "zero-shot.yaml"}

# Main scores as their authors publish them; parameters in millions.
PUBLISHED = {
    "gte-small-zh (30 M)": {
        "AFQMC": 36.7, "ATEC": 45.8, "LCQMC": 72.7, "PAWSX": 12.8, "QBQTC": 37.0, "STSB": 76.5, "Ocnli": 60.5, "Cmnli": 69.2
    },
    "bge-small-zh-v1.5 (24 M)": {"AFQMC": 33.4, "STSB": 76.7, "PAWSX": 9.3},
    "Dmeta-embedding-zh-small (74 M)": {
        "AFQMC": 59.5, "ATEC": 58.6, "LCQMC": 78.7, "PAWSX": 43.0, "QBQTC": 41.0, "STSB": 79.1, "Ocnli": 81.2, "Cmnli": 82.7
    },
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A model that may be chosen: its folder, and its mean score on the development sets (a fraction of one)."""

    name: str
    folder: Path
    score: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="the model to start from")
    parser.add_argument("--data", type=Path, required=True, help="laid out as docs/data.md says")
    parser.add_argument("--output", type=Path, default=Path("runs/small-model"))
    parser.add_argument("--look", action="store_true", help="a tenth of the steps")
    parser.add_argument(
        "--starts", nargs="+", choices=STARTS, default=list(STARTS), help="what fine-tuning starts from"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of both stages")
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    write_data(arguments.data, arguments.output)
    os.environ |= {
        "CONAN_WORK": str(arguments.output),
        "CONAN_DATA": str(arguments.data),
        "CONAN_BASE": str(arguments.base),
    }
    folder = arguments.output / ("look" if arguments.look else "full")
    starts = {"base": arguments.base}
    if "pre-trained" in arguments.starts:
        starts["pre-trained"] = stage(arguments, "pre-training.yaml", folder / "pre-trained")
    tried, chosen = [], {}
    for column, recipe in COLUMNS.items():
        candidates = [
            candidate
            for name in arguments.starts
            for candidate in fine_tuned(
                arguments, recipe, folder / column.replace(" ", "-"), name, starts[name]
            )
        ]
        tried += [(column, candidate) for candidate in candidates]
        chosen[column] = max(candidates, key=lambda candidate: candidate.score)
    report(arguments, folder, tried, chosen)


def stage(arguments: argparse.Namespace, recipe: str, output: Path) -> Path:
    """Train a recipe into `output`, or go on with it; return the model."""
    if not (output / "report.html").exists():
        steps = load_recipe(HERE / recipe, [f"output={output}"]).training.steps
        assert steps is not None
        if arguments.look:
            steps //= 10
        own = [f"output={output}", f"cache={arguments.output / 'cache'}", f"training.steps={steps}"]
        console.rule(str(output))
        train(load_recipe(HERE / recipe, [*own, *arguments.set]))
    return output / "model"


def fine_tuned(
    arguments: argparse.Namespace, recipe: str, folder: Path, name: str, start: Path
) -> list[Candidate]:
    """Fine-tune from `start`; return the model, and its weights between it and the base."""
    os.environ["CONAN_START"] = str(start)
    model = stage(arguments, recipe, folder / f"from-{name}")
    candidates = []
    for share in SHARES:
        merged = folder / f"from-{name}-{share:g}"
        if share < 1 and not merged.exists():
            merge_models(model, arguments.base, merged, share=share)
        place = model if share == 1 else merged
        scores = scored(place, arguments.output / "development", folder / f"{merged.name}.development.json")
        candidates.append(Candidate(f"from {name}, share {share:g}", place, mean_of(scores)))
    return candidates


def scored(model: Path, folder: Path, result: Path, widths: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the scores on an evaluation folder, computed once."""

    def run() -> dict[str, Any]:
        return evaluate(EmbeddingModel.load(model), folder, widths=widths).to_json()

    return kept(result, run, f"{model.name}: {folder.name}")  # type: ignore[no-any-return]


def mean_of(scores: dict[str, Any]) -> float:
    """Return the mean of the development sets; retrieval counts as much as all graded sets together."""
    by_type: dict[str, list[float]] = {}
    for task, result in scores["tasks"].items():
        by_type.setdefault(task.partition("/")[0], []).append(result["main_score"])
    return mean(mean(values) for values in by_type.values())


def report(
    arguments: argparse.Namespace,
    folder: Path,
    tried: list[tuple[str, Candidate]],
    chosen: dict[str, Candidate],
) -> None:
    """Score the chosen models on the evaluation sets, once, and write the table; after a look only what it chose by."""
    choices = [
        *("## What was tried, on the development sets", "", *_tried_lines(tried, chosen), ""),
        *("## Cost", "", *_cost_lines(folder), ""),
    ]
    if arguments.look:
        what = f"Starting from {arguments.base.name}; a tenth of the steps. One run of each stage, one seed."
        write_result("A small model, a look", what, choices, {}, arguments.write, name="small-model-look")
        return
    models = {"base": arguments.base, **{column: candidate.folder for column, candidate in chosen.items()}}
    results = {
        column: scored(model, arguments.data / "eval", folder / f"{column.replace(' ', '-')}.json", WIDTHS)[
            "tasks"
        ]
        for column, model in models.items()
    }
    lines = [
        *("## Evaluation sets", "", *_score_lines(results), ""),
        *("## Beside published values", "", *_published_lines(results), ""),
        *choices,
    ]
    what = (
        f"Starting from {arguments.base.name}. One run of each "
        "stage, one seed: no interval speaks about another run. The column `with splits` was trained on the training "
        "splits of AFQMC, ATEC, LCQMC, PAWSX, QBQTC and STSB and on the sources of MedicalQA, TiDBDocs, CMRC2018, TRECQA "
        "and CSL; `zero-shot` on none of these. Chosen by the development sets alone."
    )
    write_result("A small model", what, lines, results, arguments.write, name="small-model")


def _score_lines(results: dict[str, dict[str, Any]]) -> list[str]:
    columns = [(column, width) for column in results for width in WIDTHS]
    head = ["set", *(column if width == WIDTHS[0] else f"{column}, {width}" for column, width in columns)]
    body = [
        [task, *(f"{100 * results[column][task]['widths'][str(width)]:.1f}" for column, width in columns)]
        for task in next(iter(results.values()))
    ]
    return _grid(head, body)


def _published_lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """Chinese sets that authors publish values of; pairs by accuracy at the best threshold, as C-MTEB has them."""
    sets = {"AFQMC": "sts", "ATEC": "sts", "LCQMC": "sts", "STSB": "sts", "Ocnli": "pair_classification"}
    body = []
    for column, tasks in results.items():
        scores = [tasks[f"{type_}/{name}"] for name, type_ in sets.items()]
        values = [score.get("cosine_accuracy", score["main_score"]) for score in scores]
        body.append([column, *(f"{100 * value:.1f}" for value in values)])
    for model, values in PUBLISHED.items():
        body.append([model, *(f"{values[name]:.1f}" if name in values else "" for name in sets)])
    return _grid(["model", *sets], body)


def _tried_lines(tried: list[tuple[str, Candidate]], chosen: dict[str, Candidate]) -> list[str]:
    body = [
        [
            column,
            candidate.name,
            f"{100 * candidate.score:.2f}",
            "chosen" if candidate == chosen[column] else "",
        ]
        for column, candidate in tried
    ]
    return _grid(["column", "model", "mean of the development sets", ""], body)


def _cost_lines(folder: Path) -> list[str]:
    body = []
    for metrics in sorted(folder.rglob("metrics.jsonl")):
        steps = pl.read_ndjson(metrics)
        hours = steps["seconds"].sum() / 3600
        body.append(
            [
                str(metrics.parent.relative_to(folder)),
                f"{len(steps):,}",
                f"{steps['tokens'].sum():,}",
                f"{hours:.2f}",
            ]
        )
    return _grid(["stage", "steps", "tokens", "hours"], body)


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
