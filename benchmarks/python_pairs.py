"""Retrieval pairs and graded pairs from documented Python objects, and their split into training and held-out ones.

Each object gives

- a retrieval pair: its summary sentence is the query; its passage is the qualified name, the signature and the rest of
  the documentation, without that sentence;
- a member of graded pairs for STS: two summaries, and how near their objects stand in the package tree (`GRADES`).

Objects are held out by a hash of their name, so that the split is the same every time; objects that share a summary or
a text (inherited and copied docstrings) go to the same side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from conan_embed.documents.docstring_documents import heading, is_query, normalised
from conan_embed.documents.python_packages import STANDARD_LIBRARY, PythonObject

PASSAGE_CHARACTERS = 1_200
MAX_POSITIVES = 5  # a summary of more objects than these describes none of them


def passage(thing: PythonObject) -> str:
    """Return an object's passage: its heading and its documentation without the summary."""
    return _shortened(f"{heading(thing)}\n{thing.rest}")


def document(thing: PythonObject) -> str:
    """Return an object's heading and whole documentation, to be searched by people."""
    return _shortened(f"{heading(thing)}\n{thing.summary}\n{thing.rest}")


def _shortened(text: str) -> str:
    if len(text) > PASSAGE_CHARACTERS:
        text = text[: PASSAGE_CHARACTERS + 1].rpartition(" ")[0]
    return text.rstrip()


def choose(objects: Mapping[str, Sequence[PythonObject]], max_objects: int) -> list[PythonObject]:
    """Choose at most `max_objects` of the objects of each distribution, so that no giant dominates; sorted by name.

    The standard library, which every machine has, gives up to a quarter. Every other distribution gives all that it
    has, up to one limit for all: the highest with which the total fits.
    """
    counts = {name: len(found) for name, found in objects.items()}
    limits = {STANDARD_LIBRARY: min(counts.pop(STANDARD_LIBRARY, 0), max_objects // 4)}
    room, waiting = max_objects - limits[STANDARD_LIBRARY], len(counts)
    for name, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        limits[name] = min(count, room // waiting)
        room, waiting = room - limits[name], waiting - 1
    chosen = {thing.name: thing for name, found in objects.items() for thing in found[: limits[name]]}
    return [chosen[name] for name in sorted(chosen)]


def held_out_objects(things: Sequence[PythonObject], share: float) -> np.ndarray:
    """Return which objects are held out: bool [N], about `share` of them.

    Objects with the same summary or the same rest of the documentation (inherited, copied, re-exported) are a family;
    the hash of its alphabetically first name decides for all of it.
    """
    numbers: dict[tuple[str, str], int] = {}
    columns = []
    for thing in things:
        for key in (("summary", normalised(thing.summary)), ("rest", normalised(_body(thing)))):
            columns.append(len(things) + numbers.setdefault(key, len(numbers)))
    rows = np.repeat(np.arange(len(things)), 2)
    size = len(things) + len(numbers)
    links = coo_array((np.ones(len(columns), dtype=bool), (rows, columns)), shape=(size, size))
    families = connected_components(links, directed=False)[1][: len(things)].tolist()
    first: dict[int, str] = {}
    for family, thing in zip(families, things, strict=True):
        first[family] = min(first.get(family, thing.name), thing.name)
    return np.array([name_hash(first[family]) < share * 2**64 for family in families], dtype=bool)


def _body(thing: PythonObject) -> str:
    return passage(thing).removeprefix(heading(thing))


def name_hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


# How near two objects stand in the package tree, by the closest thing that holds both.
GRADES = {"class": 1.0, "module": 0.75, "folder": 0.5, "package": 0.25, "nothing": 0.0}


@dataclass(frozen=True)
class RetrievalPair:
    """A summary and the objects that it describes: several where they share their documentation."""

    query: str
    objects: tuple[PythonObject, ...]


def retrieval_pairs(things: Sequence[PythonObject]) -> list[RetrievalPair]:
    """Pair each different summary that is worth asking with its objects, in the order of `things`."""
    groups: dict[str, list[PythonObject]] = {}
    for thing in things:
        groups.setdefault(normalised(thing.summary), []).append(thing)
    return [
        RetrievalPair(group[0].summary, tuple(group))
        for group in groups.values()
        if len(group) <= MAX_POSITIVES and all(map(is_query, group))
    ]


def graded_pairs(
    things: Sequence[PythonObject], per_grade: int, generator: np.random.Generator
) -> pl.DataFrame:
    """Draw `per_grade` pairs of summaries for each grade of `GRADES`, fewer where there are not as many.

    What counts is where objects are defined, not where they are re-exported: `numpy` shows everything on one level, and
    its files tell what belongs together. Returns text_a, text_b (str) and score (float32), in random order.
    """
    holders = _holders(things)
    summaries = pl.Series([thing.summary for thing in things], dtype=pl.String)
    frames = []
    for level, score in enumerate(GRADES.values()):
        a, b = _draw(holders, level, 20 * per_grade, generator)
        pairs = pl.DataFrame({"text_a": summaries[a], "text_b": summaries[b]}).with_columns(
            score=pl.lit(score, dtype=pl.Float32),
            first=pl.min_horizontal("text_a", "text_b"),
            second=pl.max_horizontal("text_a", "text_b"),
        )
        pairs = pairs.filter(pl.col("first") != pl.col("second"))
        pairs = pairs.unique(["first", "second"], keep="first", maintain_order=True)
        frames.append(pairs.head(per_grade).drop("first", "second"))
    everything = pl.concat(frames)
    return everything[generator.permutation(len(everything))]


def _holders(things: Sequence[PythonObject]) -> np.ndarray:
    """Return int [N, 4]: numbers of the class, module, folder and package that hold each object.

    An object that has no class or no folder below the package gets a number of its own there.
    """
    numbers: dict[tuple, int] = {}
    table = []
    for row, thing in enumerate(things):
        keys: list[tuple] = [
            ("class", thing.module, thing.owner) if thing.owner else ("alone", "class", row),
            ("module", thing.module),
            ("folder", thing.module[:-1]) if len(thing.module) > 2 else ("alone", "folder", row),
            ("package", thing.module[0]),
        ]
        table.append([numbers.setdefault(key, len(numbers)) for key in keys])
    return np.array(table).reshape(-1, 4)


def _draw(
    holders: np.ndarray, level: int, tries: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows (a, b) whose closest common holder is at `level`; the level behind the last is none at all."""
    count, nothing = holders.shape
    a = generator.integers(count, size=tries)
    if level < nothing:
        order = np.argsort(holders[:, level], kind="stable")
        grouped = holders[order, level]
        starts = np.searchsorted(grouped, holders[a, level], side="left")
        ends = np.searchsorted(grouped, holders[a, level], side="right")
        b = order[generator.integers(starts, ends)]
    else:
        b = generator.integers(count, size=tries)
    shared = holders[a] == holders[b]
    closest = np.where(shared.any(axis=1), shared.argmax(axis=1), nothing)
    is_drawn = (closest == level) & (a != b)
    return a[is_drawn], b[is_drawn]
