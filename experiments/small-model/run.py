"""Train the small model and show what each stage gave.

    python experiments/small-model/run.py --base MODEL --data DATA --look [--arms ...]
    python experiments/small-model/run.py --base MODEL --data DATA [--columns ...] [--write]

The look: stage 1 (pre-training.yaml, small enough to be run whole), then a tenth of the steps of stage 2
(fine-tuning.yaml) from the base and from stage 1, on the development sets that data.py holds out of the training files. It
writes its choice to OUTPUT/choice.json, which the full run reads. Other arms, by name, show what single ideas give at this
size: they cost a quarter of an hour each.

The full run, each column by itself or all in turn:

- `base`: scored only;
- `with-splits`: stage 2 with the training splits of evaluated sets (fine-tuning.yaml), `zero-shot`: without them and without
  their sources (zero-shot.yaml); each then merged with the base, by the share that is best on the development sets;
- once all are there: the table of the evaluation sets, by mteb's own classes, beside published values, and the cards.

Both can be stopped at any time; the same command goes on, inside a stage and inside an evaluation too.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from data import write_data

sys.path.insert(0, str(Path(__file__).parents[1]))
import report
from costs import spent
from scoring import FinalScores, choice_score, development_scores, final_scores
from sources import SOURCES, files_of

from conan_embed.console import console
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.results import EvaluationResult
from conan_embed.files import read_json, write_json
from conan_embed.recipes.loading import changed_keys, load_recipe
from conan_embed.recipes.schema import Recipe
from conan_embed.training.run import mine, train
from conan_embed.tuning.merge import interpolate, set_weights, weights_of

HERE = Path(__file__).parent
PRE_TRAINING, FINE_TUNING = "pre-training.yaml", "fine-tuning.yaml"
RECIPES = {"with-splits": FINE_TUNING, "zero-shot": "zero-shot.yaml"}
COLUMNS = ("base", *RECIPES)
SHARES = (1.0, 0.8, 0.6, 0.4)
# Settings of a finished stage that say nothing about what was trained.
MAY_DIFFER = (
    *("output", "cache", "tracking", "evaluation"),
    *("training.checkpoint_every", "training.keep_checkpoints"),
)


@dataclass(frozen=True)
class Arm:
    """A fine-tuning of the look.

    Attributes:
        start: what it starts from.
        settings: that differ from fine-tuning.yaml.
        is_choice: whether the full run may be like it; other arms only show what an idea gives.
        times_steps: for arms whose steps hold less.
        few: a tenth of the mined queries, and checks ten times as often, so that negatives come to be replaced as in
            the full run.
    """

    start: str = "base"
    settings: tuple[str, ...] = ()
    is_choice: bool = False
    times_steps: int = 1
    few: bool = False


ARMS = {
    "from base": Arm(is_choice=True),
    "from pre-trained": Arm("pre-trained", is_choice=True),
    "rate 6e-5": Arm(settings=("optimizer.learning_rate=6e-5",), is_choice=True),
    # A step holds one task instead of both: twice the steps see the same texts.
    "sequential": Arm(settings=("step.mixing=sequential",), times_steps=2),
    "dynamic, few queries": Arm(few=True),
    "static, few queries": Arm(settings=("hard_negatives.source=static",), few=True),
    "one width": Arm(settings=("model.widths=null",)),
}
DEFAULT_ARMS = [name for name, arm in ARMS.items() if arm.is_choice]


@dataclass(frozen=True)
class Candidate:
    """A model that may be chosen, its scores on the development sets, and the mean that it is chosen by."""

    name: str
    folder: Path
    result: EvaluationResult
    score: float


@dataclass(frozen=True)
class Workplace:
    """Where models and data are, and what was asked for on the command line."""

    base: Path
    data: Path
    output: Path
    settings: Sequence[str] = ()
    settings_of_first: Sequence[str] = ()

    @property
    def length(self) -> int:
        """The tokens that every model reads when it is scored, and those that are kept read later: the base's own."""
        return EmbeddingModel.load(self.base).max_length

    def start(self, name: str) -> Path:
        return self.base if name == "base" else self.output / "pre-trained/model"

    def recipe(self, file: str, output: Path, start: str = "base", settings: tuple[str, ...] = ()) -> Recipe:
        os.environ |= {"CONAN_BASE": str(self.base), "CONAN_START": str(self.start(start))}
        own = [f"output={output}", f"cache={self.output / 'cache'}"]
        given = self.settings_of_first if file == PRE_TRAINING else self.settings
        return load_recipe(HERE / file, [*own, *settings, *given])

    @property
    def widths(self) -> list[int]:
        return self.recipe(FINE_TUNING, self.output).model.widths or []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="the model to start from")
    parser.add_argument("--data", type=Path, required=True, help="laid out as docs/data.md says")
    parser.add_argument("--output", type=Path, default=Path("runs/small-model"))
    parser.add_argument("--look", action="store_true", help="a tenth of the steps; writes the choice")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS, help="of the look")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS), help="of the table")
    parser.add_argument("--set-first", nargs="*", default=[], metavar="KEY=VALUE", help="settings of stage 1")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of stage 2")
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    os.environ |= {"CONAN_WORK": str(arguments.output), "CONAN_DATA": str(arguments.data)}
    place = Workplace(arguments.base, arguments.data, arguments.output, arguments.set, arguments.set_first)
    with spent(place.output, "data"):
        write_data(place.data, place.output)
    if arguments.look:
        look(place, arguments.arms, write=arguments.write)
    else:
        full(place, arguments.columns, write=arguments.write)


