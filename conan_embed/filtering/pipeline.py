"""`filter_pairs`: a whole filter run, from the files of the recipe to `kept/`, `dropped/` and `summary.json`.

The work goes step by step over all shards (`steps.py`), with one join in the middle (`duplicates.py`). What
is done is on disk, so a run that was killed goes on where it stopped when it is started again with the same
recipe and files.
"""

import functools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conan_embed.console import progress_bar
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, read_json, write_json
from conan_embed.filtering.decontamination import index_evaluation, read_evaluation
from conan_embed.filtering.duplicates import find_duplicates
from conan_embed.filtering.engine import Runner, run_step
from conan_embed.filtering.readers import plan_shards
from conan_embed.filtering.recipe import FilterRecipe
from conan_embed.filtering.safety import read_block_lists
from conan_embed.filtering.steps import Run, check_step, finish_step, read_step, score_step
from conan_embed.filtering.summary import Summary, summarise
from conan_embed.filtering.teacher import Encoder


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
            positive_language and, with a teacher, score), `dropped/*.parquet` (the same without score, and
            stage, dropped_by, value, duplicate_of), `summary.json` (see `summary.py`) and `filter.json`
            (recipe and shards).
        runner: Daft's runner; `ray` needs an output folder that all machines see.
        resume: go on with what an earlier run of the same recipe left in `output`; else what it left is
            removed.
        teacher: the model that scores the pairs, in place of the one at `recipe.teacher.model`.

    Raises:
        UserError: something in the recipe or the files is wrong, or `output` holds a run of another recipe.
    """
    if teacher is not None and recipe.teacher.model is None:
        named = recipe.teacher.model_copy(update={"model": type(teacher).__name__})
        recipe = recipe.model_copy(update={"teacher": named})
    run = Run(recipe, tuple(plan_shards(recipe.sources, recipe.engine.shard_rows)), Path(output))
    if _finished(run, resume):
        content = read_json(run.output / "summary.json")
        return Summary(content["rows"]["read"], content["rows"]["kept"], run.output / "summary.json", content)
    read_block_lists(recipe.safety)  # a list that is missing is said before hours of work, not after
    workers = _workers(recipe)
    clock = _Clock(run.work / "clock.json")
    if recipe.decontaminate.enabled and recipe.decontaminate.paths:
        _index_evaluation(run)
    shared = functools.partial(_over_shards, run, runner=runner, workers=workers, clock=clock)
    shared("read", read_step)
    join = _join(run)
    clock.save()
    shared("check", check_step)
    if recipe.teacher.model is not None:
        if teacher is None and runner == "ray":
            shared("score", _score_with_own_teacher)
        else:
            encoder = teacher or load_teacher(recipe.teacher.model)
            _here(run, "score", functools.partial(score_step, encoder=encoder), clock)
    shared("finish", finish_step)
    clock.save()
    content = summarise(run, seconds=clock.seconds(), workers=workers, join=join)
    write_json(run.output / "summary.json", content)
    for half_written in run.output.glob("*/.*.tmp"):  # by a run that was killed
        half_written.unlink()
    if not recipe.engine.keep_work:
        shutil.rmtree(run.work)
    return Summary(content["rows"]["read"], content["rows"]["kept"], run.output / "summary.json", content)


def _workers(recipe: FilterRecipe) -> int:
    return recipe.engine.workers or os.cpu_count() or 1


def load_teacher(path: str) -> Encoder:
    """Load the embedding model that scores pairs, on the accelerator where there is one."""
    # torch is loaded only where a teacher is asked for.
    import torch

    from conan_embed.encoder.model import EmbeddingModel

    return EmbeddingModel.load(path).to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _score_with_own_teacher(run: Run, number: int) -> dict[str, Any]:
    model = run.recipe.teacher.model
    assert model is not None
    return score_step(run, number, _teacher_of_this_process(model))


_teacher_of_this_process = functools.cache(load_teacher)


class _Clock:
    """Seconds of work, over all the runs that it took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = read_json(path)["seconds"] if path.exists() else 0.0
        self.start = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def save(self) -> None:
        write_json(self.path, {"seconds": self.seconds()})


