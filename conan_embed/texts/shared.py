"""Tasks read once and mapped by the other processes of a machine.

Reading, checking and numbering the texts of a large run takes memory and minutes, so one process does it and writes the
arrays of text ids; the others map the files. The folder's name is a hash of what is in it.

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


def write_tasks(tasks: Tasks, cache: Path) -> Path:
    """Write the tasks (not their texts, which are in the store) below `cache`; return the folder."""
    sets: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for kind, found in (("retrieval", tasks.retrieval), ("sts", tasks.sts)):
        for data in found:
            plain: dict[str, Any] = {"kind": kind}
            for field in fields(data):
                value = getattr(data, field.name)
                name = f"{len(sets)}.{field.name}"
                if isinstance(value, np.ndarray):
                    arrays[name] = value
                elif isinstance(value, Ragged):
                    arrays |= {f"{name}.values": value.values, f"{name}.offsets": value.offsets}
                else:
                    plain[field.name] = value
            sets.append(plain)
    facts = {"store": tasks.store.folder.name, "sets": sets}
    key = xxhash.xxh3_128(json.dumps(facts).encode())
    for name, array in arrays.items():
        key.update(name.encode())
        key.update(np.ascontiguousarray(array).tobytes())
    folder = cache / "tasks" / key.hexdigest()
    if not folder.exists():
        with atomic_write(folder, first_stays=True) as aside:
            aside.mkdir(parents=True)
            for name, array in arrays.items():
                np.save(aside / f"{name}.npy", array)
            write_json(aside / "tasks.json", facts)
    return folder


def read_tasks(folder: Path, cache: Path) -> Tasks:
    """Map what `write_tasks` wrote below the same `cache`."""
    facts = read_json(folder / "tasks.json")
    retrieval: list[RetrievalDataset] = []
    sts: list[StsDataset] = []
    for number, plain in enumerate(facts["sets"]):
        found: list[Any] = retrieval if plain["kind"] == "retrieval" else sts
        kind = RetrievalDataset if plain["kind"] == "retrieval" else StsDataset
        found.append(
            kind(**{field.name: _value(folder, number, field.name, plain) for field in fields(kind)})
        )
    return Tasks(TextStore(cache / "texts" / facts["store"]), retrieval, sts)


def _value(folder: Path, number: int, name: str, plain: dict[str, Any]) -> Any:
    if name in plain:
        return plain[name]
    if (folder / f"{number}.{name}.npy").exists():
        return _mapped(folder / f"{number}.{name}.npy")
    return Ragged(*(_mapped(folder / f"{number}.{name}.{part}.npy") for part in ("values", "offsets")))


def _mapped(path: Path) -> np.ndarray:
    # Seen as a plain array: numpy's memmap class follows every slice and slows down small ones.
    return np.asarray(np.load(path, mmap_mode="r"))
