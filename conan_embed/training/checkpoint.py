"""Checkpoints: everything that a run needs to resume bit for bit, written atomically.

    checkpoints/step-00000500/
        model/                  parameters
        optimizer/              AdamW's two moments of every parameter, as exp_avg.NAME and exp_avg_sq.NAME
        negatives.safetensors   the table of hard negatives (and the bank), where there is one
        state.json              step, best evaluation so far, recipe, hashes of the data and of each file

Each process writes a file of its own into `model/` and `optimizer/`, through torch.distributed.checkpoint: the pieces
that it holds, or its share of what all hold. It loads with another sharding on another number of processes. The folder
must be on a file system that all processes see.

No pickles anywhere: reading a checkpoint runs no code. Hashes are checked on load, so a damaged file is found before
it is trained on.
"""

import contextlib
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, disk_error, hash_file, read_json, write_json
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.table import NegativeTable
from conan_embed.training.train_module import TrainModule


@dataclass(frozen=True)
class Progress:
    """Where a run stands beyond its tensors.

    Attributes:
        step: optimizer steps done.
        best: the best average of an evaluation so far, or None.
        best_step: its step.
        seconds: that the run has taken; work that a kill undid does not count.
        chunk_tokens: tokens of a chunk: sums over other chunks are rounded otherwise. None: not known.
    """

    step: int
    best: float | None = None
    best_step: int | None = None
    seconds: float = 0.0
    chunk_tokens: int | None = None


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint was trained with; a resumed run must have the same.

    Attributes:
        recipe: every setting.
        data: a hash of each part of the data, by what it is ("positives of 'pairs'"). Without the same `texts`, text
            ids mean something else.
    """

    recipe: dict[str, Any]
    data: dict[str, str]


def save_checkpoint(
    folder: Path,
    module: TrainModule,
    negatives: DynamicNegatives | None,
    progress: Progress,
    provenance: Provenance,
    *,
    keep: int,
) -> Path:
    """Write one checkpoint into `folder` and remove all but the newest `keep`; all processes must call it.

    Raises:
        UserError: it cannot be written (disk full); older checkpoints stay as they were.
    """
    path = folder / f"step-{progress.step:08d}"
    with contextlib.ExitStack() as stack:
        aside = None
        if collectives.is_main_process():
            aside = stack.enter_context(atomic_write(path))
            aside.mkdir(parents=True)
        aside = collectives.broadcast_object(aside)
        hashes: dict[str, str] = {}
        for part, tensors in (("model", module.parameters()), ("optimizer", module.moments())):
            hashes |= {f"{part}/{name}": value for name, value in _save(aside / part, tensors).items()}
        files = {
            name: value for part in collectives.all_gather_object(hashes) for name, value in part.items()
        }
        if collectives.is_main_process():
            if negatives is not None:
                save_arrays(negatives.state(), aside / "negatives.safetensors")
                files["negatives.safetensors"] = hash_file(aside / "negatives.safetensors")
            write_json(aside / "state.json", {**vars(progress), **vars(provenance), "files": files})
    if collectives.is_main_process():
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    collectives.barrier()
    return path


def save_progress(path: Path, progress: Progress) -> None:
    """Note in a checkpoint what became known after it was saved: the evaluation of its own step."""
    if collectives.is_main_process():
        write_json(path / "state.json", read_json(path / "state.json") | vars(progress))


def check_data(path: Path, now: dict[str, str], *, allow_changes: bool) -> None:
    """Compare the data with that of a checkpoint.

    Args:
        now: of the data as it is now; parts that either side does not have are not compared.
        allow_changes: accept other data, as long as text ids and positions mean the same.

    Raises:
        UserError: the data changed; names the parts that did.
    """
    saved = saved_provenance(path).data
    changed = [part for part, value in now.items() if part in saved and saved[part] != value]
    is_other = any(part == "texts" or part.startswith("shards") for part in changed)
    if not changed or (allow_changes and not is_other):
        return
    remedy = "" if is_other else ", or accept the change with --allow-changes"
    raise UserError(
        f"{path}: the data changed since: {', '.join(changed)}. "
        f"Put the old files back, start anew with --no-resume{remedy}."
    )


def _save(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Write tensors together with the other processes; return the hash of each file that this one wrote."""
    try:
        with _alone_if_single() as no_dist:
            writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
            dcp.save(tensors, storage_writer=writer, no_dist=no_dist)
    except CheckpointException as failed:  # on every process, whichever it happened on
        for error, _ in failed.failures.values():
            if isinstance(error, OSError) or disk_error(error):
                raise error from failed
        raise RuntimeError(f"{folder}: cannot be saved: {error}") from failed
    mine = folder.glob(f"shard-{collectives.rank() + 1:05d}-*.safetensors")
    return {file.name: hash_file(file) for file in mine}


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def load_checkpoint(path: Path, module: TrainModule, negatives: DynamicNegatives | None) -> Progress:
    """Read a checkpoint into the model, the optimizer and the table; all processes must call it.

    Raises:
        UserError: a file is missing or damaged, or belongs to another model or other settings of hard negatives.
    """
    state = read_json(path / "state.json")
    # Every process checks some of the files; a damaged one ends the run.
    for name, expected in list(state["files"].items())[collectives.rank() :: collectives.world_size()]:
        if not (path / name).exists():
            raise UserError(
                f"{path / name}: no such file; the checkpoint is incomplete, remove it to use an older one."
            )
        if hash_file(path / name) != expected:
            raise UserError(
                f"{path / name}: damaged (its hash differs from state.json); remove the checkpoint to use an older one."
            )
    collectives.barrier()
    parameters = module.parameters()
    if _saved_shapes(path / "model") != _shapes(parameters):
        raise UserError(f"{path / 'model'}: holds other tensors than the model of this recipe.")
    _load(path / "model", parameters)
    moments = module.fresh_moments(set(_saved_shapes(path / "optimizer")))
    _load(path / "optimizer", moments)
    module.set_moments(moments, state["step"])
    if negatives is not None:
        file = path / "negatives.safetensors"
        arrays = load_arrays(file) if file.name in state["files"] else {}
        if _shapes(arrays) != _shapes(negatives.state()):
            raise UserError(f"{file}: holds other tensors than the hard negatives of this recipe.")
        negatives.load_state(arrays)
    return saved_progress(path)


