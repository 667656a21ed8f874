"""`filter_pairs`: a whole filter run, from the files of the recipe to `kept/`, `dropped/` and `summary.json`.

The work goes step by step over all shards (`steps.py`), with one join in the middle (`duplicates.py`). Finished work is
on disk, so a killed run resumes when it is started again with the same recipe and files.
"""

import functools
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from conan_embed.console import console, progress_bar
from conan_embed.errors import UserError
from conan_embed.files import LOCK, atomic_write, lock_folder, read_json, write_json
from conan_embed.filtering.decontamination import index_evaluation, read_evaluation
from conan_embed.filtering.duplicates import JoinResult, find_duplicates
from conan_embed.filtering.engine import Progress, Runner, run_step
from conan_embed.filtering.quality import train_quality
from conan_embed.filtering.readers import plan_shards, source_files
from conan_embed.filtering.recipe import FilterRecipe
from conan_embed.filtering.safety import read_block_lists
from conan_embed.filtering.steps import Run, check_step, finish_step, read_step, score_step
from conan_embed.filtering.summarise import summarise
from conan_embed.filtering.summary import Summary, read_summary
from conan_embed.filtering.teacher import Encoder

_PRINTED_FILES = 10  # with bad rows
_NO_EFFECT_ON_OUTPUT = {"engine": {"workers", "memory", "keep_work", "samples"}}


def filter_pairs(
    recipe: FilterRecipe,
    output: str | Path,
    *,
    runner: Runner = "native",
    resume: bool = True,
    teacher: Encoder | None = None,
) -> Summary:
    """Filter the recipe's pairs into `output`.

    Args:
        recipe: what to read and which rules apply.
        output: a folder. It gets `kept/CATEGORY/*.parquet` (id, query, positive, category, source, query_language,
            positive_language and, with a teacher, score), `dropped/*.parquet` (the same without score, and stage,
            dropped_by, value, duplicate_of), `summary.json` (see `summary.py`) and `filter.json` (recipe and files).
        runner: Daft's runner; `ray` needs an output folder that all machines see.
        resume: continue an earlier run of the same recipe in `output`; otherwise what it left is removed.
        teacher: the model that scores the pairs, instead of the one at `recipe.teacher.model`.

    Raises:
        UserError: something in the recipe or the files is wrong, or `output` holds a run of another recipe, or one that
            another process works on.
    """
    if teacher is not None and recipe.teacher.model is None:
        named = recipe.teacher.model_copy(update={"model": _name_of(teacher)})
        recipe = recipe.model_copy(update={"teacher": named})
    run = Run(recipe, tuple(plan_shards(recipe.sources, recipe.engine.shard_rows)), Path(output).expanduser())
    with lock_folder(run.output):
        return _filter(run, runner, resume, teacher)


def _filter(run: Run, runner: Runner, resume: bool, teacher: Encoder | None) -> Summary:
    if _prepare_output(run, resume):
        return read_summary(run.output / "summary.json")
    read_block_lists(run.recipe.safety)  # a missing list is reported before hours of work, not after
    _index_evaluation(run)
    _train_quality(run)
    driver = _Driver(run, runner, _Clock(run.work / "clock.json"))
    driver.over_shards("read", read_step)
    join = _find_duplicates(run, driver.workers)
    driver.clock.save()
    driver.over_shards("check", check_step)
    if run.recipe.teacher.model is not None:
        driver.score(run.recipe.teacher.model, teacher)
    driver.over_shards("finish", finish_step)
    driver.clock.save()
    summary = summarise(run, seconds=driver.clock.seconds(), workers=driver.workers, join=join)
    write_json(run.output / "summary.json", summary.to_json())
    _print_bad_rows(summary)
    _clean_up(run)
    return summary


def _name_of(teacher: Encoder) -> str:
    """Return a name that changes with whatever changes the scores, so that no run is resumed with another teacher."""
    name, weights = type(teacher).__name__, getattr(teacher, "state_dict", None)
    if weights is None:
        return name
    from conan_embed.encoder.fingerprint import fingerprint
    from conan_embed.encoder.model import EmbeddingModel

    return f"{name} {fingerprint(teacher)}" if isinstance(teacher, EmbeddingModel) else name


def _prepare_output(run: Run, resume: bool) -> bool:
    """Prepare the output folder; return whether everything in it is done already.

    Raises:
        UserError: the folder holds something else.
    """
    marker, identity = run.output / "filter.json", _identity(run)
    if marker.exists() and not resume:
        _remove_run(run.output)
    elif marker.exists():
        _check_identity(run.output, read_json(marker), identity)
    elif any(path.name != LOCK for path in run.output.iterdir()):
        raise UserError(f"{run.output}: is not empty and holds no filter run; choose another folder.")
    write_json(marker, identity)
    return (run.output / "summary.json").exists()


def _identity(run: Run) -> dict[str, dict[str, object]]:
    """Return what must not have changed when a run is resumed."""
    recipe = run.recipe
    other = (*recipe.decontaminate.paths, *recipe.quality.good, *recipe.quality.bad)
    lists = [Path(path) for path in (*recipe.safety.words, *recipe.safety.domains) if Path(path).exists()]
    return {
        "recipe": recipe.model_dump(mode="json", exclude=_NO_EFFECT_ON_OUTPUT),
        "files": _stamps(Path(shard.path) for shard in run.shards),
        "lists": _stamps([*lists, *(file for path in other for file in source_files(path))]),
        "teacher": _stamps(_teacher_files(recipe.teacher.model)),
    }