# ------------------------------------------------------------------------------------------------------- stages


def stage(place: Workplace, recipe: Recipe) -> Path:
    """Train as the recipe says, or go on with it; return the run folder.

    Raises:
        UserError: it is finished, and was trained with other settings.
    """
    folder = Path(recipe.output)
    if is_finished(folder):
        trained = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        changes = changed_keys(trained, recipe.as_dict(), MAY_DIFFER)
        if changes:
            raise UserError(
                f"{folder}: finished with other settings: {'; '.join(changes)}; expected the same, or another --output."
            )
        return folder
    console.rule(str(folder))
    with spent(place.output, f"train {folder.relative_to(place.output)}"):
        train(recipe)
    return folder


def is_finished(folder: Path) -> bool:
    record = folder / "run.json"
    return (folder / "model").is_dir() and record.exists() and read_json(record)["finished"] is not None


def pre_trained(place: Workplace) -> Path:
    return stage(place, place.recipe(PRE_TRAINING, place.output / "pre-trained"))


def fine_tuned(
    place: Workplace,
    file: str,
    folder: Path,
    start: str,
    settings: tuple[str, ...] = (),
    *,
    few: bool = False,
) -> Path:
    """Fine-tune on rankings that all runs from the same start share; return the run folder.

    They are always mined for fine-tuning.yaml, whose sets hold those of zero-shot.yaml.
    """
    output = place.output / "mining" / (f"{start}-few" if few else start)
    all_sets = place.recipe(FINE_TUNING, folder, start)
    if few:
        settings = (*few_queries(all_sets), *settings)
        all_sets = place.recipe(FINE_TUNING, folder, start, few_queries(all_sets))
    recipe = place.recipe(file, folder, start, settings).with_rankings(output)
    if not is_finished(folder):
        with spent(place.output, f"mine {output.name}"):
            mine(all_sets, output)  # what is there is only read
    return stage(place, recipe)


def few_queries(recipe: Recipe) -> tuple[str, ...]:
    """Return the settings of a tenth of the mined queries, checked as often per query as in the whole run."""
    limits = [
        f"data.retrieval.{number}.limit={max(1, data.limit // 10)}"
        for number, data in enumerate(recipe.data.retrieval)
        if data.negative_source == "mined" and data.limit is not None
    ]
    return (*limits, f"hard_negatives.interval={max(1, recipe.hard_negatives.interval // 10)}")


def with_share(place: Workplace, run: Path, share: float, folder: Path) -> Path:
    """Write the model of a run, weights between it and the base, with the base's length; return the folder."""
    if not folder.exists():
        model = EmbeddingModel.load(run / "model", max_length=place.length)
        if share < 1:
            base = weights_of(EmbeddingModel.load(place.base))
            set_weights(model, interpolate(weights_of(model), base, share))
        model.save(folder)
    return folder


def candidate(place: Workplace, name: str, model: Path, result: Path, tasks: list[str]) -> Candidate:
    """Score a model on all development sets, once; it is chosen by `tasks`, or by all if there are none."""
    with spent(place.output, "score development sets"):
        scores = development_scores(
            model, place.output / "development", result, length=place.length, widths=place.widths
        )
    return Candidate(name, model, scores, choice_score(scores, tasks or list(scores)))


# -------------------------------------------------------------------------------------------------------- look


