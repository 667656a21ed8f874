"""A whole run: read, mine, train, evaluate, save. `train(recipe)` is what `conan-embed train` calls.

runs/NAME/
    recipe.yaml        every setting, defaults written out
    run.json           versions, device, times
    metrics.jsonl      one object a step;  evaluation.jsonl, negatives.jsonl likewise
    mining/            rankings of hard negatives
    hard_negatives.jsonl   the hardest of those used, with scores: suspected false negatives first
    checkpoints/       the newest ones
    model/             the result, a sentence-transformers folder
"""

import datetime
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import conan_embed
from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.encoder.card import note_training
from conan_embed.encoder.model import EmbeddingModel, compiled_graphs
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_json, write_text
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.embedding import Embed, embed_with
from conan_embed.negatives.false_negatives import MARGIN, hard_negatives, write_lines
from conan_embed.negatives.outlook import obstacles
from conan_embed.negatives.prepare import make_rankings, make_table
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.plan import Planner, check_enough_negatives
from conan_embed.planning.streaming import StreamPlanner, open_streams
from conan_embed.recipes.loading import changed_keys, load_recipe
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.task_files import read_tasks, write_tasks
from conan_embed.texts.tasks import Tasks, load_tasks
from conan_embed.training.checkpoint import (
    Progress,
    checkpoints,
    load_checkpoint,
    saved_recipe,
    saved_table,
)
from conan_embed.training.loop import Loop
from conan_embed.training.memory import measure_fitting_tokens
from conan_embed.training.roofline import matmul_peak_tokens_per_second
from conan_embed.training.trackers import check_trackers
from conan_embed.training.train_module import TrainModule

HARD_NEGATIVES = "hard_negatives.jsonl"

# Settings that do not change what is trained: a resumed run may have others.
_MAY_DIFFER = (
    *("output", "cache", "tracking", "evaluation"),
    *("training.sharding", "training.timeout", "training.compile"),
)


