"""Train and score arms, one by one or side by side.

OUTPUT/
    ARM/seed-0/        a run directory (training/run.py), without its checkpoints once it is scored
    ARM/seed-0.yaml    the arm's recipe, every setting written out
    ARM/seed-0.inputs.yaml    hashes of the data, evaluation sets and base model when it began (inputs.py)
    ARM/seed-0.json    its scores; an arm that has them is not run again
    mining-HASH/       rankings, mined once for all arms that start from the same model, texts and mining settings
    table.md, results.json, arms.html

An arm is scored once, at its last step (never at its best: that would be chosen on the very sets that it is scored on),
on the recipe's evaluation sets. An arm that was interrupted resumes from its newest checkpoint. An arm whose recipe,
data, evaluation sets or base model are others than at its earlier start is refused before anything runs.

Under torchrun all processes train each arm together, and the main process scores it. Side by side, each arm has a
process of its own (parallel.py). A run directory is locked while an arm runs in it, so that an interrupted command can
be started again at once.
"""

import contextlib
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.inputs import Inputs, changed_inputs, hash_inputs, of_mining
from conan_embed.ablation.job import ArmResult, Job, make_job, mined_sets
from conan_embed.ablation.parallel import run_in_parallel
from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.discovery import LocalTask
from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.named import evaluation_tasks
from conan_embed.evaluation.results import TaskResult
from conan_embed.files import lock_folder, read_json, read_json_lines, write_json, write_text
from conan_embed.recipes.loading import changed_keys
from conan_embed.recipes.sections import Evaluation
from conan_embed.training.run import mine, train
from conan_embed.training.setup import load_base_model

# Settings that do not change what an arm comes to.
_MAY_DIFFER = (
    "output",
    "cache",
    "tracking",
    "training.sharding",
    "training.checkpoint_every",
    "training.keep_checkpoints",
)


def run_arms(
    source: str | Path,
    overrides: Sequence[str],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    output: Path,
    *,
    jobs: int = 1,
) -> list[list[ArmResult]]:
    """Run what has not been run yet; return the results, [arm][seed].

    Args:
        source, overrides: the recipe that the arms change (`load_recipe`).
        seeds: each arm is trained once with each; an untrained arm is scored once.
        jobs: arms at a time, each in a process of its own (and on a GPU of its own, where there are several).

    Raises:
        UserError: a recipe does not fit, it or a file that it names has changed, or an arm failed; what is finished
            stays.
    """
    if collectives.world_size() > 1 and jobs > 1:
        raise UserError("--jobs: found more than 1 under torchrun; expected one or the other.")
    for number, arm in enumerate(arms):
        assert arm.after is None or arm.after in [other.name for other in arms[:number] if other.trained]
    planned = [
        [make_job(source, overrides, arm, seed, output) for seed in (seeds if arm.trained else seeds[:1])]
        for arm in arms
    ]
    pending = _prepare(source, list(itertools.chain.from_iterable(planned)))
    pending.sort(key=lambda job: list(seeds).index(job.seed))  # a whole table of the first seed comes first
    _mine_once(pending)
    if jobs > 1 and len(pending) > 1:
        run_in_parallel(pending, jobs, run_job)
    else:
        _run_in_turn(pending)
    is_main = collectives.is_main_process()
    results = [[job.read_result() for job in of_arm] for of_arm in planned] if is_main else []
    return [
        of_arm if arm.trained else of_arm * len(seeds)
        for arm, of_arm in zip(arms, collectives.broadcast_object(results), strict=True)
    ]


def _prepare(source: str | Path, every: Sequence[Job]) -> list[Job]:
    """Check all jobs and write their recipes; return those that have no result yet."""
    _check_evaluation(source, every)
    sets = evaluation_tasks(every[0].recipe.evaluation, every[0].recipe.cache)
    if not collectives.is_main_process():  # on another node the folders may not be there
        return list(collectives.broadcast_object(None))
    for job in every:
        _check_unchanged(job, sets)
    pending = [job for job in every if not job.result.exists()]
    console.print(f"{len(every) - len(pending)} of {len(every)} runs are there already")
    for job in every:
        write_text(job.saved_recipe, job.recipe.as_yaml())
    return list(collectives.broadcast_object(pending))


def _run_in_turn(pending: Sequence[Job]) -> None:
    for number, job in enumerate(pending, start=1):
        if collectives.is_main_process():
            console.rule(f"{job} ({number} of {len(pending)})")
        run_job(job)


