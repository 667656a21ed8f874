"""A whole run: read, mine, train, evaluate, save. `train(recipe)` is what `conan-embed train` calls.

This is the only file of training/ that knows the whole recipe. What a run leaves behind: run_folder.py.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xxhash

from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel, compiled_graphs
from conan_embed.errors import UserError
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.embedding import Embed, embed_with
from conan_embed.negatives.false_negatives import MARGIN, hard_negatives
from conan_embed.negatives.outlook import obstacles
from conan_embed.negatives.prepare import make_rankings, make_table
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.contrast import check_contrast
from conan_embed.planning.plan import StepSource
from conan_embed.planning.planner import Planner, check_enough_negatives
from conan_embed.planning.streaming import StreamPlanner, open_streams
from conan_embed.recipes.loading import changed_keys, load_recipe
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.task_files import read_tasks, write_tasks
from conan_embed.texts.tasks import Tasks, load_tasks
from conan_embed.training.checkpoint import (
    Progress,
    Provenance,
    check_data,
    load_checkpoint,
    saved_provenance,
    saved_table,
)
from conan_embed.training.evaluator import Evaluator
from conan_embed.training.loop import TrainingLoop
from conan_embed.training.memory import measure_fitting_tokens
from conan_embed.training.metrics import Log, MetricsLog, NoLog
from conan_embed.training.record import describe_run, timestamp
from conan_embed.training.run_folder import RunFolder
from conan_embed.training.trackers import check_trackers, open_trackers
from conan_embed.training.train_module import TrainModule

# Settings that do not change what is trained: a resumed run may have others.
_MAY_DIFFER = (
    *("output", "cache", "tracking", "evaluation"),
    *("training.sharding", "training.timeout", "training.compile"),
)


def load_model(recipe: Recipe) -> EmbeddingModel:
    """Load the base model with the recipe's settings."""
    settings = recipe.model
    # A dense layer that the base model does not have is drawn at random: from the seed, the same on every process.
    torch.manual_seed(recipe.training.seed)
    return EmbeddingModel.load(
        settings.base,
        pooling=settings.pooling,
        dense_width=settings.dense_width,
        widths=settings.widths,
        prompts=settings.prompts,
        max_length=settings.max_length,
        dropout=settings.dropout,
        trust_remote_code=settings.trust_remote_code,
    )


def load_data(recipe: Recipe, model: EmbeddingModel) -> Tasks:
    """Read and tokenise the recipe's files: one process of each node does, the others map what it wrote.

    Nodes may share a disk or have their own: each uses the recipe's cache as it sees it.
    """
    fingerprint = f"{model.max_length} {model.tokenizer_text()}"
    cache = Path(recipe.cache)
    if not collectives.is_local_main_process():
        return read_tasks(Path(collectives.broadcast_on_node(None)), cache)
    tasks = load_tasks(
        recipe.data,
        model.prompts,
        model.tokenize,
        fingerprint=fingerprint,
        cache=cache,
        count_tokens=model.count_tokens,
    )
    collectives.broadcast_on_node(str(write_tasks(tasks, cache)) if collectives.node_size() > 1 else "")
    return tasks


def load_table(recipe: Recipe, tasks: Tasks, model: EmbeddingModel, folder: Path) -> NegativeTable | None:
    """Mine into `folder` what has no ranking yet; return the table of hard negatives, None where a step holds none."""
    embed = _embed_with(recipe, tasks, model)
    seed = recipe.training.seed
    return make_table(
        tasks,
        embed,
        recipe.step,
        recipe.mining,
        recipe.model,
        folder,
        seed=seed,
        subtract_background=recipe.hard_negatives.subtract_background,
    )


def _embed_with(recipe: Recipe, tasks: Tasks, model: EmbeddingModel) -> Embed:
    return embed_with(model, tasks.store, recipe.training.precision, recipe.training.chunk_tokens)


def mine(recipe: Recipe, output: Path) -> Path:
    """Mine every retrieval set of the recipe into `output`; return the folder."""
    if recipe.data.stream:
        raise UserError("data.stream: found true, expected false: streamed pairs have no negatives to mine.")
    model = load_model(recipe).to(collectives.start(timeout=recipe.training.timeout))
    tasks = load_data(recipe, model)
    make_rankings(tasks, _embed_with(recipe, tasks, model), recipe.mining, recipe.model, output)
    return output


@dataclass(frozen=True)
class FalseNegatives:
    """What `find_false_negatives` found: the file, how many pairs are in it, and how many were looked at."""

    file: Path
    found: int
    pairs: int


