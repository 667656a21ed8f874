"""Files are written aside and renamed, so that a reader never meets half of one; a folder has one owner at a time."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from conan_embed.errors import UserError

LOCK = ".lock"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_DISK_MESSAGES = re.compile("|".join(re.escape(os.strerror(number)) for number in _DISK_ERRORS))


def hash_file(path: Path) -> str:
    """Return a hash of a file's content, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def disk_error(error: BaseException | None) -> str | None:
    """Return the reason ("No space left on device") where `error` means that the disk takes no more, else None.

    Libraries wrap such errors in their own (safetensors, polars, torch), and keep the system's words.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return os.strerror(error.errno)
        if not isinstance(error, UserError) and (words := _DISK_MESSAGES.search(str(error))):
            return words[0]
        error = error.__cause__
    return None


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a disk that is full, or a path that cannot be written, into a UserError that names `path`."""
    try:
        yield
    except Exception as error:
        reason = disk_error(error)
        if reason is None and isinstance(error, OSError):
            reason = error.strerror or str(error)
        if reason is None:
            raise
        raise UserError(f"{path}: cannot be written: {reason}.") from error


@contextlib.contextmanager
def atomic_write(path: str | Path, *, first_stays: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, else remove it.

    Works for a file and for a folder (the block makes which it wants), and for several machines that write to one
    disk at the same time. What a killed process leaves: `remove_leftovers`.

    Args:
        first_stays: a folder that another process has put there meanwhile is kept instead of replaced. For names that
            are a hash of the content, so that both are the same and the first may be in use.

    Raises:
        UserError: the disk is full or the path cannot be written.
    """
    path = Path(path)
    writer = f"{socket.gethostname().replace('.', '_')}-{os.getpid()}"  # no dots: see remove_leftovers
    aside = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        with writing(path):
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


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of their `atomic_write`s directly in `folder`.

    Only the owner of the folder may call it: what others are writing just now would be removed too. A folder that was
    moved out of the way, and whose successor is not in place yet, is put back.
    """
    for old in folder.glob(".*.old.tmp"):
        match = re.fullmatch(r"\.(.+)\.[^.]+-\d+\.old\.tmp", old.name)
        target = folder / match[1] if match else None
        if target is not None and not target.exists():
            old.rename(target)
    for left in folder.glob(".*.tmp"):
        _remove(left)


def file_name(name: str) -> str:
    """Return `name` as the name of one file: characters that no file name can have, or that lead elsewhere, as %XX.

    >>> file_name("nli [/x]"), file_name("..")
    ('nli [%2Fx]', '%2E%2E')
    """
    unsafe = r"\." if name.strip(".") == "" else r"[/\\%\x00-\x1f]"
    return re.sub(unsafe, lambda match: f"%{ord(match[0]):02X}", name)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, aside and renamed."""
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, aside and renamed."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, aside and renamed."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


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


def read_object(path: str | Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        UserError: as `read_json`, or the file holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
        raise UserError(f"{path}: found {kind}, expected a JSON object.")
    return value


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read a file of our own, one JSON object a line (metrics, evaluations); an unfinished last line is left out."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


# --- one owner of a folder

_locked: set[Path] = set()


@contextlib.contextmanager
def lock_folder(folder: str | Path, *, on_busy: Callable[[str], None] | None = None) -> Iterator[None]:
    """Own `folder` while the block runs; within it, the same process may lock it again.

    The lock is the operating system's, on the file `.lock`, which names the owner: it ends with the process, so a
    killed one leaves no stale lock behind.

    Args:
        on_busy: called with the owner where another process owns the folder, which is then waited for; None: refuse.

    Raises:
        UserError: another process owns the folder, or it cannot be written.
    """
    folder = Path(folder).absolute()
    if folder in _locked:
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(lock, folder, on_busy)
        with writing(folder):
            _set_owner(
                lock, f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}"
            )
        _locked.add(folder)
        yield
    finally:
        if folder in _locked:
            _locked.discard(folder)
            _set_owner(lock, "")
        os.close(lock)


def _acquire(lock: int, folder: Path, on_busy: Callable[[str], None] | None) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 1000, 0).decode(errors="replace") or "another process"
        if on_busy is None:
            raise UserError(
                f"{folder}: in use by {owner}; expected a folder of its own for every run (output=...)."
            ) from None
        on_busy(owner)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: the name of an owner that is still alive has to do
        match = re.match(r"process (\d+) on (\S+),", os.pread(lock, 1000, 0).decode(errors="replace"))
        if match and match[2] == socket.gethostname() and _is_other_process(int(match[1])):
            raise UserError(f"{folder}: in use by {match[0][:-1]}.") from None


def _is_other_process(number: int) -> bool:
    try:
        os.kill(number, 0)  # asks only
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return number != os.getpid()  # in a container every start may have the number of the one before


def _set_owner(lock: int, owner: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, owner.encode(), 0)
