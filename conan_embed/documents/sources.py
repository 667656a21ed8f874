"""Sources to files: folders are walked, formats told by name, encodings found out; the rest is skipped and counted."""

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conan_embed.documents.office import UnreadableError
from conan_embed.documents.optional import load_library
from conan_embed.errors import UserError, suggestion
from conan_embed.texts.formats import format_of

FORMATS = {
    **dict.fromkeys((".md", ".markdown", ".mdx", ".mkd", ".qmd", ".rmd"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".rst", ".rest"), "rst"),
    **dict.fromkeys((".txt", ".text", ""), "plain"),
    ".pdf": "pdf",
    ".docx": "word",
}
PYTHON = "python:"
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages", "dist-packages", "venv"})
_BARE_NAMES = re.compile(
    r"(?i)readme|license|copying|changes|changelog|authors|contributing|news|todo|notice|history"
)
_MOST_BAD_BYTES = 1 / 200  # of a file in UTF-8 that somebody damaged; more of them is another encoding
_ACCENTED = re.compile("[\xc0-\xd6\xd8-\xf6\xf8-\xff\u0152\u0153\u0160\u0161\u0178\u017d\u017e]")
_MOST_ACCENTS = 0.25  # to each plain letter


@dataclass(frozen=True)
class SourceFile:
    """A file to read.

    Attributes:
        name: under which it is shown.
        format: a value of FORMATS, "table", or "python": an installed package, of which `path` is the folder or file.
        named: whether the user named the file itself, so that it must be readable.
    """

    path: Path
    name: str
    format: str
    named: bool = False


@dataclass(frozen=True)
class Skipped:
    """A file that is not among the documents, and why (a few words, to count by)."""

    name: str
    reason: str


def find_files(sources: list[str]) -> Iterator[SourceFile | Skipped]:
    """Yield the files of all sources in order, those of a folder sorted; a file that is met again is left out.

    Links are followed, and each folder is entered once, however many links lead into it.

    Raises:
        UserError: a source that does not exist, or a single file of an unknown format.
    """
    visited: set[tuple[int, int]] = set()
    for source in sources:
        try:
            yield from _files_of(source, visited)
        except OSError as error:
            raise UserError(f"{source}: cannot be read ({error.strerror}).") from None


def _files_of(source: str, visited: set[tuple[int, int]]) -> Iterator[SourceFile | Skipped]:
    path = Path(source).expanduser()
    if source.startswith(PYTHON) and not path.exists():
        yield from _packages(source)
    elif path.is_dir():
        yield from _walk(path, visited)
    elif path.is_file():
        format_ = _format(path, alone=True)
        if format_ is None:
            known = ", ".join(sorted(filter(None, FORMATS)))
            raise UserError(
                f"{path}: a file of an unknown format; expected {known}, or a table (.jsonl, .csv, .parquet)."
            )
        if _new(path, visited):
            yield SourceFile(path, as_unicode(str(path)), format_, named=True)
    else:
        raise UserError(f"{path}: no such file or folder{_nearest(path)}.")


def stat_of(path: Path) -> os.stat_result:
    """Return size and time of a file that was listed.

    Raises:
        UserError: it is gone since, or cannot be read.
    """
    try:
        return path.stat()
    except OSError as error:
        raise UserError(
            f"{as_unicode(str(path))}: cannot be read ({error.strerror}), and was there when the files were listed."
        ) from None


def _packages(source: str) -> Iterator[SourceFile]:
    """Yield the installed packages of one name: of a package, a distribution, "stdlib", or "all" of them."""
    load_library("griffe", "griffelib", source, extra="quickstart")
    from conan_embed.documents.python_packages import STANDARD_LIBRARY, installed_packages

    name = source.removeprefix(PYTHON)
    every = installed_packages()
    wanted = STANDARD_LIBRARY if name == "stdlib" else name.lower().replace("-", "_")
    chosen = [
        package
        for package in every
        if name == "all" or wanted in (package.name.lower(), package.distribution.lower().replace("-", "_"))
    ]
    if not chosen:
        names = {package.name for package in every} | {package.distribution for package in every}
        raise UserError(f"{source}: no such package is installed{suggestion(name, names)}.")
    for package in chosen:
        yield SourceFile(package.path, f"{PYTHON}{package.name}", "python", named=len(chosen) == 1)


