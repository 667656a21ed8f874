"""File names from names that people gave; folders with one owner; full disks; what killed processes leave."""

import errno
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import xxhash

import conan_embed.files as files_module
from conan_embed.errors import UserError
from conan_embed.files import (
    LOCK,
    atomic_write,
    disk_error,
    file_name,
    lock_folder,
    remove_leftovers,
    writing,
)


@pytest.mark.parametrize(
    "name", ["nli [/x]", "../up", "..", ".", "a\\b", "/etc/passwd", "x\0y", "50%", "法律 (v1.2)"]
)
def test_any_name_is_one_file_of_its_folder(tmp_path, name):
    path = tmp_path / file_name(name)
    path.write_text("here")
    assert [found.read_text() for found in tmp_path.iterdir()] == ["here"]
    assert path.resolve().parent == Path(tmp_path).resolve()


def test_different_names_are_different_files():
    names = ["a/b", "a%2Fb", "a\\b", "ab", "..", "%2E%2E"]
    assert len({file_name(name) for name in names}) == len(names)


def test_ordinary_names_stay_as_they_are():
    assert file_name("医疗问答 v1.2 [zh]") == "医疗问答 v1.2 [zh]"


# --- one owner of a folder


def hold(folder, started, release):
    """Own a folder in another process until told otherwise."""
    with lock_folder(folder):
        started.set()
        release.wait(60)


@pytest.fixture
def owner(tmp_path):
    """Another process that owns `tmp_path / "run"`, and the event that makes it let go."""
    context = multiprocessing.get_context("fork")
    started, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", started, release))
    process.start()
    assert started.wait(60)
    yield process, release
    if process.is_alive():  # an event waits for whoever waits for it
        release.set()
    process.join()


def test_a_folder_in_use_is_refused_with_the_name_of_its_owner(tmp_path, owner):
    process, _ = owner
    with (
        pytest.raises(UserError, match=rf"run: in use by process {process.pid} on \S+, since .*output="),
        lock_folder(tmp_path / "run"),
    ):
        raise AssertionError("two owners")


def test_a_folder_in_use_is_waited_for_where_asked(tmp_path, owner):
    process, release = owner
    said = []

    def on_busy(text):
        said.append(text)
        release.set()

    with lock_folder(tmp_path / "run", on_busy=on_busy):
        process.join(60)
        assert process.exitcode == 0
    assert len(said) == 1 and f"process {process.pid} on " in said[0]


def test_a_killed_owner_leaves_no_lock_although_its_name_is_still_there(tmp_path, owner):
    process, _ = owner
    process.kill()
    process.join()
    assert f"process {process.pid}" in (tmp_path / "run" / LOCK).read_text()
    with lock_folder(tmp_path / "run"):
        assert f"process {os.getpid()}" in (tmp_path / "run" / LOCK).read_text()
    assert (tmp_path / "run" / LOCK).read_text() == ""


def test_the_owner_may_lock_its_folder_again(tmp_path):
    with lock_folder(tmp_path), lock_folder(tmp_path), lock_folder(tmp_path / "other"):
        pass
    with pytest.raises(RuntimeError, match="inside"), lock_folder(tmp_path):
        raise RuntimeError("inside")
    with lock_folder(tmp_path):
        pass


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks, such as some network disks."""

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files_module.fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_an_owner_counts_while_it_lives(tmp_path, owner):
    process, _ = owner
    exists = Path.exists  # other systems have no /proc
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: not str(path).startswith("/proc/") and exists(path))
        with (
            pytest.raises(UserError, match=rf"run: in use by process {process.pid} on "),
            lock_folder(tmp_path / "run"),
        ):
            raise AssertionError("two owners")
    process.kill()
    process.join()
    with lock_folder(tmp_path / "run"):
        pass


@pytest.mark.usefixtures("no_locks")
def test_without_locks_an_earlier_process_of_the_same_number_is_no_owner(tmp_path):
    """In a container, every start may be process 1."""
    (tmp_path / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}, since yesterday")
    with lock_folder(tmp_path):
        pass


# --- full disks


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrapped(kind, message):
    def fail():
        raise kind(message)

    return fail


def write_half(path, fail):
    """Write a file whose block fails in the middle."""
    with atomic_write(path) as aside:
        aside.write_text("half")
        fail()


def chained():
    try:
        full()
    except OSError as error:
        raise RuntimeError("cannot be saved") from error


@pytest.mark.parametrize(
    "fail",
    [
        full,
        chained,
        wrapped(RuntimeError, "Error while serializing: I/O error: No space left on device (os error 28)"),
        wrapped(ValueError, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_one_sentence_whatever_library_meets_it(tmp_path, fail):
    with pytest.raises(UserError, match=r"x\.json: cannot be written: (No space left|Disk quota)"):
        write_half(tmp_path / "x.json", fail)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    assert disk_error(ValueError("no space")) is None and disk_error(None) is None
    with pytest.raises(ValueError, match="ours"), writing(tmp_path):
        raise ValueError("ours")
    with pytest.raises(UserError, match="a path: cannot be written: Permission denied"), writing("a path"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


# --- leftovers of killed processes


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".step-00000006.host.example-77.tmp").mkdir()
    (tmp_path / ".step-00000006.host.example-77.tmp" / "state.json").write_text("{")
    (tmp_path / ".run.json.host-1.tmp").write_text("{")
    for name in ("run.json", "notes.tmp", ".hidden"):
        (tmp_path / name).write_text("kept")
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "notes.tmp", "run.json"]


@pytest.mark.parametrize("host", ["host", "node-3", "gpu.cluster-a.example"])
@pytest.mark.parametrize("name", ["model", "step-00000006", "v1.2"])
def test_a_folder_that_was_moved_away_when_its_process_was_killed_is_put_back(
    tmp_path, monkeypatch, name, host
):
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").write_text("old")
    original, calls = Path.rename, []

    def rename(self, target):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr("socket.gethostname", lambda: host)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / name) as aside:
            aside.mkdir()
    assert [path.name for path in tmp_path.iterdir()] != [name]
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "weights").read_text() == "old"


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert files_module.hash_file(tmp_path / "file") == xxhash.xxh3_128_hexdigest(content)