def find_false_negatives(
    run: Path, output: Path | None = None, *, limit: int = 500, margin: float = MARGIN
) -> FalseNegatives:
    """Write the likely false negatives of a finished run as JSON lines for a person to label.

    `hard_negatives.jsonl` of the run is written anew, too, with all pairs that were looked at.

    Args:
        output: the file; by default false_negatives.jsonl in the run.
        limit, margin: see `hard_negatives`.

    Raises:
        UserError: the folder is no finished run with hard negatives, or its data files changed or are gone.
    """
    device = collectives.start()
    folder = RunFolder(run)
    checkpoint = folder.newest_checkpoint()
    if not folder.recipe.exists() or checkpoint is None or not folder.model.is_dir():
        raise UserError(f"{run}: not a finished run: expected recipe.yaml, model/ and a checkpoint in it.")
    if not (checkpoint / "negatives.safetensors").exists():
        raise UserError(
            f"{checkpoint}: holds no hard negatives; expected the checkpoint of a run that used some."
        )
    recipe = load_recipe(folder.recipe)
    collectives.start(timeout=recipe.training.timeout)
    model = EmbeddingModel.load(str(folder.model)).to(device).eval()
    tasks = load_data(recipe, model)
    check_data(checkpoint, {"texts": tasks.store.identity()}, allow_changes=False)
    table = saved_table(checkpoint, recipe.step.num_negatives)
    embed = _embed_with(recipe, tasks, model)
    pairs = hard_negatives(
        tasks.retrieval, tasks.store, table, folder.mining, embed, limit=limit, margin=margin
    )
    likely = [pair.to_json() for pair in pairs if pair.suspect]
    file = folder.false_negatives if output is None else Path(output)
    folder.write_hard_negatives(pairs)
    folder.write_lines(file, likely)
    return FalseNegatives(file, len(likely), len(pairs))


def train(recipe: Recipe, *, resume: bool = True, allow_changes: bool = False) -> Path:
    """Train as the recipe says; return the run directory.

    Args:
        resume: go on from the newest checkpoint of the run directory, if it has one; else start it anew.
        allow_changes: resume although the recipe or the data is another than the checkpoint's.

    Raises:
        UserError: a mistake in recipe, data or model, a folder that another run works in, a loss that is not finite, a
            full disk, a request to stop; checkpoints written so far stay usable.
    """
    started = time.time()
    device = collectives.start(timeout=recipe.training.timeout)
    check_trackers(recipe.tracking)
    folder = RunFolder(recipe.output)
    with folder.locked():
        checkpoint = folder.newest_checkpoint() if resume else None
        if checkpoint is not None:
            _check_same_recipe(recipe, checkpoint, allow_changes)
        if not resume:
            folder.clear()
        folder.write_recipe(recipe.as_yaml())
        _train(recipe, folder, device, checkpoint, started, allow_changes)
        collectives.barrier()
    return folder.path


def _train(
    recipe: Recipe,
    folder: RunFolder,
    device: torch.device,
    checkpoint: Path | None,
    started: float,
    allow_changes: bool,
) -> None:
    evaluator = None if recipe.evaluation.folder is None else Evaluator(recipe.evaluation, folder)
    model = load_model(recipe).to(device)
    source, tasks = _load_source(recipe, model)
    data = source.identity() | _evaluation_identity(evaluator)
    if checkpoint is not None:
        _check_same_data(recipe, data, checkpoint, allow_changes)
    for size in source.summary().datasets:
        folder.log(f"{size.task}: {size.name}, {size.rows:,} rows")
    negatives = None if tasks is None else _start_negatives(recipe, tasks, model, folder, checkpoint is None)
    if negatives is not None:
        ranking = negatives.table.ranking_QK
        data["rankings"] = xxhash.xxh3_128_hexdigest(ranking.tobytes())
        if checkpoint is not None:
            check_data(checkpoint, data, allow_changes=allow_changes)
    num_steps = recipe.training.steps or source.steps_for(recipe.training.epochs)
    check_contrast(source, None if negatives is None else negatives.table, num_steps)
    module = TrainModule(model, recipe.optimizer, recipe.training)
    module.memory.fit(measure_fitting_tokens(model, recipe.training.precision))
    progress = Progress(0)
    if checkpoint is not None:
        progress = load_checkpoint(checkpoint, module, negatives)
        if progress.step >= num_steps and folder.model.exists():
            folder.log(f"{folder} is finished: all {num_steps} steps are done. Start anew with --no-resume.")
            return
        folder.log(f"resumed at step {progress.step} of {num_steps} from {checkpoint}")
    elif negatives is not None:
        epochs = _epochs(recipe, source, num_steps)
        for sentence in obstacles(recipe.hard_negatives, negatives.table, num_steps=num_steps, epochs=epochs):
            folder.log(f"hard negatives: {sentence}")
    progress = _usable_best(recipe, folder, progress, checkpoint, data)
    began = started - progress.seconds
    first_start = folder.first_start() if checkpoint is not None else None
    record = describe_run(
        model,
        source.summary(),
        base=recipe.model.base,
        precision=recipe.training.precision,
        num_steps=num_steps,
        started=first_start or timestamp(started),
    )
    folder.write_record(record)
    log = _open_log(recipe, folder, progress.step)
    try:
        TrainingLoop(
            folder=folder,
            module=module,
            source=source,
            negatives=negatives,
            evaluator=evaluator,
            loss=recipe.loss,
            optimizer=recipe.optimizer,
            training=recipe.training,
            num_steps=num_steps,
            progress=progress,
            provenance=Provenance(recipe.as_dict(), data),
            log=log,
            began=began,
            keep_best=recipe.evaluation.keep_best,
            evaluate_every=recipe.evaluation.every,
        ).run()
    finally:
        log.close()
    if negatives is not None:
        folder.write_hard_negatives(
            hard_negatives(negatives.sets, negatives.store, negatives.table, folder.mining, negatives.embed)
        )
    finished = time.time()
    folder.write_record(
        replace(
            record,
            finished=timestamp(finished),
            seconds=round(finished - began, 1),
            chunk_tokens=module.memory.chunk_tokens,
            activation_checkpointing=module.memory.activation_checkpointing,
            compiled_graphs=compiled_graphs(),
        )
    )
    folder.complete_card()


