"""Settings of a tuning run, derived from the model, the amount of data and the time given; each says why.

What it decides is written as an ordinary recipe (`recipe.yaml`), so it can be read, changed and trained again.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conan_embed.errors import UserError
from conan_embed.files import write_text
from conan_embed.recipes.loading import load_recipe
from conan_embed.recipes.schema import Recipe
from conan_embed.tuning.speed import Speed

SCORING, LOOKING, STEPS = (
    "scoring the base and the result",
    "mining and looks at development",
    "training steps",
)
CHOOSING = "choosing the weights"
MIN_STEPS = 20
MAX_EVALUATIONS, MIN_EVALUATIONS = 10, 3
"""Looks at the development questions during training: as many as take a tenth of the time of training."""
PATIENCE = 3
"""Looks in a row without a better score, after which training ends."""
SHARES = (1.0, 0.75, 0.5)
"""Of the tuned weights, tried on the development questions; the rest is the base's."""
_BUSY = 0.25  # of the processors
_NARROW = 0.5  # mean cosine of unrelated texts; above it cosines differ little, as E5's do


@dataclass(frozen=True)
class Facts:
    """What the plan is made from.

    Attributes:
        base: folder or hub name of the model.
        parameters: of the model.
        background: mean cosine of unrelated texts under the base model.
        device: "cpu" or "cuda".
        max_length: tokens per text that training reads.
        queries: of training.
        corpus: passages to mine from.
        passages: all of them; test, development: questions; development_passages: those they are asked against.
        other_passages: of the other domains.
    """

    base: str
    parameters: int
    background: float
    device: str
    max_length: int
    queries: int
    corpus: int
    passages: int
    test: int
    development: int
    development_passages: int
    other_passages: int
    speed: Speed


@dataclass(frozen=True)
class Plan:
    """Attributes:
    recipe: what is trained.
    steps: how many.
    seconds: estimated, by part.
    reasons: the settings that were derived, in sentences.
    """

    recipe: Recipe
    steps: int
    seconds: dict[str, float]
    reasons: list[str] = field(default_factory=list)

    @property
    def minutes(self) -> float:
        return sum(self.seconds.values()) / 60

    def lines(self) -> list[str]:
        """Return the plan for a person."""
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items())
        return [*self.reasons, f"estimated: {duration(60 * self.minutes)} ({parts})"]