def look(place: Workplace, names: list[str], *, write: bool) -> None:
    """Train the arms at a tenth of the steps, write down the best that the full run may be like, and show all."""
    folder = place.output / "look"
    candidates = [candidate(place, "base", place.base, folder / "base.json", [])]
    if any(ARMS[name].start == "pre-trained" for name in names) or (folder / "pre-trained.json").exists():
        run = pre_trained(place)
        candidates.append(candidate(place, "pre-trained", run / "model", folder / "pre-trained.json", []))
    whole = place.recipe(FINE_TUNING, folder).training.steps or 10
    for name, arm in ARMS.items():
        label = name.replace(", ", "-").replace(" ", "-")
        result = folder / f"{label}.json"
        if name in names or result.exists():  # earlier arms are shown, and chosen from, with the later ones
            settings = (f"training.steps={max(1, whole // 10) * arm.times_steps}", *arm.settings)
            run = fine_tuned(place, FINE_TUNING, folder / label, arm.start, settings, few=arm.few)
            candidates.append(candidate(place, name, run / "model", result, []))
    choices = [each for each in candidates if each.name in ARMS and ARMS[each.name].is_choice]
    chosen = max(choices, key=lambda each: each.score, default=None)
    if chosen is not None:
        arm = ARMS[chosen.name]
        choice = {"arm": chosen.name, "start": arm.start, "settings": list(arm.settings)}
        write_json(place.output / "choice.json", choice)
    report.show_look(place, candidates, chosen, write=write)


# -------------------------------------------------------------------------------------------------------- full


def full(place: Workplace, columns: list[str], *, write: bool) -> None:
    """Train, merge and score columns; write the table once all are there."""
    folder = place.output / "full"
    for column in columns:
        if not (folder / f"{column}.json").exists():
            make_column(place, folder, column)
    missing = [column for column in COLUMNS if not (folder / f"{column}.json").exists()]
    if missing:
        console.print(f"not there yet: {', '.join(missing)}; the table is written once all columns are.")
        return
    report.show_full(place, {column: read_json(folder / f"{column}.json") for column in COLUMNS}, write=write)


def make_column(place: Workplace, folder: Path, column: str) -> None:
    """Train a column and choose its share; score it on the evaluation sets; write `COLUMN.json` and its card."""
    tried = [candidate(place, "base", place.base, place.output / "look/base.json", choosing_tasks(column))]
    chosen, files, start, run = tried[0], list[str](), "base", folder / column
    if column != "base":
        choice = read_choice(place)
        start, recipe = choice["start"], place.recipe(RECIPES[column], folder, choice["start"])
        files = files_of(recipe.data)
        if start == "pre-trained":
            pre_trained(place)
            files += files_of(place.recipe(PRE_TRAINING, folder).data)
        run = fine_tuned(place, RECIPES[column], folder / column, start, tuple(choice["settings"]))
        shares = [
            candidate(
                place,
                f"share {share:g}",
                with_share(place, run, share, folder / f"{column}-{share:g}"),
                folder / f"{column}-{share:g}.development.json",
                choosing_tasks(column),
            )
            for share in SHARES
        ]
        tried, chosen = [*tried, *shares], max(shares, key=lambda each: each.score)
    with spent(place.output, "score evaluation sets"):
        scores = final_scores(
            chosen.folder,
            place.data / "eval",
            folder / f"{column}.evaluation",
            length=place.length,
            widths=place.widths,
        )
    if column != "base":
        report.write_card(chosen.folder, run, scores.by_mteb, column, chosen.name, files)
    write_json(folder / f"{column}.json", column_json(scores, tried, chosen, start, files))


def column_json(
    scores: FinalScores, tried: list[Candidate], chosen: Candidate, start: str, files: list[str]
) -> dict[str, Any]:
    return {
        "scores": scores.to_json(),
        "chosen": chosen.name,
        "model": str(chosen.folder),
        "start": start,
        "files": files,
        "tried": [
            {"name": each.name, "score": each.score, "development": each.result.to_json()} for each in tried
        ],
    }


def choosing_tasks(column: str) -> list[str]:
    """Return the development sets that a column may be chosen by: zero-shot by none that evaluated sets are near to.

    An empty list is all of them.
    """
    if column != "zero-shot":
        return []
    graded = [f"sts/{name}" for name in ("chinese_sts_simtrain", "sick_en")]
    assert not any(SOURCES[task.partition("/")[2]].in_domain for task in graded)
    return [*graded, "retrieval/DRCD", "retrieval/LCTT-en", "retrieval/Titles-en-zh"]


def read_choice(place: Workplace) -> dict[str, Any]:
    path = place.output / "choice.json"
    if not path.exists():
        raise UserError(f"{path}: not there; expected the choice that `--look` writes: run it first.")
    choice: dict[str, Any] = read_json(path)
    return choice


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