def _load_source(recipe: Recipe, model: EmbeddingModel) -> tuple[StepSource, Tasks | None]:
    """Return what plans the steps, and the data in memory (None where pairs are streamed)."""
    seed = recipe.training.seed
    if recipe.data.stream:
        streams = open_streams(recipe.data)
        return StreamPlanner(streams, model.prompts, model.tokenize, recipe.step, seed), None
    tasks = load_data(recipe, model)
    return Planner(tasks, recipe.step, seed), tasks


def _start_negatives(
    recipe: Recipe, tasks: Tasks, model: EmbeddingModel, folder: RunFolder, fill: bool
) -> DynamicNegatives | None:
    """Mine what has to be mined; return the hard negatives of the run, None where a step holds none.

    Args:
        fill: encode the bank of passages (a resumed run has it in its checkpoint).
    """
    table = load_table(recipe, tasks, model, folder.mining)
    if table is None:
        return None
    check_enough_negatives(tasks.retrieval, table, recipe.step)
    return DynamicNegatives(
        recipe.hard_negatives,
        recipe.mining,
        table,
        tasks.retrieval,
        tasks.store,
        _embed_with(recipe, tasks, model),
        width=model.width,
        fill=fill,
    )


def _epochs(recipe: Recipe, source: StepSource, num_steps: int) -> float | None:
    """Return how often the run sees each query; None where some come more often than others."""
    weights = [data.weight for data in recipe.data.retrieval]
    weights += [data.weight for data in recipe.data.classification]
    if any(weight is not None for weight in weights) or recipe.step.sampling_temperature is not None:
        return None
    return num_steps / source.steps_for(1)


def _open_log(recipe: Recipe, folder: RunFolder, step: int) -> Log:
    if not folder.is_writer:
        return NoLog()
    done = step or -1  # a run that begins anew forgets its evaluation of step 0 too
    trackers = open_trackers(recipe.tracking, recipe.as_dict(), folder.path, done)
    return MetricsLog(folder.path, from_step=done, trackers=trackers)


# --- resuming


def _evaluation_identity(evaluator: Evaluator | None) -> dict[str, str]:
    """The hash of the evaluation sets as the main process sees them: it is the one that evaluates."""
    value = evaluator.identity() if evaluator is not None and collectives.is_main_process() else None
    value = collectives.broadcast_object(value)
    return {} if value is None else {"evaluation sets": value}


def _check_same_recipe(recipe: Recipe, checkpoint: Path, allow_changes: bool) -> None:
    changes = changed_keys(saved_provenance(checkpoint).recipe, recipe.as_dict(), _MAY_DIFFER)
    if changes and not allow_changes:
        raise UserError(
            f"{checkpoint}: the recipe changed since: {'; '.join(changes)}. "
            "Start anew with --no-resume, go on with the old recipe, or accept the change with --allow-changes."
        )


def _check_same_data(recipe: Recipe, data: dict[str, str], checkpoint: Path, allow_changes: bool) -> None:
    """Compare all data; evaluation sets may be others where the recipe names others."""
    saved = saved_provenance(checkpoint).recipe["evaluation"]
    compared = dict(data)
    if saved != recipe.as_dict()["evaluation"]:
        compared.pop("evaluation sets", None)
    check_data(checkpoint, compared, allow_changes=allow_changes)


def _usable_best(
    recipe: Recipe, folder: RunFolder, progress: Progress, checkpoint: Path | None, data: dict[str, str]
) -> Progress:
    """Forget a best evaluation on other sets, or one whose model is gone; remove best models that do not count."""
    step, sets = progress.best_step, data.get("evaluation sets")
    if step is not None and checkpoint is not None:
        is_comparable = saved_provenance(checkpoint).data.get("evaluation sets") == sets
        if not is_comparable or (recipe.evaluation.keep_best and not folder.has_best(step)):
            why = "its model is gone" if is_comparable else "it was evaluated on other sets"
            folder.log(f"the best evaluation so far, of step {step}, no longer counts: {why}.")
            progress = replace(progress, best=None, best_step=None)
    folder.keep_best(progress.best_step)
    return progress