def _check_evaluation(source: str | Path, every: Sequence[Job]) -> None:
    """Refuse a wrong name now, not after training."""
    first = every[0].recipe.evaluation
    if first.folder is None and not first.mteb:
        raise UserError(
            f"{source}: evaluation.folder: not set; expected the sets on which arms are compared."
        )
    for job in every:
        for key in ("folder", "mteb", "tasks"):
            here, there = getattr(first, key), getattr(job.recipe.evaluation, key)
            if here != there:
                raise UserError(
                    f"{source}: evaluation.{key}: found {here} for {every[0].arm.name} and {there} for "
                    f"{job.arm.name}; expected the same sets for all arms, which are compared on them."
                )


def _check_unchanged(job: Job, sets: Sequence[LocalTask]) -> None:
    if not job.saved_recipe.exists() or not (job.result.exists() or job.run.exists()):
        job.inputs.unlink(missing_ok=True)  # of an arm that was removed
        return
    before = yaml.safe_load(job.saved_recipe.read_text(encoding="utf-8"))
    changes = changed_keys(before, job.recipe.as_dict(), _MAY_DIFFER)
    if changes:
        raise UserError(
            f"{job.saved_recipe}: the recipe of {job} changed since: {'; '.join(changes)}. "
            "Go on with the old recipe, remove that arm's folder, or choose another --output."
        )
    _check_inputs(job, sets)


def _check_inputs(job: Job, sets: Sequence[LocalTask]) -> None:
    if not job.inputs.exists():
        if job.result.exists():
            console.print(
                f"{job}: its result notes no hashes of its data; it counts as made from the same files."
            )
        return
    changes = changed_inputs(_read_inputs(job.inputs), hash_inputs(job, sets))
    if changes:
        raise UserError(
            f"{job.inputs}: the files of {job} changed since it began: {', '.join(changes)}. "
            "Put back the old ones, remove that arm's folder, or choose another --output."
        )


def _read_inputs(path: Path) -> Inputs:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _write_inputs(path: Path, inputs: Inputs) -> None:
    write_text(path, yaml.safe_dump(inputs, sort_keys=False, allow_unicode=True))


def _mine_once(pending: Sequence[Job]) -> None:
    first_of = {job.rankings: job for job in reversed(pending) if job.rankings is not None}
    for rankings, job in first_of.items():
        assert rankings is not None
        is_mined = collectives.is_main_process() and _is_mined(job, rankings)
        if not collectives.broadcast_object(is_mined):
            mine(job.recipe, rankings)


def _is_mined(job: Job, rankings: Path) -> bool:
    """Return whether all rankings are there; those of other data or of another base model are removed."""
    inputs, noted = of_mining(job, hash_inputs(job, ())), rankings / "inputs.yaml"
    if _read_inputs(noted) != inputs:
        shutil.rmtree(rankings, ignore_errors=True)
        _write_inputs(noted, inputs)
    record = rankings / "mining.json"
    return record.exists() and set(mined_sets(job.recipe)) <= set(read_json(record)["datasets"])


def run_job(job: Job) -> None:
    """Train one arm with one seed and score it; write its result."""
    with _locked(job):
        if not collectives.broadcast_object(job.result.exists()):
            _train_and_score(job)


@contextlib.contextmanager
def _locked(job: Job) -> Iterator[None]:
    """Own the run directory: a process that lost its parent may still be saving there, and is waited for."""

    def print_owner(owner: str) -> None:
        console.print(f"{job}: {job.run} is in use by {owner}; waiting until it has ended")

    with contextlib.ExitStack() as stack:
        if collectives.is_main_process():
            stack.enter_context(lock_folder(job.run, on_busy=print_owner))
        collectives.barrier()
        yield


def _train_and_score(job: Job) -> None:
    started = time.time()
    sets = evaluation_tasks(job.recipe.evaluation, job.recipe.cache)
    if collectives.is_main_process() and not job.inputs.exists():
        _write_inputs(job.inputs, hash_inputs(job, sets))
    if job.arm.trained:
        recipe = job.recipe if job.rankings is None else job.recipe.with_rankings(job.rankings)
        train(recipe.model_copy(update={"evaluation": Evaluation()}))
    if collectives.is_main_process():
        write_json(job.result, _score(job, sets, started).to_json())
        shutil.rmtree(job.run / "checkpoints", ignore_errors=True)  # as large as several models, each
    collectives.barrier()


def _score(job: Job, sets: Sequence[LocalTask], started: float) -> ArmResult:
    model = (
        EmbeddingModel.load(job.run / "model")
        if job.arm.trained
        else load_base_model(job.recipe.model, job.recipe.training.seed)
    )
    result = evaluate(model.to(collectives.start()), sets, items=True)
    return ArmResult(
        arm=job.arm.name,
        seed=job.seed,
        scores={key: _main_score(task) for key, task in result.items()},
        seen=_seen(job),
        seconds=round(time.time() - started, 1),
        items={key: list(task.items) for key, task in result.items() if task.items is not None},
    )


def _main_score(task: TaskResult) -> float:
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
