"""Files are written aside and renamed, so that a reader never meets half of one."""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conan_embed.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | Path, *, first_stays: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, else remove it.

    Works for a file and for a folder (the block makes which it wants), and for several machines that write to one
    disk at the same time.

    Args:
        first_stays: a folder that another process has put there meanwhile is kept instead of replaced. For names that
            are a hash of the content, so that both are the same and the first may be in use.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    writer = f"{socket.gethostname()}-{os.getpid()}"
    aside = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(aside)
        yield aside
        if first_stays:
            _rename_unless_there(aside, path)
        elif path.is_dir() and aside.is_dir():
            old = path.with_name(f".{path.name}.{writer}.old.tmp")
            path.rename(old)
            aside.rename(path)
            _remove(old)
        else:
            aside.replace(path)
    except OSError as error:
        _remove(aside)
        raise UserError(f"{path}: cannot be written: {error.strerror or error}.") from error
    except BaseException:
        _remove(aside)
        raise


def _rename_unless_there(aside: Path, path: Path) -> None:
    try:
        aside.rename(path)  # a folder with something in it is never replaced by a rename
    except OSError:
        if not path.is_dir():
            raise
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, aside and renamed."""
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, aside and renamed."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read one JSON file.

    Raises:
        UserError: the file is missing, is not UTF-8 or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: not JSON: {error.msg}.") from None


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read a file of our own, one JSON object a line (metrics, evaluations); an unfinished last line is left out."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
