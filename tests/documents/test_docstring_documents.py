"""Installed packages as a source: each documented object asks with its first sentence and answers with the rest."""

import sys
from pathlib import Path

import polars as pl
import pytest

from conan_embed.documents.build import PairSettings, build_pairs
from conan_embed.documents.docstring_documents import parse_package
from conan_embed.documents.python_packages import Package
from conan_embed.documents.sources import find_files
from conan_embed.errors import UserError

THINGS = ["river", "bridge", "castle", "garden", "engine", "violin", "market", "forest"]


def _write(root: Path) -> Package:
    """Write a package of forty functions, each with a sentence of its own, and some that are left out."""
    functions = [
        f"""
def {verb}_{thing}(size: int = {number}) -> str:
    \"\"\"Walk around every {thing} number {number} until the {verb} is over.

    The walk takes about {number} minutes; the {thing} is not changed by it, and nobody else sees the {verb}.

    Args:
        size: metres of the {thing} to walk along, counted from its {verb} end.
    \"\"\"
"""
        for number, (thing, verb) in enumerate(
            (thing, verb)
            for thing in THINGS
            for verb in ("painting", "counting", "hiding", "drawing", "mending")
        )
    ]
    others = """
def old():
    \"\"\"Deprecated since the great river was moved to the other side. It still runs in some of the old houses.\"\"\"
def short():
    \"\"\"Do it.\"\"\"
"""
    (root / "walks").mkdir()
    (root / "walks" / "__init__.py").write_text("from walks._all import *\n")
    (root / "walks" / "_all.py").write_text("".join(functions) + others)
    return Package("walks", "walks", root)


def test_an_object_is_a_document_with_its_name_and_its_first_sentence(tmp_path: Path) -> None:
    documents = list(parse_package("python:walks", _write(tmp_path)))
    assert len(documents) == 40
    [document] = [each for each in documents if "painting_river" in each.sections[0].headings[0]]
    [section] = document.sections
    assert document.file == "walks/_all.py" and section.headings == ("walks.painting_river",)
    assert document.summary == "Walk around every river number 0 until the painting is over."
    text = section.blocks[0].text
    assert text.startswith("walks.painting_river(size: int = 0) -> str\nWalk around every river")
    assert "counted from its painting end" in text
    lines = (tmp_path / "walks" / "_all.py").read_text().split("\n")
    assert "def painting_river" in lines[section.line - 1]


def test_pairs_of_a_package_hide_the_question_from_its_answer(tmp_path: Path, monkeypatch) -> None:
    package = _write(tmp_path)
    monkeypatch.setattr("conan_embed.documents.python_packages.installed_packages", lambda: [package])
    result = build_pairs(["python:walks"], tmp_path / "out", PairSettings(hold_out=0.2))
    assert result.documents == 40 and set(result.pairs) == {"docstring"}
    pairs, passages = (
        pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("pairs", "passages")
    )
    assert not any(query in positive for query, positive in pairs.select("query", "positive").iter_rows())
    whole = dict(passages.select("doc_id", "text").iter_rows())
    assert all(query in whole[doc_id] for query, doc_id in pairs.select("query", "doc_id").iter_rows())
    folder = tmp_path / "out" / "test" / "retrieval" / result.name
    corpus, queries = (pl.read_parquet(folder / f"{name}.parquet")["text"] for name in ("corpus", "queries"))
    assert not any(query in text for query in queries for text in corpus)
    assert build_pairs(["python:walks"], tmp_path / "out", PairSettings(hold_out=0.2)) == result
    (tmp_path / "walks" / "_all.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="found no document with text"):
        build_pairs(["python:walks"], tmp_path / "out", PairSettings(hold_out=0.2))


def test_packages_are_found_by_name_and_others_refused() -> None:
    [file] = find_files(["python:typer"])
    assert (file.name, file.format, file.path.is_dir()) == ("python:typer", "python", True)  # type: ignore[union-attr]
    names = {file.name for file in find_files(["python:stdlib"])}
    assert {"python:json", "python:pathlib"} <= names and "python:typer" not in names
    with pytest.raises(UserError, match=r"python:tiper: no such package is installed \(did you mean 'typer'"):
        list(find_files(["python:tiper"]))


def test_without_the_library_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "griffe", None)
    with pytest.raises(
        UserError, match=r"python:typer: reading it needs griffelib.*conan-embed\[quickstart\]"
    ):
        list(find_files(["python:typer"]))
