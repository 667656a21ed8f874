"""Train and score arms, one by one or side by side, and compare them.

OUTPUT/
    ARM/seed-0/        a run directory (training/run.py), without its checkpoints once it is scored
    ARM/seed-0.yaml    the arm's recipe, every setting written out
    ARM/seed-0.json    its scores; an arm that has them is not run again
    mining-HASH/       rankings, mined once for all arms that start from the same model, texts and mining settings
    table.md, results.json, arms.html

An arm is scored once, at its last step (never at its best: that would be chosen on the very sets that it is scored on),
on the recipe's evaluation sets. An arm that was interrupted goes on from its newest checkpoint. An arm whose recipe
is another than that of its earlier start is refused before anything runs.

Under torchrun all processes train each arm together, and the first scores it and writes. Side by side, each arm has a
process of its own, which does not outlive the one that started it: it saves a checkpoint and leaves. A run directory
is locked while somebody works there, so that the same command can be given again at once.
"""

import contextlib
import fcntl
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import xxhash
import yaml

from conan_embed.ablation.arms import Arm, folder_of
from conan_embed.console import console, progress_bar
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.results import TaskResult
from conan_embed.evaluation.sets import discover, select
from conan_embed.files import read_json, read_json_lines, write_json, write_text
from conan_embed.recipes.loading import changed_keys, load_recipe
from conan_embed.recipes.schema import Evaluation, Recipe
from conan_embed.training.loop import stop_requested
from conan_embed.training.run import load_model, mine, train

# Settings that do not change what an arm comes to.
_MAY_DIFFER = (
    "output",
    "cache",
    "tracking",
    "training.sharding",
    "training.checkpoint_every",
    "training.keep_checkpoints",
)
_LOOK_EVERY = 1.0  # seconds between two looks whether to stop, and between two requests to
_context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU


@dataclass(frozen=True)
class Job:
    """One arm with one seed.

    Attributes:
        recipe: with seed and output set; the output is the run directory.
        rankings: folder of rankings that it shares with other arms, or None: it needs none, or mines its own.
        after: result of the job whose model it starts from, or None.
    """

    arm: Arm
    seed: int
    recipe: Recipe
    rankings: Path | None
    after: Path | None

    @property
    def ready(self) -> bool:
        return self.after is None or self.after.exists()

    @property
    def run(self) -> Path:
        return Path(self.recipe.output)

    @property
    def result(self) -> Path:
        return self.run.with_name(f"{self.run.name}.json")

    @property
    def saved_recipe(self) -> Path:
        return self.run.with_name(f"{self.run.name}.yaml")

    @property
    def log(self) -> Path:
        return self.run.with_name(f"{self.run.name}.log")

    def __str__(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"


def run_arms(
    source: str | Path,
    overrides: Sequence[str],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    output: Path,
    *,
    jobs: int = 1,
) -> list[list[dict[str, Any]]]:
    """Run what has not been run yet; return the results, [arm][seed], as their files have them.

    Args:
        source, overrides: the recipe that the arms change (`load_recipe`).
        seeds: each arm is trained once with each; an untrained arm is scored once.
        jobs: arms at a time, each in a process of its own (and on a GPU of its own, where there are several).

    Raises:
        UserError: a recipe does not fit or has changed, or an arm failed; what is finished stays.
    """
    if collectives.world_size() > 1 and jobs > 1:
        raise UserError("--jobs: found more than 1 under torchrun; expected one or the other.")
    for number, arm in enumerate(arms):
        assert arm.after is None or arm.after in [other.name for other in arms[:number] if other.trained]
    planned = [
        [_job(source, overrides, arm, seed, output) for seed in (seeds if arm.trained else seeds[:1])]
        for arm in arms
    ]
    every = list(itertools.chain.from_iterable(planned))
    if collectives.is_main_process():  # on another node the folders may not be there
        _check_evaluation(source, every)
        for job in every:
            _check_unchanged(job)
    pending = collectives.broadcast_object([job for job in every if not job.result.exists()])
    pending.sort(key=lambda job: list(seeds).index(job.seed))  # a whole table of the first seed comes first
    if collectives.is_main_process():
        console.print(f"{len(every) - len(pending)} of {len(every)} runs are there already")
        for job in every:
            write_text(job.saved_recipe, job.recipe.as_yaml())
    _mine_once(pending)
    if jobs > 1 and len(pending) > 1:
        _side_by_side(pending, jobs)
    else:
        for number, job in enumerate(pending, start=1):
            if collectives.is_main_process():
                console.rule(f"{job} ({number} of {len(pending)})")
            run_job(job)
    results = (
        [[read_json(job.result) for job in of_arm] for of_arm in planned]
        if collectives.is_main_process()
        else []
    )
    return [
        found if arm.trained else found * len(seeds)
        for arm, found in zip(arms, collectives.broadcast_object(results), strict=True)
    ]


def _job(source: str | Path, overrides: Sequence[str], arm: Arm, seed: int, output: Path) -> Job:
    own = [f"training.seed={seed}", f"output={_run_folder(output, arm.name, seed)}"]
    after = None
    if arm.after is not None:
        earlier = _run_folder(output, arm.after, seed)
        own.append(f"model.base={earlier / 'model'}")
        after = earlier.with_name(f"{earlier.name}.json")
    if arm.recipe is None:
        recipe = load_recipe(source, [*overrides, *arm.overrides, *own])
    else:
        recipe = load_recipe(arm.recipe, [*arm.overrides, *own])
    rankings = None
    if (
        arm.trained
        and arm.after is None  # else nobody shares its model, which is not there yet
        and recipe.step.queries
        and recipe.step.num_negatives
        and _mined_sets(recipe)
    ):
        rankings = output / f"mining-{_mining_key(recipe)}"
    return Job(arm, seed, recipe, rankings, after)


def _run_folder(output: Path, arm: str, seed: int) -> Path:
    return output / folder_of(arm) / f"seed-{seed}"


def _check_evaluation(source: str | Path, every: Sequence[Job]) -> None:
    """A wrong name is said now, not after training."""
    first = every[0].recipe.evaluation
    if first.folder is None:
        raise UserError(
            f"{source}: evaluation.folder: not set; expected the sets on which arms are compared."
        )
    for job in every:
        for key in ("folder", "tasks"):
            here, there = getattr(first, key), getattr(job.recipe.evaluation, key)
            if here != there:
                raise UserError(
                    f"{source}: evaluation.{key}: found {here} for {every[0].arm.name} and {there} for "
                    f"{job.arm.name}; expected the same sets for all arms, which are compared on them."
                )
    select(discover(first.folder), first.tasks)


def _mined_sets(recipe: Recipe) -> list[str]:
    return [data.name for data in recipe.data.retrieval if data.negative_source == "mined"]


def _mining_key(recipe: Recipe) -> str:
    """What rankings depend on. (A linear layer drawn at random depends on the seed; the first one's serves for all.)"""
    data = [found.model_dump(mode="json", exclude={"weight"}) for found in recipe.data.retrieval]
    model = recipe.model.model_dump(mode="json", exclude={"dropout"})
    parts = [data, model, recipe.mining.model_dump(mode="json"), recipe.data.on_bad_row]
    return xxhash.xxh3_64_hexdigest(json.dumps(parts, sort_keys=True).encode())[:8]


def _check_unchanged(job: Job) -> None:
    if not job.saved_recipe.exists() or not (job.result.exists() or job.run.exists()):
        return
    before = yaml.safe_load(job.saved_recipe.read_text(encoding="utf-8"))
    changes = changed_keys(before, job.recipe.as_dict(), _MAY_DIFFER)
    if changes:
        raise UserError(
            f"{job.saved_recipe}: the recipe of {job} changed since: {'; '.join(changes)}. "
            "Go on with the old recipe, remove that arm's folder, or choose another --output."
        )


def _mine_once(pending: Sequence[Job]) -> None:
    first_of = {job.rankings: job for job in reversed(pending) if job.rankings is not None}
    for rankings, job in first_of.items():
        assert rankings is not None
        facts = rankings / "mining.json"
        done = set(read_json(facts)["datasets"]) if facts.exists() else set()
        if not collectives.broadcast_object(set(_mined_sets(job.recipe)) <= done):
            mine(job.recipe, rankings)


def run_job(job: Job) -> None:
    """Train one arm with one seed and score it; write its result."""
    with _locked(job):
        if not collectives.broadcast_object(job.result.exists()):
            _train_and_score(job)


@contextlib.contextmanager
def _locked(job: Job) -> Iterator[None]:
    """Work in the run directory alone: one who lost his parent may still be saving there."""
    lock = None
    if collectives.is_main_process():
        job.run.mkdir(parents=True, exist_ok=True)
        lock = os.open(job.run, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"{job}: another process works in {job.run}; waiting until it has ended")
            fcntl.flock(lock, fcntl.LOCK_EX)
    collectives.barrier()
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _train_and_score(job: Job) -> None:
    started = time.time()
    if job.arm.trained:
        recipe = job.recipe if job.rankings is None else job.recipe.with_rankings(job.rankings)
        train(recipe.model_copy(update={"evaluation": Evaluation()}))
    if collectives.is_main_process():
        device = collectives.start()
        model = EmbeddingModel.load(job.run / "model") if job.arm.trained else load_model(job.recipe)
        settings = job.recipe.evaluation
        assert settings.folder is not None
        result = evaluate(model.to(device), settings.folder, tasks=settings.tasks, items=True)
        times = {"seconds": round(time.time() - started, 1)}
        write_json(
            job.result,
            {
                "arm": job.arm.name,
                "seed": job.seed,
                "scores": {key: _score(task) for key, task in result.items()},
                "seen": _seen(job),
                **times,
                "items": {key: list(task.items) for key, task in result.items() if task.items is not None},
            },
        )
        shutil.rmtree(job.run / "checkpoints", ignore_errors=True)  # as large as several models, each
    collectives.barrier()


def _score(task: TaskResult) -> float:
    """The main score; of clustering, where one k-means decides by chance, the mean of several."""
    return task.scores.get("mean_v_measure", task.main)


def _seen(job: Job) -> dict[str, int]:
    """What the arm trained on, so that a table can say how far arms are comparable."""
    steps = read_json_lines(job.run / "metrics.jsonl")
    checks = read_json_lines(job.run / "negatives.jsonl")
    return {
        "updates": len(steps),
        "queries": job.recipe.step.queries * sum("loss/retrieval" in step for step in steps),
        "pairs": job.recipe.step.sts_pairs * sum("loss/sts" in step for step in steps),
        "tokens": sum(step["tokens"] for step in steps),
        "replaced": sum(check["replaced"] for check in checks),
    }


# --- side by side ---------------------------------------------------------------------------------


def _side_by_side(pending: Sequence[Job], jobs: int) -> None:
    """Run `jobs` arms at a time; the first that fails, or a request to stop, ends the others with a checkpoint."""
    threads = max(1, torch.get_num_threads() // jobs)
    waiting, running = list(pending), dict[int, tuple[BaseProcess, Job]]()
    free = list(range(jobs))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_requested())
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("arms", total=len(pending), note="")
        stack.callback(_end, running)
        while waiting or running:
            while free and (job := next((job for job in waiting if job.ready), None)) is not None:
                waiting.remove(job)
                place = free.pop(0)
                process: BaseProcess = _context.Process(
                    target=_in_process, args=(job, place, threads), daemon=True
                )
                process.start()
                running[place] = process, job
            bar.update(task, note="; ".join(str(job) for _, job in running.values()))
            wait([process.sentinel for process, _ in running.values()], timeout=_LOOK_EVERY)
            if stop.is_set():
                raise UserError("stopped on request; the same command goes on from the checkpoints.")
            for place, (process, job) in list(running.items()):
                if process.exitcode is None:
                    continue
                del running[place]
                free.append(place)
                if process.exitcode or not job.result.exists():
                    raise UserError(f"{job}: failed; {job.log} ends: {_last_line(job.log)}")
                console.print(f"{job}: done")
                bar.advance(task)


def _end(running: dict[int, tuple[BaseProcess, Job]]) -> None:
    for process, _ in running.values():
        process.terminate()  # the training loop saves and leaves
    for process, _ in running.values():
        process.join()


def _in_process(job: Job, place: int, threads: int) -> None:
    """What one of the processes side by side does; its words go to the job's log."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(place % torch.cuda.device_count())
    try:
        run_job(job)
    except UserError as error:
        console.print(f"error {error}", soft_wrap=True, markup=False)
        sys.exit(2)


def _leave_with_parent() -> None:
    """End this process soon after the one that started it, in whatever way that one ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while True:  # more than once: the loop may just have looked for the last time
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_LOOK_EVERY)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "(nothing)").removeprefix("error ")
