"""`conan-embed false-negatives`: the hard negatives of a finished run that may be answers, for a person or a judge.

Labels that the file holds already stay, whoever wrote them: a person's work is never lost, and a judge that was
interrupted continues. The data sets can be written anew with the answers among their positives.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import polars as pl

from conan_embed.console import console, tracked
from conan_embed.distillation.judge import Judge, load_judge
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, file_name
from conan_embed.negatives.false_negatives import MARGIN, HardNegative, hard_negatives
from conan_embed.recipes.data import Data, RetrievalData
from conan_embed.recipes.loading import load_recipe
from conan_embed.texts.readers import read_retrieval
from conan_embed.training.checkpoint import check_data, saved_table
from conan_embed.training.held_out import hold_out
from conan_embed.training.resume import ResumePoint
from conan_embed.training.run_folder import RunFolder
from conan_embed.training.setup import load_data, make_embed

_SLAB = 512  # pairs judged between two writes
LABELS = ("positive", "negative")


@dataclass(frozen=True)
class FalseNegatives:
    """The result of `find_false_negatives`.

    Attributes:
        file: JSON lines, one for each likely false negative.
        likely: how many there are.
        checked: how many pairs were looked at.
        labels: lines of the file by label; empty: not labelled.
        data: the data files written.
    """

    file: Path
    likely: int
    checked: int
    labels: dict[str, int]
    data: tuple[Path, ...] = ()

    def lines(self) -> list[str]:
        """Return what came of it, for a person."""
        yes, no = (self.labels.get(label, 0) for label in LABELS)
        lines = [f"{self.likely:,} likely false negatives among {self.checked:,} pairs: {self.file}"]
        if yes + no:
            open_ = sum(self.labels.values()) - yes - no
            lines.append(f"labels: {yes:,} positive, {no:,} negative, {open_:,} open")
        return [*lines, *(f"data with the answers among the positives: {path}" for path in self.data)]


def find_false_negatives(
    run: Path,
    output: Path | None = None,
    *,
    limit: int = 500,
    margin: float = MARGIN,
    judge: str | None = None,
    llm: str | None = None,
    write_data: Path | None = None,
) -> FalseNegatives:
    """Write the likely false negatives of a finished run as JSON lines, for a person to label or labelled by a judge.

    `hard_negatives.jsonl` of the run is written anew, too, with all pairs that were looked at.

    Args:
        output: the file; by default false_negatives.jsonl in the run.
        limit, margin: see `hard_negatives`.
        judge, llm: who labels, see `load_judge`; None: a person.
        write_data: a folder for the data sets with what is labelled positive among their positives.

    Raises:
        UserError: the folder is no finished run with hard negatives, its data files changed or are gone, or the judge
            is of no use.
    """
    device = collectives.start()
    folder = RunFolder(run)
    checkpoint = _finished_checkpoint(folder)
    recipe = load_recipe(folder.recipe)
    collectives.start(timeout=recipe.training.timeout)
    judging = None if judge is None else load_judge(judge, llm, folder.answers, device)
    file = folder.false_negatives if output is None else Path(output)
    labelled = read_labels(file)
    model = EmbeddingModel.load(str(folder.model)).to(device).eval()
    data_left = hold_out(recipe, folder.held_out, ResumePoint(checkpoint)).data
    tasks = load_data(data_left, recipe.cache, model)
    check_data(checkpoint, {"texts": tasks.store.identity()}, allow_changes=False)
    table = saved_table(checkpoint, recipe.step.num_negatives)
    embed = make_embed(tasks, model, recipe.training)
    checked = hard_negatives(
        tasks.retrieval, tasks.store, table, folder.mining, embed, limit=limit, margin=margin
    )
    folder.write_hard_negatives(checked)
    suspects = [pair for pair in checked if pair.suspect]
    pairs = with_labels(suspects, labelled)

    def write() -> None:
        folder.write_lines(file, [pair.to_json() for pair in pairs])

    write()
    if judging is not None and folder.is_writer:
        judge_open(pairs, judging, write)
    data: tuple[Path, ...] = ()
    if write_data is not None and folder.is_writer:
        data = write_relabelled(recipe.data, pairs, write_data)
    return FalseNegatives(file, len(suspects), len(checked), Counter(pair.label for pair in pairs), data)


def _finished_checkpoint(folder: RunFolder) -> Path:
    """Return the last checkpoint of a finished run that trained with hard negatives."""
    checkpoint = folder.newest_checkpoint()
    if not folder.recipe.exists() or checkpoint is None or not folder.is_finished():
        raise UserError(f"{folder}: not a finished run: expected recipe.yaml, model/ and a checkpoint in it.")
    if not (checkpoint / "negatives.safetensors").exists():
        raise UserError(
            f"{checkpoint}: holds no hard negatives; expected the checkpoint of a run that used some."
        )
    return checkpoint


def read_labels(file: Path) -> list[HardNegative]:
    """Return the labelled lines of an earlier call.

    Raises:
        UserError: a line that is no such pair, or a label that is none.
    """
    names = [field.name for field in fields(HardNegative)]
    labelled = []
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            pair = HardNegative(**{name: row[name] for name in names if name in row})
        except (ValueError, TypeError):
            raise UserError(
                f"{file}: line {number}: not a pair as `false-negatives` writes it; expected such a file, or a new one."
            ) from None
        if pair.label not in ("", *LABELS):
            raise UserError(
                f"{file}: line {number}: found the label {pair.label!r}, expected positive or negative."
            )
        labelled += [pair] if pair.label else []
    return labelled


def with_labels(pairs: Sequence[HardNegative], labelled: Sequence[HardNegative]) -> list[HardNegative]:
    """Return each pair once, with the label known for it, and labelled ones that are not among them at the end."""
    known = {_key(pair): pair for pair in labelled}
    merged: dict[tuple[str, str, str], HardNegative] = {}
    for pair in pairs:
        before = known.get(_key(pair), pair)
        merged.setdefault(_key(pair), replace(pair, label=before.label, judge_gap=before.judge_gap))
    return list((merged | {key: pair for key, pair in known.items() if key not in merged}).values())


def _key(pair: HardNegative) -> tuple[str, str, str]:
    return pair.data_set, pair.query, pair.negative


def judge_open(pairs: list[HardNegative], judge: Judge, write: Callable[[], None]) -> None:
    """Label those of `pairs` that have no label, in place; call `write` after every few hundred."""
    open_ = [number for number, pair in enumerate(pairs) if not pair.label]
    if len(open_) < len(pairs):
        console.print(f"{len(pairs) - len(open_):,} pairs are labelled already; {len(open_):,} to judge")
    for start in tracked(range(0, len(open_), _SLAB), "judge"):
        numbers = open_[start : start + _SLAB]
        for number, pair in zip(numbers, judge.judge([pairs[each] for each in numbers]), strict=True):
            pairs[number] = pair
        write()


def write_relabelled(data: Data, pairs: Sequence[HardNegative], folder: Path) -> tuple[Path, ...]:
    """Write NAME.parquet (query, positive, negative) of each retrieval data set in which answers were found.

    The rows are those of the data set's own files in their order; an answer joins the positives of its query.
    """
    answers: dict[str, dict[str, list[str]]] = {}
    for pair in pairs:
        if pair.label == "positive":
            answers.setdefault(pair.data_set, {}).setdefault(pair.query, []).append(pair.negative)
    return tuple(
        _write_data_set(part, answers[part.name], data, folder)
        for part in data.retrieval
        if part.name in answers
    )


def _write_data_set(part: RetrievalData, answers: dict[str, list[str]], data: Data, folder: Path) -> Path:
    found = pl.DataFrame({"query": list(answers), "answer": list(answers.values())})
    rows = read_retrieval(part.path, part.columns, on_bad_row=data.on_bad_row)
    rows = rows.join(found, on="query", how="left", maintain_order="left").with_columns(
        positive=pl.col("positive")
        .list.concat(pl.col("answer").fill_null([]))
        .list.unique(maintain_order=True)
    )
    path = folder / f"{file_name(part.name)}.parquet"
    with atomic_write(path) as aside:
        rows.drop("answer").write_parquet(aside)
    return path
