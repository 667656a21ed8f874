"""What the experiments have in common: their first options, arms that are kept one by one, and the dated result file."""

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from conan_embed.ablation.comparison import Results
from conan_embed.ablation.job import ArmResult
from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.local import evaluate
from conan_embed.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"


def options(about: str | None, output: str, seeds: Sequence[int] = (0, 1, 2)) -> argparse.ArgumentParser:
    """Return a parser with the options of every experiment.

    Args:
        about: the docstring of the script, which is its help.
        output: where arms are kept unless told otherwise.
        seeds: of every arm, unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the model to start from")
    parser.add_argument("--data", type=Path, required=True, help="laid out as docs/data.md says")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(seeds))
    parser.add_argument("--output", type=Path, default=Path(output), help="where arms are kept")
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    return parser


def kept(path: Path, make: Callable[[], Any], title: str) -> Any:
    """Return the result that `path` holds; where there is none yet, make it and keep it there."""
    if not path.exists():
        console.rule(title)
        write_json(path, make())
    return read_json(path)


def main_scores(model: EmbeddingModel, data: Path, tasks: Sequence[str]) -> dict[str, float]:
    """Return the main score of each task, as a fraction of one; the model is scored on the device that trains."""
    results = evaluate(model.to(collectives.start()), data / "eval", tasks=tasks)
    return {key: task.main for key, task in results.items()}


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation of scores in per cent; the mean alone of one."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def by_domain(results: Results, others: Sequence[str]) -> list[list[ArmResult]]:
    """Return the results with tasks named by domain, so that tables average the `others` by themselves."""
    return [[_by_domain(result, others) for result in of_arm] for of_arm in results]


def _by_domain(result: ArmResult, others: Sequence[str]) -> ArmResult:
    def name(task: str) -> str:
        data_set = task.partition("/")[2]
        return f"{'other domains' if data_set in others else 'in domain'}/{data_set}"

    return replace(
        result,
        scores={name(task): score for task, score in result.scores.items()},
        items={name(task): items for task, items in result.items.items()},
    )


def write_result(title: str, what: str, lines: Sequence[str], raw: Any, write: bool, name: str = "") -> None:
    """Print a result; if asked, keep it as experiments/results/NAME_DATE.md, and `raw` as .json beside it.

    Args:
        what: a sentence with the settings.
        lines: of Markdown.
        name: of the files; else the script's.
    """
    script = Path(sys.argv[0])
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    # Where a file lies on this machine says nothing to others: of an absolute path only the name is shown.
    arguments = [Path(argument).name if argument.startswith("/") else argument for argument in sys.argv[1:]]
    command = " ".join(["python", f"experiments/{script.resolve().relative_to(RESULTS.parent)}", *arguments])
    text = "\n".join([f"# {title}, {today}", "", f"`{command}`", "", what, "", *lines, ""])
    print(text)
    if write:
        name = f"{name or script.stem}_{today}"
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
        (RESULTS / f"{name}.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")