def load_model(recipe: Recipe) -> EmbeddingModel:
    """Load the base model as the recipe says."""
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
    """Read and tokenise the recipe's files; the first process of each node does, the others map what it wrote.

    Nodes may share a disk or have their own: each looks into the recipe's cache as it sees it.
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


def mine(recipe: Recipe, output: Path) -> Path:
    """Mine every retrieval set of the recipe into `output`; return the folder."""
    if recipe.data.stream:
        raise UserError(
            "data.stream: true reads pairs without negatives; expected false where negatives are mined."
        )
    model = load_model(recipe).to(collectives.start(timeout=recipe.training.timeout))
    tasks = load_data(recipe, model)
    make_rankings(tasks, _embed_with(recipe, tasks, model), recipe.mining, recipe.model, output)
    return output


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


def suspects(
    run: Path, output: Path | None = None, *, limit: int = 500, margin: float = MARGIN
) -> tuple[Path, int, int]:
    """Write the suspected false negatives of a finished run as JSON lines for a person to label.

    The run's `hard_negatives.jsonl` is written anew, too, with all pairs that were looked at.

    Args:
        output: the file; by default suspects.jsonl in the run.
        limit, margin: see `hard_negatives`.

    Returns:
        the file, how many suspects are in it, how many pairs were looked at.

    Raises:
        UserError: the folder is no finished run with hard negatives, or its data files changed or are gone.
    """
    run = Path(run)
    found = checkpoints(run / "checkpoints")
    if not (run / "recipe.yaml").exists() or not found or not (run / "model").is_dir():
        raise UserError(f"{run}: not a finished run: expected recipe.yaml, model/ and a checkpoint in it.")
    if not (found[-1] / "negatives.safetensors").exists():
        raise UserError(
            f"{found[-1]}: holds no hard negatives; expected the checkpoint of a run that used some."
        )
    recipe = load_recipe(run / "recipe.yaml")
    device = collectives.start(timeout=recipe.training.timeout)
    model = EmbeddingModel.load(str(run / "model")).to(device).eval()
    tasks = load_data(recipe, model)
    table = saved_table(found[-1], recipe.step.num_negatives, texts=tasks.store.identity())
    embed = _embed_with(recipe, tasks, model)
    lines = hard_negatives(
        tasks.retrieval, tasks.store, table, run / "mining", embed, limit=limit, margin=margin
    )
    output = Path(output) if output is not None else run / "suspects.jsonl"
    suspected = [line for line in lines if line.suspect]
    if collectives.is_main_process():
        write_lines(run / HARD_NEGATIVES, lines)
        write_lines(output, suspected)
    return output, len(suspected), len(lines)


def train(recipe: Recipe, *, resume: bool = True, allow_changes: bool = False) -> Path:
    """Train as the recipe says; return the run directory.

    Args:
        resume: go on from the newest checkpoint of the run directory, if it has one; else start it anew.
        allow_changes: resume although the recipe is another than the checkpoint's.

    Raises:
        UserError: whatever a user can do wrong; checkpoints written so far stay usable.
    """
    device = collectives.start(timeout=recipe.training.timeout)
    run = Path(recipe.output)
    started = time.time()
    check_trackers(recipe.tracking)
    # All go on from the checkpoint that the first one sees.
    found = collectives.broadcast_object(checkpoints(run / "checkpoints") if resume else [])
    if found:
        _check_same_recipe(recipe, found[-1], allow_changes)
    if collectives.is_main_process():
        if not resume:
            _clear(run)
        write_text(run / "recipe.yaml", recipe.as_yaml())
    model = load_model(recipe).to(device)
    planner, negatives = _plan(recipe, model, run, fill=not found)
    num_steps = recipe.training.steps or planner.steps_for(recipe.training.epochs)
    train_module = TrainModule(model, recipe)
    train_module.memory.fit(measure_fitting_tokens(model, recipe.training.precision))
    progress = Progress(0)
    if found:
        progress = load_checkpoint(found[-1], train_module, negatives, texts=planner.identity())
    if progress.step >= num_steps and (run / "model").exists():
        if collectives.is_main_process():
            console.print(f"{run} is finished: all {num_steps} steps are done. Start anew with --no-resume.")
        return run
    if found and collectives.is_main_process():
        console.print(f"resumed at step {progress.step} of {num_steps} from {found[-1]}")
    if negatives is not None and not found and collectives.is_main_process():
        for sentence in obstacles(
            recipe.hard_negatives,
            negatives.table,
            num_steps=num_steps,
            epochs=_epochs(recipe, planner, num_steps),
        ):
            console.print(f"hard negatives: {sentence}")
    began = started - progress.seconds
    if collectives.is_main_process():
        facts = {
            **_facts(recipe, model, planner, num_steps),
            "started": read_json(run / "run.json")["started"] if found else _moment(started),
        }
        write_json(run / "run.json", {**facts, "finished": None, "seconds": None})
    Loop(recipe, run, train_module, negatives, planner, num_steps, progress, began).go()
    if negatives is not None:
        hardest = hard_negatives(
            negatives.sets, negatives.store, negatives.table, run / "mining", negatives.embed
        )
        if collectives.is_main_process():
            write_lines(run / HARD_NEGATIVES, hardest)
    if collectives.is_main_process():
        finished = time.time()
        times = {
            "finished": _moment(finished),
            "seconds": round(finished - began, 1),
            "chunk_tokens": train_module.memory.chunk_tokens,
            "activation_checkpointing": train_module.memory.activation_checkpointing,
            "compiled_graphs": compiled_graphs(),
        }
        write_json(run / "run.json", facts | times)
        note_training(run / "model", run)
    collectives.barrier()
    return run


def _plan(
    recipe: Recipe, model: EmbeddingModel, run: Path, *, fill: bool
) -> tuple[Planner | StreamPlanner, DynamicNegatives | None]:
    """Read the data, mine what has to be mined, and return what plans the steps and what replaces their negatives.

    Args:
        fill: begin the bank of passages (a resumed run has it in its checkpoint).
    """
    planner: Planner | StreamPlanner
    if recipe.data.stream:
        planner = StreamPlanner(
            open_streams(recipe.data), model.prompts, model.tokenize, recipe.step, recipe.training.seed
        )
        _say_sizes(planner)
        return planner, None
    tasks = load_data(recipe, model)
    planner = Planner(tasks, recipe.step, recipe.training.seed)
    _say_sizes(planner)
    table = load_table(recipe, tasks, model, run / "mining")
    if table is None:
        return planner, None
    check_enough_negatives(tasks, table, recipe.step)
    negatives = DynamicNegatives(
        recipe.hard_negatives,
        recipe.mining,
        table,
        tasks.retrieval,
        tasks.store,
        _embed_with(recipe, tasks, model),
        width=model.width,
        fill=fill,
    )
    return planner, negatives


def _epochs(recipe: Recipe, planner: Planner | StreamPlanner, num_steps: int) -> float | None:
    """Return how often the run sees each query; None where some come more often than others."""
    weights = [data.weight for data in recipe.data.retrieval]
    weights += [data.weight for data in recipe.data.classification]
    if any(weight is not None for weight in weights) or recipe.step.sampling_temperature is not None:
        return None
    return num_steps / planner.steps_for(1)


def _say_sizes(planner: Planner | StreamPlanner) -> None:
    if collectives.is_main_process():
        for data in planner.facts()["datasets"]:
            console.print(f"{data['task']}: {data['name']}, {data['rows']:,} rows")


def _clear(run: Path) -> None:
    for name in ("checkpoints", "mining", "best", "model", "tensorboard"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in ("metrics", "evaluation", "negatives", "hard_negatives"):
        (run / f"{name}.jsonl").unlink(missing_ok=True)


def _check_same_recipe(recipe: Recipe, checkpoint: Path, allow_changes: bool) -> None:
    changes = changed_keys(saved_recipe(checkpoint), recipe.as_dict(), _MAY_DIFFER)
    if changes and not allow_changes:
        raise UserError(
            f"{checkpoint}: the recipe changed since: {'; '.join(changes)}. "
            "Start anew with --no-resume, go on with the old recipe, or accept the change with --allow-changes."
        )


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _facts(
    recipe: Recipe, model: EmbeddingModel, planner: Planner | StreamPlanner, num_steps: int
) -> dict[str, Any]:
    """What run.json says beyond the times."""
    cuda = model.device.type == "cuda"
    floor = matmul_peak_tokens_per_second(model, recipe.training.precision)
    return {
        "command": " ".join(["conan-embed", *sys.argv[1:]]),
        "steps": num_steps,
        "processes": collectives.world_size(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "width": model.width,
        "widths": list(model.widths),
        "matmul_peak_tokens_per_second": round(floor, 1),
        "base": recipe.model.base,
        **planner.facts(),
        "versions": {
            "conan-embed": conan_embed.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