def _teacher_files(model: str | None) -> list[Path]:
    """Return the files of the teacher's folder; none where it is a hub name, or was given as an object."""
    folder = Path(model or "").expanduser()
    files = folder.rglob("*") if model and folder.is_dir() else ()
    return sorted(file for file in files if file.is_file())


def _stamps(files: Iterable[Path]) -> dict[str, object]:
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _check_identity(
    output: Path, earlier: dict[str, dict[str, object]], now: dict[str, dict[str, object]]
) -> None:
    for part, values in now.items():
        for key in sorted({*values, *earlier.get(part, {})}):
            if values.get(key) != earlier.get(part, {}).get(key):
                raise UserError(
                    f"{output}: holds a run with another {part.rstrip('s')} ({key}); "
                    "choose another folder, or start again without resuming."
                )


def _remove_run(output: Path) -> None:
    for name in ("kept", "dropped", "work"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("filter.json", "summary.json"):
        (output / name).unlink(missing_ok=True)


def _print_bad_rows(summary: Summary) -> None:
    for bad in summary.bad_rows[:_PRINTED_FILES]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in bad.reasons.items())
        console.print(f"{bad.path}: left out {bad.rows} bad rows ({reasons}); the first is {bad.first}.")
    more = len(summary.bad_rows) - _PRINTED_FILES
    if more > 0:
        console.print(f"... and bad rows in {more} more files: see bad_rows in summary.json.")


def _clean_up(run: Run) -> None:
    for unfinished in run.output.glob("*/.*.tmp"):  # left by a killed run
        unfinished.unlink()
    if not run.recipe.engine.keep_work:
        shutil.rmtree(run.work)


class _Clock:
    """Seconds of work, over all starts of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = read_json(path)["seconds"] if path.exists() else 0.0
        self.start = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def save(self) -> None:
        write_json(self.path, {"seconds": self.seconds()})


@dataclass(frozen=True)
class _Driver:
    """Runs steps over the shards for which they are not done yet, with a progress bar."""

    run: Run
    runner: Runner
    clock: _Clock

    @property
    def workers(self) -> int:
        return self.run.recipe.engine.workers or os.cpu_count() or 1

    def over_shards(self, name: str, step: Callable[[Run, int], Progress]) -> None:
        """Run a step on Daft's workers."""
        call = functools.partial(step, self.run)
        todo = self.run.todo(name)
        self._watch(name, len(todo), run_step(call, todo, runner=self.runner, workers=self.workers))

    def score(self, model: str, teacher: Encoder | None) -> None:
        """Score the shards: on Ray's workers, else here, where the model has the machine to itself."""
        if teacher is None and self.runner == "ray":
            self.over_shards("score", _score_with_cached_teacher)
            return
        encoder, todo = teacher or load_teacher(model), self.run.todo("score")
        self._watch("score", len(todo), (score_step(self.run, number, encoder) for number in todo))

    def _watch(self, name: str, todo: int, results: Iterable[Progress]) -> None:
        rows = kept = 0
        with progress_bar() as progress:
            total = len(self.run.shards)
            task = progress.add_task(name, total=total, completed=total - todo, note="")
            for result in results:
                rows, kept = rows + result.rows, kept + result.kept
                progress.update(task, advance=1, note=f"{kept:,} of {rows:,} pairs stay")
                self.clock.save()


def load_teacher(path: str) -> Encoder:
    """Load the embedding model that scores pairs, on the accelerator where there is one."""
    # torch is loaded only with a teacher.
    import torch

    from conan_embed.encoder.model import EmbeddingModel

    return EmbeddingModel.load(path).to("cuda" if torch.cuda.is_available() else "cpu").eval()


_cached_teacher = functools.cache(load_teacher)


def _score_with_cached_teacher(run: Run, number: int) -> Progress:
    assert run.recipe.teacher.model is not None
    return score_step(run, number, _cached_teacher(run.recipe.teacher.model))


def _index_evaluation(run: Run) -> None:
    path = run.work / "evaluation.parquet"
    if run.recipe.decontaminate.paths and not path.exists():
        texts = read_evaluation(run.recipe.decontaminate, run.recipe.normalise)
        with atomic_write(path) as aside:
            index_evaluation(texts, run.recipe.duplicates).write_parquet(aside)


def _train_quality(run: Run) -> None:
    path = run.work / "quality.npz"
    if run.recipe.quality.good and not path.exists():
        model = train_quality(run.recipe.quality, run.recipe.normalise)
        console.print(
            f"quality: good and bad examples told apart with an AUC of {model.auc:.2f} on held-out texts"
        )
        with atomic_write(path) as aside:
            model.save(aside)


def _find_duplicates(run: Run, workers: int) -> JoinResult | None:
    """Find the duplicates over all shards, once."""
    folder, engine = run.work / "join", run.recipe.engine
    if not run.recipe.duplicates.enabled:
        return None
    if not folder.is_dir():
        start = time.process_time()
        shards = [run.folder("read", shard.number) for shard in run.shards]
        threads = min(workers, os.cpu_count() or 1)
        with atomic_write(folder) as aside:
            result = find_duplicates(
                shards,
                aside,
                run.recipe.duplicates,
                memory=engine.memory,
                work=run.work / "spill",
                threads=threads,
            )
            result = replace(result, seconds=time.process_time() - start)
            write_json(aside / "result.json", asdict(result))
        shutil.rmtree(run.work / "spill")
    return JoinResult(**read_json(folder / "result.json"))
