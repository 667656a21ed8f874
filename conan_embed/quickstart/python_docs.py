"""Training and evaluation data from the Python documentation that is installed on this machine.

`build` reads the docstrings of the standard library and of every installed distribution (`sources`, which imports
nothing) and makes of each documented object

- a retrieval pair: its summary sentence is the query; its passage is the qualified name, the signature and the rest
  of the documentation, without that sentence;
- a member of graded pairs for STS: two summaries, and how near their objects stand in the package tree (`GRADES`).

Objects are parted into training and held-out by a hash of their name, so that the split is the same every time; what
shares a summary or a text (inherited and copied docstrings) goes to the same side. Nothing depends on anything but
the installed files and the arguments: two builds write the same bytes.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from conan_embed.console import tracked
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, write_json
from conan_embed.quickstart.sources import (
    STANDARD_LIBRARY,
    Package,
    PythonObject,
    Reading,
    installed_packages,
    read_package,
)

PASSAGE_CHARACTERS = 1_200
SUMMARY_CHARACTERS = 300
MIN_WORDS = 8  # of documentation beside the name
MAX_POSITIVES = 5  # a summary of more objects than these describes none of them
EVAL_PAIRS_PER_GRADE = 300

# Documents and queries ------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W\d_]{2,}")
# Words that say nothing about which object is meant: a summary of only these could be anything's.
_VAGUE = frozenset(
    """
    a an and any are as at be been being by can class classes do does either else etc for from function given has
    have here how if in instance instances into is it its just may method methods module new no not of on one only
    or other out over see self should so some such than that the their them then there these they this those to
    under up use used uses using value values via was we when where whether which while will with you your
    return returns returned returning get gets getter set sets setter object objects data name names item items
    all current specified
    """.split()  # noqa: SIM905
)
_BOILERPLATE = re.compile(
    r"(?:see|alias|same|the same as|refer to|equivalent (?:to|of)|synonym|shortcut (?:for|to)|deprecated|obsolete|todo"
    r"|fixme|internal|helper|inherit\w*|overrid\w*|initiali[sz]e (?:self|the (?:instance|object|class))|not implemented"
    r"|abstract method|wrapper (?:for|around)|wraps|like|docstring|copyright|licen[sc]ed?|version \d+|warning|note"
    r"|usage|example|experimental|parameters?$|this (?:class|function|method|module|file|property) (?:is|was|has been)"
    r" (?:deprecated|a wrapper|for internal))\b|.*\b(?:is deprecated|for internal use|backwards? compat)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"%\(\w+\)|\{\w*\}|<<|\$\w")


def is_document(thing: PythonObject) -> bool:
    """Say whether there is enough to read about an object to stand in a corpus: more than its name and a line.

    Objects that only point to another one, that are deprecated or internal, and docstrings that begin in the middle
    of a list of parameters are no documents either.
    """
    summary = thing.summary
    if len(summary) > SUMMARY_CHARACTERS or summary.endswith((":", ",")) or not _WORD.search(summary):
        return False
    if _BOILERPLATE.match(summary) or _PLACEHOLDER.search(summary):
        return False
    return len(_WORD.findall(passage(thing))) >= len(_WORD.findall(heading(thing))) + MIN_WORDS


def is_query(thing: PythonObject) -> bool:
    """Say whether a document's summary is a question worth asking.

    Left out are summaries that are short or vague, those that spell the object's own compound name (finding it would
    be looking it up), and those that the passage repeats.
    """
    words = [word.lower() for word in _WORD.findall(thing.summary)]
    if len(words) < 4 or len({word for word in words if word not in _VAGUE}) < 3:
        return False
    if sum(map(len, words)) < 0.6 * len(thing.summary):  # formulas, lists of symbols
        return False
    own = thing.name.rpartition(".")[2]
    is_compound = "_" in own or any(letter.isupper() for letter in own[1:])
    if is_compound and re.search(rf"\b{re.escape(own)}\b", thing.summary):
        return False
    return normalised(thing.summary) not in normalised(passage(thing))


def heading(thing: PythonObject) -> str:
    """Return the line that names an object: "class queue.Queue(maxsize=0)"."""
    kind = {"function": "", "method": ""}.get(thing.kind, f"{thing.kind} ")
    return f"{kind}{thing.name}{thing.signature}"


def passage(thing: PythonObject) -> str:
    """Return what stands for an object in a corpus: its heading and its documentation without the summary."""
    return _shortened(f"{heading(thing)}\n{thing.rest}")


def document(thing: PythonObject) -> str:
    """Return what a person searches through: the heading and the whole documentation."""
    return _shortened(f"{heading(thing)}\n{thing.summary}\n{thing.rest}")


def normalised(text: str) -> str:
    """Return only the letters and digits of a text, in lower case: what counts when texts are compared."""
    return re.sub(r"[\W_]+", "", text).lower()


def _shortened(text: str) -> str:
    if len(text) > PASSAGE_CHARACTERS:
        text = text[: PASSAGE_CHARACTERS + 1].rpartition(" ")[0]
    return text.rstrip()


# Choice and split -----------------------------------------------------------------------------------------


def choose(readings: Sequence[Reading], max_objects: int) -> list[PythonObject]:
    """Choose at most `max_objects` of what was read, such that no giant package dominates; sorted by name.

    The standard library, which wait has, gives up to a quarter. Every other package gives all that it has, up
    to one ceiling for all: the highest one with which the total fits.
    """
    counts = {reading.package: len(reading.objects) for reading in readings}
    limits = {STANDARD_LIBRARY: min(counts.pop(STANDARD_LIBRARY, 0), max_objects // 4)}
    room, waiting = max_objects - limits[STANDARD_LIBRARY], len(counts)
    for name, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        limits[name] = min(count, room // waiting)
        room, waiting = room - limits[name], waiting - 1
    chosen = {
        thing.name: thing for reading in readings for thing in reading.objects[: limits[reading.package]]
    }
    return [chosen[name] for name in sorted(chosen)]


def held_out_objects(things: Sequence[PythonObject], share: float) -> np.ndarray:
    """Say of each object whether it is held out: bool [N], about `share` of them.

    What has the same summary or the same rest of the documentation (inherited, copied, re-exported) is a family; a
    family goes where the hash of its alphabetically first name says.
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
    return np.array([_hash(first[family]) < share * 2**64 for family in families], dtype=bool)


