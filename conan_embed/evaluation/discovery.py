"""Evaluation sets on disk: which tasks a folder holds, and where their tables are.

A folder has one sub-folder per type of task:

    retrieval/NAME/           corpus (doc_id, text and, if there are any, title),
                              queries (query_id, text), qrels (query_id, doc_id, score),
                              task.json (optional): {"ignore_identical_ids": true}
    reranking/NAME            query, positive (list), negative (list)
    sts/NAME                  text_a, text_b, score (higher is closer)
    pair_classification/NAME  text_a, text_b, score (1 positive, 0 not)
    classification/NAME/      train, test (text, label)
    clustering/NAME           text, label
    bitext/NAME               two columns of text, named as you like; row i translates row i

Each table is a file of any format that `texts.readers` reads, with the same column names as training; where a set is
one table, also a folder of such files, or one saved by Hugging Face `datasets`. A retrieval folder as BEIR publishes it
works unchanged: `_id` instead of doc_id and query_id, qrels in `qrels/test.tsv`. What mteb puts up with in such folders
is put up with here, in the same way, and printed: judged documents that the corpus lacks (never found), judged queries
that are not there (left out), empty documents (ranked like any other). So is what else lies there and is not read.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from conan_embed.console import console
from conan_embed.errors import UserError, suggestion
from conan_embed.files import hash_file
from conan_embed.texts.formats import format_of

TYPES = ("retrieval", "reranking", "sts", "pair_classification", "classification", "clustering", "bitext")
_FOLDER_TYPES = {"retrieval": ("corpus", "queries", "qrels"), "classification": ("train", "test")}
_NO_SETS = ("README.md", "LICENSE")


@dataclass(frozen=True)
class LocalTask:
    """One evaluation set: its type (a member of `TYPES`), its name, and its folder or file."""

    type: str
    name: str
    path: Path

    @property
    def key(self) -> str:
        """The name under which results are kept, for example `retrieval/MedicalQA`."""
        return f"{self.type}/{self.name}"


def discover(folder: str | Path) -> list[LocalTask]:
    """Return the tasks in `folder`, by type (in the order of `TYPES`) and name.

    Raises:
        UserError: no such folder, no task in it, or two files for one task.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of evaluation sets.")
    for other in sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in TYPES):
        if other[0] != ".":
            print_once(
                f"{folder / other}: not read: {other!r} is no type of task{suggestion(other.lower(), TYPES)}."
            )
    tasks = [task for type_ in TYPES for task in _tasks_of(type_, folder / type_)]
    if not tasks:
        raise UserError(
            f"{folder}: holds no evaluation set; expected folders like retrieval/NAME/ or files like "
            f"sts/NAME.parquet in it (types: {', '.join(TYPES)})."
        )
    for key, count in Counter(task.key for task in tasks).items():
        if count > 1:
            raise UserError(f"{folder / key}: found {count} files of that name, expected one.")
    return tasks


def _tasks_of(type_: str, folder: Path) -> list[LocalTask]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    visible = [path for path in paths if not path.name.startswith(".")]
    if type_ in _FOLDER_TYPES:
        tasks = [LocalTask(type_, path.name, path) for path in visible if path.is_dir()]
    else:
        tasks = [LocalTask(type_, _stem(path), path) for path in visible if _is_table(path)]
    read = {task.path for task in tasks}
    for path in visible:
        if path not in read and path.name not in _NO_SETS:
            expected = "a folder NAME/" if type_ in _FOLDER_TYPES else "a table, or a folder of its parts"
            print_once(f"{path}: not read: found no evaluation set in it, expected {expected}.")
    return tasks


def _is_table(path: Path) -> bool:
    """Return whether `texts.readers` would read this path: a file, a saved data set, or a folder of files."""
    if format_of(path) or not path.is_dir():
        return format_of(path) is not None
    return any(part.is_file() and format_of(part) and part.name[0] != "." for part in path.iterdir())


def _stem(path: Path) -> str:
    """Return a file's name without the endings that say its format and compression; a folder's as it is."""
    while not path.is_dir() and format_of(path) and path.suffix:
        path = path.with_suffix("")
    return path.name


def content_hash(task: LocalTask) -> str:
    """Return a hash of the files of a task, by which the same data is known wherever it lies."""
    files = sorted(task.path.rglob("*")) if task.path.is_dir() else [task.path]
    key = xxhash.xxh3_128()
    for file in files:
        if file.is_file():
            name = file.name if file == task.path else str(file.relative_to(task.path))
            key.update(name.encode("utf-8", "surrogateescape") + bytes.fromhex(hash_file(file)))
    return key.hexdigest()


def select(tasks: Sequence[LocalTask], names: Iterable[str] | None) -> list[LocalTask]:
    """Return the tasks that `names` has by type (`"sts"`) or by key (`"sts/STSB"`), in their order; None: all.

    Raises:
        UserError: a name fits no task.
    """
    if names is None:
        return list(tasks)
    names = list(names)
    known = {name for task in tasks for name in (task.type, task.key)}
    for name in names:
        if name not in known:
            raise UserError(
                f"evaluation task {name!r} is not in the folder{suggestion(name, known)}; "
                f"expected a type or type/name among {', '.join(task.key for task in tasks)}."
            )
    return [task for task in tasks if task.type in names or task.key in names]


def table_path(folder: Path, *names: str) -> Path:
    """Return the one file of a folder that holds the table of the first of these names that is there."""
    for name in names:
        parent = (folder / name).parent
        siblings = sorted(parent.iterdir()) if parent.is_dir() else []
        files = [
            file for file in siblings if _stem(file) == Path(name).name and file.is_file() and format_of(file)
        ]
        if len(files) > 1:
            raise UserError(
                f"{folder}: has {' and '.join(file.name for file in files)}, expected one of them."
            )
        if files:
            return files[0]
    raise UserError(f"{folder}: has no {names[0]}.parquet and no {names[0]}.jsonl.")


@functools.cache
def print_once(line: str) -> None:
    """Print a line unless it was printed before."""
    console.print(line)  # a run evaluates the same sets many times