def make_plan(
    facts: Facts,
    files: "Files",
    *,
    minutes: float | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> Plan:
    """Choose the settings, write them to `files.recipe`, and return them with the time they will take.

    Args:
        minutes: for everything from here on; None for as long as the data is worth.
        overrides: `dotted.key=value`, on top of what was derived.

    Raises:
        UserError: the time does not suffice even for a few steps, or an override does not fit.
    """
    queries, num_negatives = step_size(facts.device, facts.queries)
    epochs = _epochs(facts.queries)
    steps = max(MIN_STEPS, math.ceil(facts.queries * epochs / queries))
    step = facts.speed.step_seconds(queries, num_negatives)
    looks = _looks(facts, steps * step)
    fixed = _fixed_seconds(facts, looks)
    reasons = _reasons(facts, queries, num_negatives, epochs)
    if minutes is not None:
        affordable = int((60 * minutes - sum(fixed.values())) / step)
        if affordable < MIN_STEPS:
            needed = (sum(fixed.values()) + MIN_STEPS * step) / 60
            raise UserError(
                f"--minutes: found {minutes:g}, but encoding and {MIN_STEPS} steps take about {needed:.1f} here; "
                f"expected {math.ceil(needed)} or more, fewer documents, or a smaller model."
            )
        if affordable < steps:
            reasons.append(f"{affordable:,} steps instead of {steps:,}: what fits into {minutes:g} minutes")
            steps = affordable
    reasons.append(
        f"ends early after {PATIENCE} of {looks} looks at the development questions without a gain"
    )
    if facts.speed.busy > _BUSY:
        reasons.append(
            f"other programs use {facts.speed.busy:.0%} of the processors; if they end, it takes less than estimated"
        )
    if overrides:
        reasons.append(f"set by hand, whatever stands above: {', '.join(overrides)}")
    if not (files.training / "checkpoints").exists():  # else the run goes on with what was planned then
        write_text(files.recipe, _yaml(facts, files, queries, num_negatives, steps, looks, seed))
    recipe = load_recipe(files.recipe, overrides)
    write_text(files.recipe, recipe.as_yaml())
    steps = recipe.training.steps or steps
    step = facts.speed.step_seconds(recipe.step.queries, recipe.step.num_negatives, recipe.model.max_length)
    return Plan(recipe, steps, {**fixed, STEPS: steps * step}, reasons)


def check_overrides(base: str, device: str, overrides: Sequence[str]) -> None:
    """Raise UserError where an override would not fit the recipe of a run, before there is anything to plan it by."""
    if not overrides:
        return
    speed = Speed(encode=1e5, train=1e4, passage_tokens=100, query_tokens=10)
    count = 10_000  # of everything: any numbers will do
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        for path in (files.clean, files.corpus):
            path.touch()
        facts = Facts(base, count, 0.0, device, 256, count, count, count, count, count, count, count, speed)
        try:
            make_plan(facts, files, overrides=overrides)
        except UserError as error:
            raise UserError(str(error).replace(str(files.recipe), "--set")) from None


@dataclass(frozen=True)
class Files:
    """Where the parts of a tuning run lie, all below one folder."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "settings.json"

    @property
    def pairs(self) -> Path:
        return self.folder / "pairs"

    @property
    def filter(self) -> Path:
        return self.folder / "clean"

    @property
    def clean(self) -> Path:
        return self.folder / "training_pairs.parquet"

    @property
    def corpus(self) -> Path:
        return self.folder / "training_corpus.parquet"

    @property
    def other(self) -> Path:
        return self.folder / "other"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def training(self) -> Path:
        return self.folder / "training"

    @property
    def scores(self) -> Path:
        return self.folder / "scores"

    @property
    def page(self) -> Path:
        return self.folder / "report.html"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def passages(self) -> Path:
        return self.folder / "passages.parquet"

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def result(self) -> Path:
        return self.folder / "tune.json"

    def after_pairs(self) -> tuple[Path, ...]:
        """Return all that a run writes but settings and pairs; first the result, which says that all is done."""
        return (
            *(self.result, self.page, self.index, self.passages, self.model, self.scores, self.training),
            *(self.recipe, self.cache, self.other, self.corpus, self.clean, self.filter),
        )


def step_size(device: str, queries: int) -> tuple[int, int]:
    """Return queries of a step and negatives of each."""
    if device == "cuda":
        return (64 if queries >= 2_000 else 32), 7
    return (32 if queries >= 1_000 else 16), 3


def _looks(facts: Facts, training: float) -> int:
    look = facts.speed.encoding_seconds(facts.development_passages, facts.development)
    return min(MAX_EVALUATIONS, max(MIN_EVALUATIONS, int(training / (10 * look))))


def _epochs(queries: int) -> float:
    return 3 if queries < 3_000 else 2 if queries < 20_000 else 1


def _learning_rate(parameters: int) -> float:
    return 3e-5 if parameters < 60e6 else 2e-5 if parameters < 200e6 else 1e-5


def _reasons(facts: Facts, queries: int, num_negatives: int, epochs: float) -> list[str]:
    narrow = facts.background > _NARROW
    return [
        f"learning rate {_learning_rate(facts.parameters):g}: {facts.parameters / 1e6:.0f} M parameters",
        f"{queries} queries a step with {num_negatives} hard negatives each, {epochs:g} passes: "
        f"{facts.queries:,} training queries on a {'GPU' if facts.device == 'cuda' else 'CPU'}",
        f"temperature {0.02 if narrow else 0.05}: unrelated texts have a cosine of {facts.background:.2f} on average",
        "hard negatives score below 0.95 of their positive"
        + (", counted from that cosine" if narrow else "")
        + ": what scores higher may be an answer that nobody marked",
    ]


def _fixed_seconds(facts: Facts, looks: int) -> dict[str, float]:
    encode = facts.speed.encoding_seconds
    look = encode(facts.development_passages, facts.development)
    other = encode(facts.other_passages) / 2
    return {
        SCORING: 2 * encode(facts.passages, facts.test) + other,
        LOOKING: encode(facts.corpus, facts.queries) + (looks + 1) * look,
        CHOOSING: len(SHARES) * (look + other),
    }


def _yaml(
    facts: Facts, files: Files, queries: int, num_negatives: int, steps: int, looks: int, seed: int
) -> str:
    narrow = facts.background > _NARROW
    settings: dict[str, Any] = {
        "model": {"base": facts.base, "max_length": facts.max_length},
        "data": {"retrieval": [{"name": "documents", "path": str(files.clean), "corpus": str(files.corpus)}]},
        "step": {
            "queries": queries,
            "num_negatives": num_negatives,
            "sts_pairs": 0,
            "too_few_negatives": "allow",
        },
        "loss": {"temperature": 0.02 if narrow else 0.05},
        "mining": {
            "depth": 50,
            "offset": 0,
            "max_positive_ratio": 0.95,
            "subtract_background": narrow,
            "min_usable": 4 * num_negatives,  # where the bound takes all 50, the search goes deeper
        },
        "optimizer": {"learning_rate": _learning_rate(facts.parameters), "warmup_ratio": 0.1},
        "training": {
            "steps": steps,
            "seed": seed,
            "checkpoint_every": max(50, steps // 4),
            "keep_checkpoints": 1,
        },
        "evaluation": {
            "folder": str(files.pairs / "development"),
            "every": max(1, math.ceil(steps / looks)),
            "patience": PATIENCE,
            "keep_best": True,
        },
        "output": str(files.training),
        "cache": str(files.cache),
    }
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
