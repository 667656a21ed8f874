"""Checkpoints: everything that a run needs to go on bit for bit, written aside and renamed.

    checkpoints/step-00000500/
        model.safetensors       parameters
        optimizer.safetensors   AdamW's two moments of every parameter
        negatives.safetensors   the table of hard negatives (and the bank), where there is one
        state.json              step, best evaluation so far, recipe, and a hash of each file

No pickles anywhere: reading a checkpoint runs no code. Hashes are checked on load, so a damaged file is found before
it is trained on.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from conan_embed.encoder.formats import read_tensors
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_json, written_aside
from conan_embed.negatives.dynamic import DynamicNegatives

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Progress:
    """Where a run stands beyond its tensors.

    Attributes:
        step: optimizer steps done.
        best: the best average of an evaluation so far, or None.
        best_step: its step.
    """

    step: int
    best: float | None = None
    best_step: int | None = None


def save_checkpoint(
    folder: Path,
    model: EmbeddingModel,
    optimizer: torch.optim.Optimizer,
    negatives: DynamicNegatives | None,
    progress: Progress,
    recipe: dict[str, Any],
    *,
    texts: str,
    keep: int,
) -> Path:
    """Write one checkpoint into `folder` and remove all but the newest `keep`.

    Args:
        texts: identity of the text store; text ids mean nothing in another.

    Raises:
        UserError: it cannot be written (disk full); older checkpoints stay as they were.
    """
    path = folder / f"step-{progress.step:08d}"
    for unfinished in folder.glob(".step-*.tmp"):  # left by a process that was killed while it wrote
        shutil.rmtree(unfinished, ignore_errors=True)
    with written_aside(path) as aside:
        aside.mkdir(parents=True)
        parameters = dict(_named(model))
        try:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in parameters.items()},
                aside / "model.safetensors",
            )
            moments = {
                f"{moment}.{name}": optimizer.state[tensor][moment].contiguous()
                for name, tensor in parameters.items()
                if tensor in optimizer.state
                for moment in _MOMENTS
            }
            save_file(moments, aside / "optimizer.safetensors")
            if negatives is not None:
                save_arrays(negatives.state(), aside / "negatives.safetensors")
        except SafetensorError as error:  # a full disk, in words of its own
            raise OSError(str(error)) from error
        files = {file.name: _hash(file) for file in sorted(aside.glob("*.safetensors"))}
        write_json(aside / "state.json", {**vars(progress), "texts": texts, "files": files, "recipe": recipe})
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def load_checkpoint(
    path: Path,
    model: EmbeddingModel,
    optimizer: torch.optim.Optimizer,
    negatives: DynamicNegatives | None,
    *,
    texts: str,
) -> Progress:
    """Read a checkpoint into the model, the optimizer and the table.

    Raises:
        UserError: a file is missing or damaged, or belongs to another model or other data.
    """
    state = read_json(path / "state.json")
    if state["texts"] != texts:
        raise UserError(
            f"{path}: the texts of the data files changed since; put the old files back or start anew."
        )
    for name, expected in state["files"].items():
        if not (path / name).exists():
            raise UserError(
                f"{path / name}: no such file; the checkpoint is not whole, remove it to use an older one."
            )
        if _hash(path / name) != expected:
            raise UserError(
                f"{path / name}: damaged (its hash differs from state.json); remove the checkpoint to use an older one."
            )
    tensors = read_tensors(path / "model.safetensors")
    parameters = dict(_named(model))
    if _shapes(tensors) != _shapes(parameters):
        raise UserError(f"{path / 'model.safetensors'}: holds other tensors than the model of this recipe.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    moments = read_tensors(path / "optimizer.safetensors")
    for name, parameter in parameters.items():
        if f"{_MOMENTS[0]}.{name}" in moments:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state["step"]), device=parameter.device),
                **{moment: moments[f"{moment}.{name}"].to(parameter.device) for moment in _MOMENTS},
            }
    if negatives is not None:
        file = path / "negatives.safetensors"
        arrays = load_arrays(file) if file.name in state["files"] else {}
        if _shapes(arrays) != _shapes(negatives.state()):
            raise UserError(f"{file}: holds other tensors than the hard negatives of this recipe.")
        negatives.load_state(arrays)
    return Progress(state["step"], state["best"], state["best_step"])


def saved_recipe(path: Path) -> dict[str, Any]:
    """Return the recipe that a checkpoint was trained with."""
    return read_json(path / "state.json")["recipe"]


def _named(model: EmbeddingModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return model.named_parameters()


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _hash(path: Path) -> str:
    key = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            key.update(block)
    return key.hexdigest()
