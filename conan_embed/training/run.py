"""A whole run: read, mine, train, evaluate, save. `train(recipe)` is what `conan-embed train` calls.

This is the only file of training/ that knows the whole recipe: setup.py makes the parts of a run from its sections,
resume.py compares a run with its checkpoint, loop.py does the steps, run_folder.py says what is written where.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xxhash

from conan_embed.distillation.loading import load_teacher
from conan_embed.distillation.teacher import Teacher
from conan_embed.distributed import collectives
from conan_embed.encoder.adapter import frozen_identity
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.packed_encoder import compiled_graphs
from conan_embed.errors import UserError
from conan_embed.evaluation.named import evaluation_tasks
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.embedding import Embed, EmbedOnce, embed_with
from conan_embed.negatives.false_negatives import hard_negatives
from conan_embed.negatives.outlook import obstacles, shortages
from conan_embed.negatives.prepare import identities, make_rankings, make_table
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.contrast import check_contrast
from conan_embed.planning.plan import StepSource
from conan_embed.planning.planner import check_enough_negatives
from conan_embed.recipes.schema import Recipe
from conan_embed.recipes.sections import Training
from conan_embed.texts.tasks import Tasks
from conan_embed.training.checkpoint import Progress, Provenance
from conan_embed.training.evaluator import Evaluator
from conan_embed.training.held_out import forget_score, hold_out, score_held_out
from conan_embed.training.loop import TrainingLoop
from conan_embed.training.memory import Memory, measure_fitting_tokens
from conan_embed.training.metrics import Log, MetricsLog, NoLog
from conan_embed.training.record import RunRecord, describe_run, timestamp
from conan_embed.training.resume import EVALUATION_SETS, ResumePoint
from conan_embed.training.run_folder import RunFolder
from conan_embed.training.setup import epochs_of, load_base_model, load_data, make_embed, make_source
from conan_embed.training.trackers import check_trackers, open_trackers
from conan_embed.training.train_module import TrainModule


def mine(recipe: Recipe, output: Path) -> Path:
    """Mine every retrieval set of the recipe into `output`; return the folder."""
    if recipe.data.stream:
        raise UserError("data.stream: found true, expected false: streamed pairs have no negatives to mine.")
    if recipe.evaluation.hold_out:
        raise UserError(
            f"evaluation.hold_out: found {recipe.evaluation.hold_out:g}, expected 0: `train` mines what it leaves."
        )
    device = collectives.start(timeout=recipe.training.timeout)
    model = load_base_model(recipe.model, recipe.training.seed).to(device)
    tasks = load_data(recipe.data, recipe.cache, model)
    models = identities(model, tasks.retrieval)
    make_rankings(tasks, make_embed(tasks, model, recipe.training), recipe.mining, models, output)
    return output


def train(
    recipe: Recipe,
    *,
    resume: bool = True,
    allow_changes: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Train as the recipe says; return the run directory.

    Args:
        resume: continue from the newest checkpoint of the run directory, if it has one; else start it anew.
        allow_changes: resume although the recipe or the data is another than the checkpoint's.
        on_step: called after each step with its number and its seconds.

    Raises:
        UserError: a mistake in recipe, data or model, a folder that another run works in, a loss that is not finite, a
            full disk, a request to stop; checkpoints written so far stay usable.
    """
    started = time.time()
    device = collectives.start(timeout=recipe.training.timeout)
    check_trackers(recipe.tracking)
    folder = RunFolder(recipe.output)
    with folder.locked():
        point = ResumePoint(folder.newest_checkpoint() if resume else None, allow_changes)
        point.check_recipe(recipe.as_dict())
        if not resume:
            folder.set_held_out_aside()
        parts = _load_parts(recipe, folder, device, point, anew=not resume)
        _train(recipe, parts, point, started, on_step)
        _score_held_out(recipe, folder, device)
        collectives.barrier()
    return folder.path


@dataclass(frozen=True)
class _Parts:
    """What a run is made of.

    Attributes:
        source: plans the steps.
        negatives: None where no step holds hard negatives.
        teacher: None where the recipe names none.
        evaluator: None where the recipe names no evaluation sets.
        data: a hash of each part of the data.
    """

    folder: RunFolder
    model: EmbeddingModel
    source: StepSource
    negatives: DynamicNegatives | None
    teacher: Teacher | None
    evaluator: Evaluator | None
    data: dict[str, str]

    @property
    def table(self) -> NegativeTable | None:
        return None if self.negatives is None else self.negatives.table