def _body(thing: PythonObject) -> str:
    return passage(thing).removeprefix(heading(thing))


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


# Pairs ----------------------------------------------------------------------------------------------------

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

    What counts is where objects are defined, not where they are re-exported to: `numpy` shows all that it has on one
    level, its files tell what belongs together. Returns text_a, text_b (str) and score (float32), in random order.
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
            ("class", thing.place, thing.owner) if thing.owner else ("alone", "class", row),
            ("module", thing.place),
            ("folder", thing.place[:-1]) if len(thing.place) > 2 else ("alone", "folder", row),
            ("package", thing.place[0]),
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
    kept = (closest == level) & (a != b)
    return a[kept], b[kept]


# Files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What `build` made: numbers of objects, pairs and files, and the objects of each package, most first."""

    objects: int
    train_queries: int
    train_passages: int
    train_graded_pairs: int
    eval_queries: int
    eval_passages: int
    eval_graded_pairs: int
    files_read: int
    files_skipped: int
    packages: dict[str, int]


def build(
    folder: Path,
    *,
    max_objects: int = 20_000,
    seed: int = 0,
    held_out: float = 0.1,
    max_eval_queries: int = 1_500,
    pairs_per_grade: int = 2_000,
    packages: Sequence[Package] | None = None,
) -> Summary:
    """Write training and evaluation data from installed Python documentation into `folder`.

    | file | columns |
    |---|---|
    | train/retrieval.parquet | query, positive (list): training summaries and their passages |
    | train/sts.parquet | text_a, text_b, score in [0, 1]: pairs of training objects |
    | train/corpus.parquet | doc_id, title, text: passages of training objects, to mine negatives from |
    | eval/retrieval/PythonDocs/ | corpus (passages of *all* objects), queries (held-out summaries), qrels |
    | eval/sts/PythonTree.parquet | text_a, text_b, score: pairs of held-out objects |
    | documents.parquet | doc_id, title, text, ...: every object with its whole documentation, to search in |
    | summary.json | the `Summary` |

    A passage begins with the object's name, so `title` is empty wherever passages stand.

    Args:
        folder: made if missing; these files in it are replaced.
        max_objects: how many documented objects to take at most.
        seed: of the graded pairs; the split does not depend on it.
        held_out: share of the objects that is kept for evaluation.
        max_eval_queries: how many of the held-out summaries to ask.
        pairs_per_grade: training pairs of each grade of nearness; the evaluation takes up to 300 of each.
        packages: what to read; by default the standard library and everything installed.

    Raises:
        UserError: `held_out` is not between 0 and 1, there is too little documentation to have both sides, or the
            files cannot be written.
    """
    if not 0 < held_out < 1:
        raise UserError(f"held_out is {held_out}, expected a share between 0 and 1.")
    packages = installed_packages() if packages is None else packages
    readings = []
    for package in tracked(packages, "Reading the installed documentation"):
        enough = max_objects // (4 if package.name == STANDARD_LIBRARY else 16)
        readings.append(read_package(package, enough, is_document))

    things = choose(readings, max_objects)
    is_held_out = held_out_objects(things, held_out) if things else np.zeros(0, dtype=bool)
    train_things = [thing for thing, out in zip(things, is_held_out, strict=True) if not out]
    eval_things = [thing for thing, out in zip(things, is_held_out, strict=True) if out]
    train_pairs, eval_pairs = retrieval_pairs(train_things), retrieval_pairs(eval_things)
    if not train_pairs or not eval_pairs:
        raise UserError(
            f"The installed Python documentation is too small to learn from: {len(things)} documented objects give "
            f"{len(train_pairs)} training and {len(eval_pairs)} held-out queries, expected at least one of each."
        )
    generator = np.random.default_rng(seed)
    train_graded = graded_pairs(_objects(train_pairs), pairs_per_grade, generator)
    eval_graded = graded_pairs(_objects(eval_pairs), EVAL_PAIRS_PER_GRADE, generator)
    asked = sorted(eval_pairs, key=lambda pair: _hash(pair.objects[0].name))[:max_eval_queries]

    folder = Path(folder)
    _write_retrieval(folder / "train" / "retrieval.parquet", train_pairs)
    _write(folder / "train" / "sts.parquet", train_graded)
    _write_corpus(folder / "train" / "corpus.parquet", train_things)
    _write_evaluation(folder / "eval" / "retrieval" / "PythonDocs", things, asked)
    _write(folder / "eval" / "sts" / "PythonTree.parquet", eval_graded)
    _write_documents(folder / "documents.parquet", things, is_held_out)
    summary = Summary(
        objects=len(things),
        train_queries=len(train_pairs),
        train_passages=len(train_things),
        train_graded_pairs=len(train_graded),
        eval_queries=len(asked),
        eval_passages=len(things),
        eval_graded_pairs=len(eval_graded),
        files_read=sum(reading.files_read for reading in readings),
        files_skipped=sum(reading.files_skipped for reading in readings),
        packages=dict(Counter(thing.package for thing in things).most_common()),
    )
    write_json(folder / "summary.json", asdict(summary))
    return summary


