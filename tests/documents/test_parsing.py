"""Files to blocks on disk: every block of every file once, in order; what cannot be read is told."""

import errno
import os
import random
from pathlib import Path

import polars as pl
import pytest

from conan_embed.documents import parsing
from conan_embed.documents.parsing import block_key, parse_batches, plan_batches, read_documents, split_text
from conan_embed.documents.sources import Skipped, SourceFile
from conan_embed.errors import UserError


def write(folder: Path, contents: dict[str, str | bytes]) -> list[SourceFile]:
    files = []
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        formats = {".md": "markdown", ".html": "html", ".txt": "plain", ".jsonl": "table"}
        files.append(SourceFile(path, name, formats[path.suffix]))
    return files


@pytest.mark.parametrize("seed", range(10))
def test_pieces_of_a_text_joined_are_the_text_and_begin_in_their_line(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choices(["\n", "\n\n", "\n# ", "#### ", "word ", "中文。"], k=400))
    pieces = list(split_text(text, 100))
    assert "".join(piece for piece, _ in pieces) == text
    assert len(pieces) > 1
    start = 0
    for piece, line in pieces:
        assert line == text[:start].count("\n") + 1
        start += len(piece)
        end = text[:start]
        assert start == len(text) or end.endswith("\n\n") or text[start:].startswith(("# ", "## ", "### "))
        assert len(piece) >= 100 or start == len(text)


def test_a_short_text_and_one_without_a_place_to_cut_stay_whole() -> None:
    assert list(split_text("a\n\nb", 3)) == [("a\n\nb", 1)]
    assert list(split_text("word\n" * 100, 50)) == [("word\n" * 100, 1)]
    assert list(split_text("", 3)) == []


def test_batches_hold_all_files_in_order_and_end_when_they_are_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "_BATCH_BYTES", 100)
    monkeypatch.setattr(parsing, "_BATCH_FILES", 4)
    rng = random.Random(0)
    sizes = [rng.choice([0, 10, 60, 300]) for _ in range(60)]
    files = write(tmp_path, {f"{number}.md": "x" * size for number, size in enumerate(sizes)})
    batches = plan_batches(files)
    assert [file for batch in batches for file in batch.files] == files
    assert [batch.number for batch in batches] == list(range(len(batches)))
    for batch in batches:
        size = [file.path.stat().st_size for file in batch.files]
        assert sum(size[:-1]) < 100 and len(size) <= 4
        assert batch is batches[-1] or sum(size) >= 100 or len(size) == 4
    assert plan_batches([]) == []


CONTENTS: dict[str, str | bytes] = {
    "a.md": "# 标题\n\n第一段。\n\n## Part\n\nText.\n\n- a\n- b\n",
    "empty.md": "",
    "b.html": "<h1>Page</h1><p>One.</p><pre>x = 1</pre>",
    "binary.txt": b"\x00\x01",
    "c.txt": "中文纯文本，只有一句话。".encode("gb18030"),
    "heading.md": "# Only a heading\n",
    "rows.jsonl": '{"text": "Row one."}\n{"text": "Row two."}\n',
    "damaged.jsonl": '{"nothing": 1}\n',
    "deep.html": "<body>" + "<div>" * 1500 + "deep",
}


def test_the_rows_of_all_batches_are_the_blocks_of_all_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "_BATCH_FILES", 2)
    monkeypatch.setattr(parsing, "_ROWS_AT_ONCE", 2)
    files, expected, numbers = write(tmp_path, CONTENTS), [], set()
    skipped = parse_batches(plan_batches(files), tmp_path / "blocks", workers=1)
    for position, file in enumerate(files):
        for document in read_documents(file, []):
            for number, section in enumerate(document.sections):
                for block in section.blocks:
                    where = (position // 2, document.file, document.title, number, list(section.headings))
                    expected.append((*where, block.kind, block.text, block.line, block_key(block.text)))
    rows = pl.read_parquet(tmp_path / "blocks" / "*.parquet")
    columns = ("file", "title", "section", "headings", "kind", "text", "line", "key")
    found = [(row["document"] >> 32, *(row[name] for name in columns)) for row in rows.to_dicts()]
    assert found == expected and len(expected) == 8
    numbers = {(row["document"], row["file"]) for row in rows.to_dicts()}
    assert len(numbers) == rows["file"].n_unique() == rows["document"].n_unique(), (
        "each document has its number"
    )
    assert skipped == [
        Skipped("empty.md", "empty"),
        Skipped("binary.txt", "binary"),
        Skipped("heading.md", "no text"),
        Skipped("damaged.jsonl", "table without texts or pairs, or damaged"),
        Skipped("deep.html", "nested too deeply"),
    ]


FORMATS = ["markdown", "html", "rst", "plain", "pdf", "word", "table"]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_that_is_gone_when_its_turn_comes_is_skipped_by_name(
    tmp_path: Path, format_: str, named: bool
) -> None:
    skipped: list[Skipped] = []
    file = SourceFile(tmp_path / "gone" / "文档", "文档", format_, named=named)
    assert list(read_documents(file, skipped)) == []
    assert skipped == [Skipped("文档", "cannot be read (No such file or directory)")]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_without_permission_is_skipped_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    (file,) = write(tmp_path, {"a.txt": "text"})
    monkeypatch.setattr(Path, "open", refuse)
    skipped: list[Skipped] = []
    assert list(read_documents(SourceFile(file.path, "a", format_), skipped)) == []
    assert skipped == [Skipped("a", "cannot be read (Permission denied)")]


def test_a_file_that_vanishes_before_batches_are_planned_is_named(tmp_path: Path) -> None:
    files = write(tmp_path, {"a.md": "text", "b.md": "text"})
    files[1].path.unlink()
    with pytest.raises(
        UserError, match=r"b\.md: cannot be read \(No such file or directory\), and was there when"
    ):
        plan_batches(files)


def test_a_batch_that_is_there_is_not_parsed_again_and_tells_again_what_it_skipped(tmp_path: Path) -> None:
    batches = plan_batches(write(tmp_path, {"a.md": "# T\n\ntext", "b.md": ""}))
    first = parse_batches(batches, tmp_path / "blocks", workers=1)
    (tmp_path / "a.md").write_text("# T\n\nanother text")
    assert parse_batches(batches, tmp_path / "blocks", workers=1) == first == [Skipped("b.md", "empty")]
    assert pl.read_parquet(tmp_path / "blocks/00000.parquet")["text"].to_list() == ["text"]


def test_names_and_texts_that_are_no_unicode_are_written_all_the_same(tmp_path: Path) -> None:
    (file,) = write(tmp_path, {"a.md": '---\ntitle: "half \\ud83d"\n---\ntext'})
    bad = SourceFile(file.path, "caf\udce9.md", "markdown")  # as Python reads a name in Latin-1
    empty = SourceFile(write(tmp_path, {"b.md": ""})[0].path, "\udce9", "markdown")
    assert parse_batches(plan_batches([bad, empty]), tmp_path, workers=1) == [Skipped("?", "empty")]
    (row,) = pl.read_parquet(tmp_path / "00000.parquet").to_dicts()
    assert (row["file"], row["title"], row["text"]) == ("caf?.md", "half ?", "text")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("All Rights\n reserved.", "all rightsreserved.", True),
        ("版权 所有", "版权所有", True),
        ("a", "b", False),
        ("", "\n", True),
        ("\ud83d", "?", True),
    ],
)
def test_copies_of_a_block_have_one_key_whatever_their_case_and_spaces(
    one: str, other: str, same: bool
) -> None:
    assert (block_key(one) == block_key(other)) == same
