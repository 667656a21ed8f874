"""Questions from other domains, to see what a tuned model has forgotten.

Without a folder of the user's own, they come from what is installed everywhere: the standard library's docstrings, the
first sentence asking for the rest. English only, and no substitute for sets like the user's other uses.
"""

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from xxhash import xxh3_64_intdigest, xxh3_128

from conan_embed.documents.held_out import write_questions
from conan_embed.documents.sentences import split_sentences
from conan_embed.errors import UserError
from conan_embed.evaluation.discovery import content_hash, discover

HALVES = ("development", "test")
"""What the weights are chosen by, and what is reported."""

MAX_PASSAGES = 1_000
MAX_QUESTIONS = (
    1_000  # short, so all of them cost next to nothing, and make the interval as narrow as it gets
)
_SHORTEST = 120  # characters of an answer
_SKIPPED = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "pydoc_data"})


def write_other_domains(folder: Path, root: Path | None = None) -> int:
    """Write `development` and `test` sets of the standard library's docstrings; return their passages.

    Args:
        root: folder of Python files; None for the standard library.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    texts = dict.fromkeys(pair for file in _python_files(root) for pair in _docstrings(file))
    # By a hash of the text: which are taken does not depend on how the files happen to lie.
    chosen = sorted(texts, key=_hash)[:MAX_PASSAGES]
    frame = pl.DataFrame(chosen, schema=["query", "text"], orient="row")
    frame = frame.unique("query", maintain_order=True).unique("text", maintain_order=True)
    frame = frame.with_columns(doc_id=pl.format("d{}", pl.int_range(pl.len())))
    asked = frame.head(MAX_QUESTIONS)
    half = np.arange(len(asked)) % 2 == 0
    for role, is_in in (("development", half), ("test", ~half)):
        pairs = asked.filter(pl.Series(is_in)).select("query", "doc_id")
        write_questions(folder / role, "python-docstrings", pairs, frame.select("doc_id", "text"))
    return len(frame)


def hash_of_sets(folder: Path) -> str:
    """Return a hash of the evaluation sets that a user gave, in `development` and `test` or right in the folder.

    Raises:
        UserError: no sets, or only one of the halves.
    """
    halves = [name for name in HALVES if (folder / name).is_dir()]
    if len(halves) == 1:
        missing = next(name for name in HALVES if name not in halves)
        raise UserError(
            f"--other {folder}: found {halves[0]}/ without {missing}/; expected both, or the sets right in the folder."
        )
    key = xxh3_128()
    for half in halves or [""]:
        for task in discover(folder / half):
            key.update(f"{half} {task.key} {content_hash(task)}\n".encode("utf-8", "replace"))
    return key.hexdigest()


def _hash(pair: tuple[str, str]) -> int:
    return xxh3_64_intdigest("\n".join(pair).encode("utf-8", "replace"))


def _python_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED & set(path.relative_to(root).parts):
            yield path


def _docstrings(file: Path) -> Iterator[tuple[str, str]]:
    """Yield first sentence and rest of the docstrings in a file."""
    try:
        # Other people's code has \d and the like in its strings, which Python 3.12 warns about.
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
        first = split_sentences(text, at_lines=True)[:1]
        rest = text[len(first[0]) :].strip() if first else ""
        if first and len(first[0].split()) >= 4 and len(rest) >= _SHORTEST:
            yield " ".join(first[0].split()), rest