def _load_parts(
    recipe: Recipe, folder: RunFolder, device: torch.device, point: ResumePoint, *, anew: bool
) -> _Parts:
    """Read data and model, compare them with the checkpoint's, and mine what has no ranking yet.

    Args:
        anew: remove an earlier run from the folder, once it is known that data and model can be read.
    """
    given, text = recipe.as_dict(), recipe.as_yaml()
    recipe = hold_out(recipe, folder.held_out, point)
    sets = evaluation_tasks(recipe.evaluation, recipe.cache)
    evaluator = Evaluator(sets, folder, recipe.training.precision) if sets else None
    seed = recipe.training.seed
    model = load_base_model(recipe.model, seed).to(device)
    source, tasks = make_source(
        recipe.data, recipe.step, seed, recipe.cache, model, with_scores=recipe.reads_scores
    )
    data = source.identity() | _reading_identity(model) | _evaluation_identity(evaluator)
    data |= frozen_identity(model)
    point.check_data(data, given)
    if anew:
        folder.clear()
        collectives.barrier()
    folder.write_recipe(text)
    for size in source.summary().datasets:
        folder.log(f"{size.task}: {size.name}, {size.rows:,} rows")
    negatives = None if tasks is None else _make_negatives(recipe, tasks, model, folder, point)
    if negatives is not None:
        rankings = {"rankings": xxhash.xxh3_128_hexdigest(negatives.table.ranking_QK.tobytes())}
        point.check_data(rankings, given)
        data |= rankings
    teacher = None
    if recipe.teacher is not None and tasks is not None:
        table = None if negatives is None else negatives.table
        teacher = load_teacher(recipe.teacher, tasks, table, model.width, Path(recipe.cache), device)
        identity = {"teacher": teacher.identity()}
        point.check_data(identity, given)
        data |= identity
    return _Parts(folder, model, source, negatives, teacher, evaluator, data)


def _reading_identity(model: EmbeddingModel) -> dict[str, str]:
    """The hash of how the base model reads texts: its folder may hold another tokenizer or prompt than before.

    Weights do not count, they are the checkpoint's own.
    """
    settings = [model.pooling, model.include_prompt, model.max_length, sorted(model.prompts.items())]
    settings.append(model.tokenizer_text())
    return {"tokenizer, prompts or pooling of the base": xxhash.xxh3_128_hexdigest(repr(settings).encode())}


def _evaluation_identity(evaluator: Evaluator | None) -> dict[str, str]:
    """The hash of the evaluation sets as the main process sees them: it is the one that evaluates."""
    value = evaluator.identity() if evaluator is not None and collectives.is_main_process() else None
    value = collectives.broadcast_object(value)
    return {} if value is None else {EVALUATION_SETS: value}


def _make_negatives(
    recipe: Recipe, tasks: Tasks, model: EmbeddingModel, folder: RunFolder, point: ResumePoint
) -> DynamicNegatives | None:
    """Mine what has no ranking yet; return the hard negatives of the run, None where no step holds any."""
    embed = make_embed(tasks, model, recipe.training)
    # A new bank begins with what mining embeds; a resumed run has its bank in the checkpoint.
    first_embed = EmbedOnce(embed) if recipe.hard_negatives.source == "bank" else embed
    table = load_table(recipe, tasks, model, folder.mining, embed=first_embed)
    if table is None:
        return None
    check_enough_negatives(tasks.retrieval, table, recipe.step)
    return DynamicNegatives(
        recipe.hard_negatives,
        recipe.mining,
        table,
        tasks.retrieval,
        tasks.store,
        embed,
        width=model.width,
        fill=first_embed if point.checkpoint is None else None,
    )


def load_table(
    recipe: Recipe, tasks: Tasks, model: EmbeddingModel, folder: Path, *, embed: Embed | None = None
) -> NegativeTable | None:
    """Mine into `folder` what has no ranking yet; return the table of hard negatives, None where a step holds none.

    Args:
        embed: with the model; None for a new one.
    """
    return make_table(
        tasks,
        embed or make_embed(tasks, model, recipe.training),
        recipe.step,
        recipe.mining,
        identities(model, tasks.retrieval),
        folder,
        seed=recipe.training.seed,
        subtract_background=recipe.hard_negatives.subtract_background,
    )


def _train(
    recipe: Recipe,
    parts: _Parts,
    point: ResumePoint,
    started: float,
    on_step: Callable[[int, float], None] | None,
) -> None:
    """Do the remaining steps; write the model and the record of the run."""
    folder = parts.folder
    num_steps = recipe.training.steps or parts.source.steps_for(recipe.training.epochs)
    if recipe.teacher is None or not recipe.teacher.embedding:  # embeddings teach without negatives
        check_contrast(parts.source, parts.table, num_steps)
    _score_before(parts, point, recipe.training.precision)
    module = TrainModule(parts.model, recipe.optimizer, recipe.training)
    training = recipe.training
    fitting_tokens = measure_fitting_tokens(parts.model, training.precision, training.sharding)
    module.memory.fit(fitting_tokens, before=point.saved_chunk_tokens())
    progress = point.load(module, parts.negatives)
    if point.checkpoint is not None and progress.step >= num_steps and folder.is_finished():
        folder.log(f"{folder} is finished: all {num_steps} steps are done. Start anew with --no-resume.")
        return
    if folder.is_writer:
        forget_score(folder.held_out, "after")
    _announce(recipe, parts, point, progress, num_steps)
    progress = point.with_usable_best(progress, folder, parts.data, keep_best=recipe.evaluation.keep_best)
    began = started - progress.seconds
    record = _start_record(recipe, parts, point, num_steps, started)
    with contextlib.closing(_open_log(recipe, folder, progress.step)) as log:
        loop = TrainingLoop(
            folder=folder,
            module=module,
            source=parts.source,
            negatives=parts.negatives,
            evaluator=parts.evaluator,
            loss=recipe.loss,
            optimizer=recipe.optimizer,
            training=recipe.training,
            evaluation=recipe.evaluation,
            num_steps=num_steps,
            progress=progress,
            provenance=Provenance(recipe.as_dict(), parts.data),
            log=log,
            began=began,
            teacher=parts.teacher,
            teacher_settings=recipe.teacher,
            on_step=on_step,
        )
        loop.run()
    is_last = loop.result_step() == loop.progress.step
    _finish(parts, module.memory, record, began, recipe.training, is_last=is_last)