def _facts(run: Run) -> dict[str, Any]:
    """What must not have changed when a run is resumed."""
    files = {shard.path: Path(shard.path).stat() for shard in run.shards}
    decides = run.recipe.model_dump(
        mode="json", exclude={"engine": {"workers", "memory", "keep_work", "samples"}}
    )
    return {
        "recipe": decides,
        "files": {path: [stat.st_size, stat.st_mtime_ns] for path, stat in files.items()},
    }


def _finished(run: Run, resume: bool) -> bool:
    """Prepare the output folder; return whether everything in it is done already.

    Raises:
        UserError: the folder holds something else.
    """
    marker, facts = run.output / "filter.json", _facts(run)
    if marker.exists() and not resume:
        for name in ("kept", "dropped", "work"):
            shutil.rmtree(run.output / name, ignore_errors=True)
        for name in ("filter.json", "summary.json"):
            (run.output / name).unlink(missing_ok=True)
    elif marker.exists():
        earlier = read_json(marker)
        for part, now in facts.items():
            for key in sorted({*now, *earlier[part]}):
                if now.get(key) != earlier[part].get(key):
                    raise UserError(
                        f"{run.output}: holds a run with another {part.rstrip('s')} ({key}); "
                        "choose another folder, or do not resume to start again."
                    )
    elif run.output.is_dir() and any(run.output.iterdir()):
        raise UserError(f"{run.output}: is not empty and holds no filter run; choose another folder.")
    write_json(marker, facts)
    return (run.output / "summary.json").exists()


def _over_shards(
    run: Run, name: str, step: Callable[..., dict[str, Any]], *, runner: Runner, workers: int, clock: _Clock
) -> None:
    todo = run.todo(name)
    _watch(
        run, name, todo, run_step(functools.partial(step, run), todo, runner=runner, workers=workers), clock
    )


def _here(run: Run, name: str, step: Callable[..., dict[str, Any]], clock: _Clock) -> None:
    """Run a step in this process, whose model has the cores or the accelerator to itself."""
    todo = run.todo(name)
    _watch(run, name, todo, (step(run, number) for number in todo), clock)


def _watch(run: Run, name: str, todo: list[int], answers: Any, clock: _Clock) -> None:
    rows = kept = 0
    with progress_bar() as progress:
        total = len(run.shards)
        task = progress.add_task(name, total=total, completed=total - len(todo), note="")
        for answer in answers:
            rows, kept = rows + answer["rows"], kept + answer["kept"]
            progress.update(task, advance=1, note=f"{kept:,} of {rows:,} pairs stay")
            clock.save()


def _index_evaluation(run: Run) -> None:
    path = run.work / "evaluation.parquet"
    if not path.exists():
        texts = read_evaluation(run.recipe.decontaminate, run.recipe.normalise)
        with atomic_write(path) as aside:
            index_evaluation(texts, run.recipe.duplicates).write_parquet(aside)


def _join(run: Run) -> dict[str, Any]:
    """Find the duplicates over all shards, once."""
    place = run.work / "join"
    if not run.recipe.duplicates.enabled:
        return {}
    if not place.is_dir():
        start = time.process_time()
        folders = [run.place("read", shard.number) for shard in run.shards]
        with atomic_write(place) as aside:
            found = find_duplicates(
                folders,
                aside,
                run.recipe.duplicates,
                memory=run.recipe.engine.memory,
                work=run.work / "spill",
                threads=min(_workers(run.recipe), os.cpu_count() or 1),
            )
            write_json(aside / "found.json", {**found.__dict__, "seconds": time.process_time() - start})
        shutil.rmtree(run.work / "spill")
    return read_json(place / "found.json")
