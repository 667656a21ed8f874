"""What a folder holds: files by format, links, encodings, and what is skipped with a reason."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from conan_embed.documents.office import UnreadableError
from conan_embed.documents.sources import Skipped, SourceFile, decode, find_files
from conan_embed.errors import UserError


def _names(folder: Path) -> tuple[list[str], dict[str, str]]:
    entries = list(find_files([str(folder)]))
    files = [str(Path(entry.name).relative_to(folder)) for entry in entries if isinstance(entry, SourceFile)]
    skipped = {Path(entry.name).name: entry.reason for entry in entries if isinstance(entry, Skipped)}
    return files, skipped


def test_folders_are_walked_in_order_and_the_rest_is_skipped_with_a_reason(tmp_path: Path) -> None:
    for name in (
        "b.md",
        "a/z.html",
        "a/README",
        "a/rows.jsonl",
        ".git/x.md",
        "node_modules/y.md",
        "c.png",
        "d.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    files, skipped = _names(tmp_path)
    assert files == ["a/README", "a/rows.jsonl", "a/z.html", "b.md"]
    assert skipped == {"c.png": "another format", "d.json": "another format"}


def test_loops_of_links_end_and_no_file_is_read_twice(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.md").write_text("text")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "again.md").symlink_to(tmp_path / "sub" / "a.md")
    (tmp_path / "self.md").symlink_to(tmp_path / "self.md")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    files, skipped = _names(tmp_path)
    assert files == ["again.md"]
    assert skipped == {"self.md": "broken link", "gone.md": "broken link"}


def test_pipes_and_sockets_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    assert _names(tmp_path) == ([], {"pipe.md": "no regular file"})


def test_a_source_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(UserError, match=r"dosc: no such file or folder \(did you mean 'docs'"):
        list(find_files([str(tmp_path / "dosc")]))


def test_a_single_file_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("text")
    with pytest.raises(UserError, match=r"a\.xyz: a file of an unknown format; expected .*\.md"):
        list(find_files([str(tmp_path / "a.xyz")]))


CHINESE = "数据库的备份与恢复：先停止写入，再复制文件。\r\n第二行。"


@pytest.mark.parametrize(
    "text",
    [
        "Le fichier a été enregistré à l'endroit prévu. Où est-il ? Là-bas.\n" * 3,
        "Die Größe der Datei läßt sich nicht ändern; „Öffnen“ schlägt fehl – warum?\n",
        "¿Dónde está el archivo? El año pasado. © 2020 – “citas” y más.\n",
        "One sentence with a naïve word.\n",
    ],
)
def test_western_texts_are_not_taken_for_chinese(text: str) -> None:
    assert decode(text.encode("cp1252")) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "gbk"])
def test_encodings_are_found_out(encoding: str) -> None:
    assert decode(CHINESE.encode(encoding)) == CHINESE.replace("\r\n", "\n")


def test_a_few_damaged_bytes_do_not_lose_a_file() -> None:
    data = (CHINESE * 50).encode()
    assert decode(data[:3000] + b"\xff" + data[3000:]).count("\ufffd") <= 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\n ", "empty"),
        (b"\x7fELF\x00\x01", "binary"),
        ("Все счастливые семьи похожи друг на друга. ".encode("cp1251") * 3, "unknown encoding"),
        ("遠端伺服器沒有回應，請稍後再試一次。".encode("big5") * 3, "unknown encoding"),
        (bytes(range(128, 256)) * 4, "unknown encoding"),
    ],
)
def test_what_is_no_text_is_told_so(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        decode(data)


def test_a_folder_that_vanishes_while_others_are_walked_is_skipped(tmp_path: Path) -> None:
    for name in ("a/one.md", "b/two.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("text")
    entries = find_files([str(tmp_path)])
    assert next(entries) == SourceFile(tmp_path / "a/one.md", str(tmp_path / "a/one.md"), "markdown")
    shutil.rmtree(tmp_path / "b")
    assert list(entries) == [Skipped(str(tmp_path / "b"), "folder that cannot be read")]


def test_a_source_without_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UserError, match=r"secret: cannot be read \(Permission denied\)\.$"):
        list(find_files([str(tmp_path / "secret")]))
