"""Tasks read once and mapped by the other processes of a machine.

Reading, checking and numbering the texts of a large run takes memory and minutes, so one process does it and writes the
arrays of text ids; the others map the files. The folder's name is a hash of its content.

    cache/tasks/HASH/   tasks.json   names, sources and weights of the data sets, and which store their text ids mean
                        3.query_Q.npy, 3.positives.values.npy, ...   the arrays of the data set number 3
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from conan_embed.files import atomic_write, read_json, write_json
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset, StsDataset, Tasks

Dataset = RetrievalDataset | StsDataset


def write_tasks(tasks: Tasks, cache: Path) -> Path:
    """Write the tasks (not their texts, which are in the store) below `cache`; return the folder."""
    datasets: list[Dataset] = [*tasks.retrieval, *tasks.sts]
    arrays = {f"{i}.{name}": array for i, dataset in enumerate(datasets) for name, array in _arrays(dataset)}
    metadata = {
        "store": tasks.store.folder.name,
        "retrieval": [_plain(dataset) for dataset in tasks.retrieval],
        "sts": [_plain(dataset) for dataset in tasks.sts],
    }
    key = xxhash.xxh3_128(json.dumps(metadata).encode())
    for name, array in arrays.items():
        key.update(name.encode())
        key.update(np.ascontiguousarray(array).tobytes())
    folder = cache / "tasks" / key.hexdigest()
    if not folder.exists():
        with atomic_write(folder, first_stays=True) as aside:
            aside.mkdir(parents=True)
            for name, array in arrays.items():
                np.save(aside / f"{name}.npy", array)
            write_json(aside / "tasks.json", metadata)
    return folder


def read_tasks(folder: Path, cache: Path) -> Tasks:
    """Map what `write_tasks` wrote below the same `cache`."""
    metadata = read_json(folder / "tasks.json")
    arrays = {path.stem: _map_array(path) for path in folder.glob("*.npy")}
    count = len(metadata["retrieval"])
    retrieval = [_dataset(RetrievalDataset, p, arrays, i) for i, p in enumerate(metadata["retrieval"])]
    sts = [_dataset(StsDataset, plain, arrays, i) for i, plain in enumerate(metadata["sts"], count)]
    return Tasks(TextStore(cache / "texts" / metadata["store"]), retrieval, sts)


def _arrays(dataset: Dataset) -> list[tuple[str, np.ndarray]]:
    """Return the arrays of a data set by name, those of a `Ragged` by the names of its parts."""
    values = [(field.name, getattr(dataset, field.name)) for field in fields(dataset)]
    ragged = [(name, value) for name, value in values if isinstance(value, Ragged)]
    parts = [
        (f"{name}.{part}", getattr(value, part)) for name, value in ragged for part in ("values", "offsets")
    ]
    return [*((name, value) for name, value in values if isinstance(value, np.ndarray)), *parts]


def _plain(dataset: Dataset) -> dict[str, Any]:
    """Return the fields of a data set that are no arrays."""
    values = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    return {name: value for name, value in values.items() if not isinstance(value, np.ndarray | Ragged)}


def _dataset(kind: type[Any], plain: dict[str, Any], arrays: dict[str, np.ndarray], number: int) -> Any:
    own = {
        name.split(".", 1)[1]: array for name, array in arrays.items() if name.split(".")[0] == str(number)
    }
    single = {name: array for name, array in own.items() if "." not in name}
    names = {name.split(".")[0] for name in own if "." in name}
    return kind(
        **plain, **single, **{name: Ragged(own[f"{name}.values"], own[f"{name}.offsets"]) for name in names}
    )


def _map_array(path: Path) -> np.ndarray:
    # Seen as a plain array: numpy's memmap class follows every slice and slows down small ones.
    return np.asarray(np.load(path, mmap_mode="r"))
