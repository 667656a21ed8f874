"""What an arm is made from beside its recipe: hashes of the files that the recipe names.

A finished or interrupted arm counts only while the training data, the evaluation sets and the models that it started
from are what they were when it began, and shared rankings only while data and base model are.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import xxhash

from conan_embed.ablation.job import Job
from conan_embed.encoder.adapter import adapter_base
from conan_embed.encoder.formats import read_layout
from conan_embed.encoder.loading import local_folder
from conan_embed.evaluation.discovery import LocalTask
from conan_embed.files import hash_file, read_object
from conan_embed.recipes.data import ClassificationData, RetrievalData, StsData
from conan_embed.texts.readers import data_files

Inputs = dict[str, str]
DataSet = RetrievalData | ClassificationData | StsData
BASE = "model.base"
_MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".jinja", ".py")
_OUTCOMES = ("step", "training", "results")  # in conan_embed.json: they change no embedding


def hash_inputs(job: Job, sets: Sequence[LocalTask]) -> Inputs:
    """Return a hash of each thing that the job's recipe names.

    The base of an arm that starts from another's model is left out where that model was removed after the other's end.

    Args:
        sets: the recipe's evaluation sets.

    Raises:
        UserError: a file or model is missing.
    """
    recipe = job.recipe
    data = recipe.data
    parts: list[DataSet] = [*data.retrieval, *data.classification, *data.sts]
    hashes = {f"evaluation set {task.key}": _hash(_files_in(task.path)) for task in sets}
    hashes |= {f"data {part.name!r}": _hash_data(part, data.stream) for part in parts}
    if recipe.teacher is not None and recipe.teacher.model is not None:
        hashes["teacher.model"] = hash_model(recipe.teacher.model)
    if job.after is None or Path(recipe.model.base).is_dir():
        hashes[BASE] = hash_model(recipe.model.base)
    elif not job.after.exists():
        hashes[BASE] = "still to be trained"
    return hashes


def of_mining(job: Job, inputs: Inputs) -> Inputs:
    """Return those of the inputs that rankings depend on."""
    names = [BASE, *(f"data {data.name!r}" for data in job.recipe.data.retrieval)]
    return {name: inputs[name] for name in names}


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what changed, came or went; a base that cannot be hashed any more is not compared."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [name for name in names if name != BASE or BASE in now]


def hash_model(base: str) -> str:
    """Return a hash of a model's files, folder or hub name, as far as they decide its embeddings."""
    folder = local_folder(base)
    key = xxhash.xxh3_128(_hash(_model_files(folder)).encode())
    settings = folder / "conan_embed.json"
    if settings.exists():
        kept = {name: value for name, value in read_object(settings).items() if name not in _OUTCOMES}
        key.update(json.dumps(kept, sort_keys=True).encode())
    if (folder / "modules.json").exists() and (beneath := adapter_base(read_layout(folder).transformer)):
        key.update(hash_model(beneath).encode())
    return key.hexdigest()


def _model_files(folder: Path) -> list[tuple[str, Path]]:
    """The files of the model and of its modules (`1_Pooling/`), and none of what else may lie there."""
    files = [path for pattern in ("*", "[0-9]_*/*") for path in sorted(folder.glob(pattern))]
    return [
        (str(file.relative_to(folder)), file)
        for file in files
        if file.is_file() and file.suffix in _MODEL_FILES and file.name != "conan_embed.json"
    ]


def _hash_data(data: DataSet, stream: bool) -> str:
    files = _named(data_files(data.path))
    if stream:  # more than anybody wants to read twice; a checkpoint knows it by the same
        return xxhash.xxh3_128_hexdigest(repr([(name, file.stat().st_size) for name, file in files]).encode())
    if isinstance(data, RetrievalData):
        for table in filter(None, (data.corpus, data.scores)):
            files += _named(data_files(table))
        files += [] if data.ranking is None else _files_in(Path(data.ranking).expanduser())
    return _hash(files)


def _named(files: Iterable[Path]) -> list[tuple[str, Path]]:
    return [(file.name, file) for file in files]


def _files_in(path: Path) -> list[tuple[str, Path]]:
    """A file, or all files of a folder but hidden ones; each after its name in the folder."""
    if path.is_file():
        return [(path.name, path)]
    files = [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if file.is_file()]
    return [(str(name), file) for name, file in files if not any(part[0] == "." for part in name.parts)]


def _hash(files: Iterable[tuple[str, Path]]) -> str:
    key = xxhash.xxh3_128()
    for name, file in files:
        found = file.stat()
        key.update(f"{name} {_hash_file(file.absolute(), found.st_size, found.st_mtime_ns)}\n".encode())
    return key.hexdigest()


@functools.cache  # arms have most of their files in common
def _hash_file(file: Path, size: int, modified: int) -> str:
    return hash_file(file)