def _load(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fill tensors, or the pieces of them that this process holds, from the files of `folder`."""
    with _alone_if_single() as no_dist:
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=no_dist)


@contextlib.contextmanager
def _alone_if_single() -> Iterator[bool]:
    """Yield whether this process is the only one; torch.distributed.checkpoint warns of it even where told so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninit")
        yield collectives.world_size() == 1


def _saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    metadata = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: tuple(tensor.size)
        for name, tensor in metadata.items()
        if isinstance(tensor, TensorStorageMetadata)
    }


def saved_progress(path: Path) -> Progress:
    """Return where the run stood when a checkpoint was saved."""
    state = read_json(path / "state.json")
    return Progress(
        state["step"], state["best"], state["best_step"], state["seconds"], state.get("chunk_tokens")
    )


def saved_provenance(path: Path) -> Provenance:
    """Return what a checkpoint was trained with.

    Raises:
        UserError: it was written by another version.
    """
    state = read_json(path / "state.json")
    if "data" not in state:
        raise UserError(f"{path / 'state.json'}: written by another version, found no key 'data'.")
    return Provenance(state["recipe"], state["data"])


def saved_table(path: Path, num_negatives: int) -> NegativeTable:
    """Return the table of hard negatives as a checkpoint holds it.

    Args:
        num_negatives: hard negatives of each query in use at once.
    """
    state = load_arrays(path / "negatives.safetensors")
    table = NegativeTable(state["ranking_QK"], num_negatives)
    table.load_state(state)
    return table


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
