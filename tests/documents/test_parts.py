"""Passages and pairs of one batch: each passage once with an id of its own, each pair with what answers it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conan_embed.documents.boilerplate import Repeated
from conan_embed.documents.containment import Contained
from conan_embed.documents.parsing import block_key, parse_batches, plan_batches
from conan_embed.documents.parts import make_part, read_sections
from conan_embed.documents.passages import estimate_tokens
from conan_embed.documents.sources import SourceFile

NONE = np.zeros(0, np.int64)
PAGES = {
    "a.md": "# 备份指南\n\n备份要每天做一次，否则会丢失数据。\n\n## 如何恢复数据？\n\n"
    + "先停止服务，再复制文件。" * 12,
    "b.md": "# Guide\n\nHome | Docs\n\n## How do I restore the data?\n\nStop the server and copy the files back.\n",
    "c.md": "# Left out\n\nThis page only repeats what another one says.\n",
    "empty.md": "",
}


def repeated(*, blocks: tuple[str, ...] = (), documents: tuple[int, ...] = ()) -> Repeated:
    keys = np.array(sorted(map(block_key, blocks)), np.uint64)
    return Repeated(
        np.array(documents, np.int64), Contained(NONE, NONE, ("", "")), keys, {}, frozenset(), 3, []
    )


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text, "utf-8")
    files = [SourceFile(tmp_path / name, name, "markdown") for name in PAGES]
    parse_batches(plan_batches(files), tmp_path, workers=1)
    return tmp_path / "00000.parquet"


def make(file: Path, **given: tuple) -> tuple[pl.DataFrame, pl.DataFrame]:
    folder = file.parent / "parts"
    folder.mkdir(exist_ok=True)
    make_part(file, folder, repeated(**given), estimate_tokens, max_tokens=60, overlap=0, min_tokens=4)
    passages, pairs = (pl.read_parquet(folder / f"{name}-00000.parquet") for name in ("passages", "pairs"))
    return passages, pairs


def test_each_pair_leads_to_the_passage_that_answers_it(blocks: Path) -> None:
    passages, pairs = make(blocks)
    assert passages["doc_id"].is_unique().all()
    assert passages["num_tokens"].max() <= 60
    text_of = dict(passages.select("key", "text").rows())
    assert len(text_of) == passages["text"].n_unique()
    for pair in pairs.to_dicts():
        assert text_of[pair["passage_key"]].endswith(pair["positive"])
        assert pair["line"] in passages.filter(file=pair["file"], key=pair["passage_key"])["line"]
    asked = pairs.filter(query="如何恢复数据？")
    assert len(asked) > 1 and asked["query_key"].n_unique() == 1, "a long section answers in several passages"


def test_several_passages_of_one_line_are_numbered(blocks: Path) -> None:
    passages, _ = make(blocks)
    ids = [doc_id for doc_id in passages["doc_id"] if doc_id.startswith("a.md:7")]
    assert ids == ["a.md:7", *(f"a.md:7.{number}" for number in range(2, len(ids) + 1))] and len(ids) > 2


def test_boilerplate_and_documents_that_stand_in_others_are_left_out(blocks: Path) -> None:
    passages, pairs = make(blocks, blocks=("home|DOCS",), documents=(2,))
    assert set(passages["file"]) == {"a.md", "b.md"} and set(pairs["file"]) <= {"a.md", "b.md"}
    assert not passages["text"].str.contains("Home").any()
    sections = list(read_sections(blocks, repeated(blocks=("Home | Docs",), documents=(2,))))
    assert [(section.file, section.is_first) for section in sections] == [
        ("a.md", True),
        ("a.md", False),
        ("b.md", True),
    ], "the first that is left counts as the first"


def test_a_part_that_is_there_is_not_made_again(blocks: Path) -> None:
    before = make(blocks)
    after = make(blocks, documents=(0, 1, 2))
    assert all(one.equals(other) for one, other in zip(before, after, strict=True))


def test_a_batch_of_which_nothing_is_left_is_two_files_without_rows(blocks: Path) -> None:
    passages, pairs = make(blocks, documents=(0, 1, 2))
    assert passages.is_empty() and pairs.is_empty()
    assert "doc_id" in passages.columns and "query" in pairs.columns