def _nearest(path: Path) -> str:
    return (
        suggestion(path.name, (entry.name for entry in path.parent.iterdir())) if path.parent.is_dir() else ""
    )


def _walk(folder: Path, visited: set[tuple[int, int]]) -> Iterator[SourceFile | Skipped]:
    try:
        if not _new(folder, visited):
            return
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield Skipped(as_unicode(str(folder)), "folder that cannot be read")
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                if entry.name not in _SKIPPED_FOLDERS:
                    yield from _walk(path, visited)
            elif not entry.is_file():
                yield Skipped(
                    as_unicode(str(path)), "broken link" if entry.is_symlink() else "no regular file"
                )
            elif (format_ := _format(path, alone=False)) is None:
                yield Skipped(as_unicode(str(path)), "another format")
            elif _new(path, visited):
                yield SourceFile(path, as_unicode(str(path)), format_)
        except OSError:  # a link that points to itself
            yield Skipped(as_unicode(str(path)), "broken link")


def _new(path: Path, visited: set[tuple[int, int]]) -> bool:
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino)
    if key in visited:
        return False
    visited.add(key)
    return True


def _format(path: Path, *, alone: bool) -> str | None:
    suffix = path.suffix.lower()
    if suffix == "":
        return "plain" if alone or _BARE_NAMES.match(path.name) else None
    if suffix in FORMATS:
        return FORMATS[suffix]
    if format_of(path) and (
        alone or ".json" not in path.suffixes
    ):  # a folder's JSON files are settings, mostly
        return "table"
    return None


def as_unicode(text: str) -> str:
    """Return a text without half characters: names of files in another encoding have them, and bad escapes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, UTF-16 or UTF-32 with its mark, GB 18030 (which contains GBK), or Latin-1.

    A few bad bytes in UTF-8 become the replacement character.

    Raises:
        UnreadableError: empty, binary, of an unknown encoding, or not to be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from error
    return decode(data)


def decode(data: bytes) -> str:
    """Return bytes as text; see `read_text`."""
    if not data.strip():
        raise UnreadableError("empty")
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return _lines(data.decode(name, errors="replace"))
    if b"\x00" in data[:65536]:
        raise UnreadableError("binary")
    try:
        return _lines(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        pass
    repaired = data.decode("utf-8-sig", errors="replace")
    bad = repaired.count("\ufffd")
    # Without a single good sequence it is no UTF-8, however few the bad bytes.
    if bad <= _MOST_BAD_BYTES * len(data) and not repaired.replace("\ufffd", "").isascii():
        return _lines(repaired)
    for encoding, is_likely in (("gb18030", _is_chinese), ("cp1252", _is_western)):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if is_likely(text):
            return _lines(text)
    raise UnreadableError("unknown encoding")


def _is_chinese(text: str) -> bool:
    """Return whether what is not ASCII is mostly common: Western bytes taken for GB 18030 give rare characters."""
    letters = text.encode("ascii", "ignore").decode()
    others = len(text) - len(letters)
    common = len(text.encode("gb2312", errors="ignore").decode("gb2312")) - len(letters)
    return common >= 0.9 * others


def _is_western(text: str) -> bool:
    """Return whether a text is mostly of ASCII letters with some accents among them.

    In texts of other alphabets, read as cp1252 (Windows' Latin-1), nearly all letters are accented.
    """
    accents = len(_ACCENTED.findall(text))
    others = sum(1 for letter in text if letter > "\x7f")
    plain = sum(map(str.isalpha, text)) - accents
    return accents <= _MOST_ACCENTS * plain and others - accents <= max(accents, 0.15 * len(text))


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