def _score_before(parts: _Parts, point: ResumePoint, precision: str) -> None:
    """Score the held-out questions with the base, while every process still holds the whole model."""
    if parts.folder.is_writer and point.checkpoint is None:
        score_held_out(parts.model, parts.folder.held_out, "before", precision)
    collectives.barrier()  # sharding begins with a collective, which would not wait for hours


def _score_held_out(recipe: Recipe, folder: RunFolder, device: torch.device) -> None:
    if folder.is_writer and recipe.evaluation.hold_out:
        model = EmbeddingModel.load(str(folder.model)).to(device)
        score_held_out(model, folder.held_out, "after", recipe.training.precision)


def _announce(recipe: Recipe, parts: _Parts, point: ResumePoint, progress: Progress, num_steps: int) -> None:
    """Print from where the run resumes; of one that begins, what stands in the way of its negatives."""
    if point.checkpoint is not None:
        parts.folder.log(f"resumed at step {progress.step} of {num_steps} from {point.checkpoint}")
    elif parts.negatives is not None and parts.table is not None:
        epochs = epochs_of(recipe.data, recipe.step, parts.source, num_steps)
        for sentence in (
            *shortages(parts.negatives.sets, parts.table, recipe.step),
            *obstacles(
                recipe.hard_negatives, parts.table, parts.negatives.sets, num_steps=num_steps, epochs=epochs
            ),
        ):
            parts.folder.log(f"hard negatives: {sentence}")


def _start_record(
    recipe: Recipe, parts: _Parts, point: ResumePoint, num_steps: int, started: float
) -> RunRecord:
    """Write run.json as far as it is known before the first step."""
    first_start = None if point.checkpoint is None else parts.folder.first_start()
    record = describe_run(
        parts.model,
        parts.source.summary(),
        base=recipe.model.base,
        precision=recipe.training.precision,
        num_steps=num_steps,
        started=first_start or timestamp(started),
    )
    parts.folder.write_record(record)
    return record


def _open_log(recipe: Recipe, folder: RunFolder, step: int) -> Log:
    if not folder.is_writer:
        return NoLog()
    done = step or -1  # a run that begins anew forgets its evaluation of step 0 too
    trackers = open_trackers(recipe.tracking, recipe.as_dict(), folder.path, done)
    return MetricsLog(folder.path, from_step=done, trackers=trackers)


def _finish(
    parts: _Parts, memory: Memory, record: RunRecord, began: float, settings: Training, *, is_last: bool
) -> None:
    """Write the hardest negatives, run.json as it is known at the end, and the model's card.

    Args:
        is_last: the result is the model as it is now, after the last step.
    """
    folder, negatives = parts.folder, parts.negatives
    if negatives is not None:
        embed = negatives.embed if is_last else _embed_of_result(parts, negatives, settings)
        folder.write_hard_negatives(
            hard_negatives(negatives.sets, negatives.store, negatives.table, folder.mining, embed)
        )
    finished = time.time()
    folder.write_record(
        replace(
            record,
            finished=timestamp(finished),
            seconds=round(finished - began, 1),
            chunk_tokens=memory.chunk_tokens,
            activation_checkpointing=memory.activation_checkpointing,
            compiled_graphs=compiled_graphs(),
        )
    )
    folder.complete_card()


def _embed_of_result(parts: _Parts, negatives: DynamicNegatives, settings: Training) -> Embed:
    """Return what embeds with model/, that of the best step; with the last step's where a node does not see it."""
    folder = parts.folder
    collectives.barrier()  # the main process wrote it
    if not collectives.all_true(folder.model.is_dir()):
        folder.log("hard_negatives.jsonl has scores of the last step: not every node sees model/.")
        return negatives.embed
    model = EmbeddingModel.load(str(folder.model)).to(parts.model.device)
    return embed_with(model.eval(), negatives.store, settings.precision, settings.chunk_tokens)
