"""A run directory as a typed object: whatever of its files is there, read once and put in order.

Any file may be missing, or cut short because the run was killed while it wrote: what cannot be read is left
out, and the page leaves out the section that needed it. A run that was resumed from a checkpoint has
written some steps twice; the later line of a step is the one that counts.
"""

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from conan_embed.errors import UserError
from conan_embed.files import read_json
from conan_embed.recipes.schema import Recipe

FILES = ("recipe.yaml", "run.json", "metrics.jsonl", "evaluation.jsonl", "negatives.jsonl", "examples.json")


FULL_WIDTH = 1 << 30  # stands for the full width where the results do not say how wide that is


@dataclass(frozen=True)
class Score:
    """The main score of one evaluation task in per cent, `by_width` from the full width down."""

    key: str  # kind/task, unique in an evaluation
    task: str
    kind: str  # retrieval, reranking, sts, pair_classification, classification, clustering, bitext
    metric: str
    by_width: dict[int, float]

    @property
    def value(self) -> float:
        """The score at the full width."""
        return next(iter(self.by_width.values()))


@dataclass(frozen=True)
class Evaluation:
    """The scores of all tasks, by key, after `step` steps (0: before training); `average` is that over
    kinds of task, in per cent."""

    step: int
    scores: dict[str, Score]
    average: float


@dataclass(frozen=True)
class RunFiles:
    """One run directory; absent files are empty values."""

    path: Path
    name: str
    recipe: Recipe | None = None
    recipe_text: str = ""  # of recipe.yaml as it stands
    record: dict[str, Any] = field(default_factory=dict)
    metrics: pl.DataFrame = field(default_factory=pl.DataFrame)  # one row a step
    checks: pl.DataFrame = field(default_factory=pl.DataFrame)  # one row a check of the negatives
    evaluations: tuple[Evaluation, ...] = ()
    mining: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: dict[str, Any] = field(default_factory=dict)
    hardest: tuple[
        dict[str, Any], ...
    ] = ()  # pairs of hard_negatives.jsonl, those nearest to their positive first

    @property
    def num_steps(self) -> int:
        """The last step taken."""
        return int(self.metrics["step"][-1]) if len(self.metrics) else 0

    @property
    def last_step(self) -> int:
        """The last step of which any file speaks."""
        checked = int(self.checks["step"][-1]) if len(self.checks) else 0
        return max(self.num_steps, checked, *(evaluation.step for evaluation in self.evaluations), 0)

    def total(self, key: str) -> float:
        """The sum of a key of metrics.jsonl over all steps; NaN where it was never recorded."""
        values_N = known(self.metrics, key)[1]
        return float(values_N.sum()) if len(values_N) else float("nan")

    def median(self, key: str) -> float:
        """The median of a key of metrics.jsonl over the steps; NaN where it was never recorded."""
        values_N = known(self.metrics, key)[1]
        return float(np.median(values_N)) if len(values_N) else float("nan")

    def last_check(self, key: str) -> float | None:
        """A key of negatives.jsonl at the last check that has it."""
        values_N = known(self.checks, key)[1]
        return float(values_N[-1]) if len(values_N) else None

    @property
    def before(self) -> Evaluation | None:
        """The evaluation before training."""
        return self.evaluations[0] if self.evaluations and self.evaluations[0].step == 0 else None

    @property
    def after(self) -> Evaluation | None:
        """The evaluation to show as the outcome: the best by average where training keeps the best, else
        the last."""
        trained = [evaluation for evaluation in self.evaluations if evaluation.step > 0]
        if trained and self.recipe is not None and self.recipe.evaluation.keep_best:
            # The first of equals, as training does; an average may be nan.
            return max(trained, key=lambda each: (math.isfinite(each.average), each.average))
        return trained[-1] if trained else None

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each data set, by name."""
        return {data["name"]: data["rows"] for data in self.record.get("datasets", [])}


def known(frame: pl.DataFrame, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values, float64 `[N]` each, of the rows in which `key` is a finite number."""
    if not {"step", key} <= set(frame.columns) or not frame.schema[key].is_numeric():
        return np.empty(0), np.empty(0)
    rows = frame.select(step=pl.col("step").cast(pl.Float64), value=pl.col(key).cast(pl.Float64))
    rows = rows.filter(pl.col("value").is_finite())
    return rows["step"].to_numpy(), rows["value"].to_numpy()


def read_runs(paths: Sequence[Path]) -> list[RunFiles]:
    """Read run directories, named by their folders (by as many parents as tell them apart).

    Raises:
        UserError: a path is not a folder, or holds none of the files of a run.
    """
    paths = [Path(path).resolve() for path in paths]
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such run directory.")
        if not any((path / name).exists() for name in FILES):
            raise UserError(
                f"{path}: not a run directory: expected one of {', '.join(FILES)} in it "
                "(or, for the output of a filter, filter.json)."
            )
    depth = 1
    while depth < 9 and len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return [_read_run(path, "/".join(path.parts[-depth:])) for path in paths]


def _read_run(path: Path, name: str) -> RunFiles:
    record = _json(path / "run.json")
    mining = _json(path / "mining" / "mining.json").get("datasets")
    return RunFiles(
        path=path,
        name=name,
        recipe=_recipe(path / "recipe.yaml"),
        recipe_text=_text(path / "recipe.yaml"),
        record=record,
        metrics=_table(path / "metrics.jsonl"),
        checks=_table(path / "negatives.jsonl"),
        evaluations=tuple(
            _evaluation(line, record.get("width")) for line in _lines(path / "evaluation.jsonl")
        ),
        mining=mining if isinstance(mining, dict) else {},
        examples=_json(path / "examples.json"),
        hardest=tuple(_objects(path / "hard_negatives.jsonl")),
    )


def _text(path: Path) -> str:
    """The text of a file, without what is not UTF-8; empty where there is no file."""
    return path.read_text(encoding="utf-8", errors="ignore") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def _recipe(path: Path) -> Recipe | None:
    try:
        return Recipe.model_validate(yaml.safe_load(_text(path)))
    except (yaml.YAMLError, ValidationError):
        return None


def _objects(path: Path) -> list[dict[str, Any]]:
    """The whole objects of a JSON-lines file."""
    records = []
    for line in _text(path).split("\n"):
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole objects of a JSON-lines file in order of their steps, the last one of each step."""
    by_step: dict[int, dict[str, Any]] = {}
    for record in _objects(path):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            by_step[int(record["step"])] = record
    return [by_step[step] for step in sorted(by_step)]


def _table(path: Path) -> pl.DataFrame:
    lines = _lines(path)
    return pl.from_dicts(lines, infer_schema_length=None, strict=False) if lines else pl.DataFrame()


def _evaluation(line: dict[str, Any], width: int | None) -> Evaluation:
    """Read what `conan_embed.evaluation` returned about a model of that width."""
    scores = {}
    for key, result in (line.get("results") or {}).items():
        if not math.isfinite(result["main_score"]):  # a rank correlation with constant scores has no value
            continue
        kind, _, task = key.partition("/")
        widths = {int(width): 100 * value for width, value in result.get("widths", {}).items()}
        full = 100 * result["main_score"]
        if width is not None:
            widths[width] = full
        elif not widths or widths[max(widths)] != full:
            widths[FULL_WIDTH] = full
        by_width = dict(sorted(widths.items(), reverse=True))
        scores[key] = Score(key, task, kind, result["metric"], by_width)
    return Evaluation(int(line["step"]), scores, 100 * line["summary"]["average"])