def _objects(pairs: Sequence[RetrievalPair]) -> list[PythonObject]:
    return [thing for pair in pairs for thing in pair.objects]


def _write(path: Path, frame: pl.DataFrame) -> None:
    with atomic_write(path) as aside:
        frame.write_parquet(aside, compression="zstd")


def _write_retrieval(path: Path, pairs: Sequence[RetrievalPair]) -> None:
    positives = [[passage(thing) for thing in pair.objects] for pair in pairs]
    _write(path, pl.DataFrame({"query": [pair.query for pair in pairs], "positive": positives}))


def _write_corpus(path: Path, things: Sequence[PythonObject]) -> None:
    names, texts = [thing.name for thing in things], [passage(thing) for thing in things]
    _write(path, pl.DataFrame({"doc_id": names, "title": [""] * len(things), "text": texts}))


def _write_evaluation(folder: Path, things: Sequence[PythonObject], asked: Sequence[RetrievalPair]) -> None:
    _write_corpus(folder / "corpus.parquet", things)
    ids = [pair.objects[0].name for pair in asked]
    _write(
        folder / "queries.parquet", pl.DataFrame({"query_id": ids, "text": [pair.query for pair in asked]})
    )
    rows = [
        (query_id, thing.name, 1) for query_id, pair in zip(ids, asked, strict=True) for thing in pair.objects
    ]
    schema = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Int32}
    _write(folder / "qrels.parquet", pl.DataFrame(rows, schema=schema, orient="row"))


def _write_documents(path: Path, things: Sequence[PythonObject], is_held_out: np.ndarray) -> None:
    columns = {
        "doc_id": [thing.name for thing in things],
        "title": [thing.name for thing in things],
        "text": [document(thing) for thing in things],
        "summary": [thing.summary for thing in things],
        "kind": [thing.kind for thing in things],
        "package": [thing.package for thing in things],
        "held_out": is_held_out,
    }
    _write(path, pl.DataFrame(columns))
