"""Questions from docstrings: which become one, which files are left out, and that nothing is printed about them."""

import warnings
from pathlib import Path

import polars as pl

from conan_embed.tuning.other import write_other_domains

REST = "It reads the whole file, line by line, and keeps what belongs to the chosen day. " * 2


def _write(path: Path, *firsts: str, rest: str = REST) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    functions = (
        f'def f{number}():\n    r"""{first}\n\n    {rest}\n    """\n' for number, first in enumerate(firsts)
    )
    path.write_text("\n".join(functions), encoding="utf-8")


def _questions(folder: Path, role: str) -> list[str]:
    return pl.read_parquet(folder / role / "retrieval/python-docstrings/queries.parquet")["text"].to_list()


def test_first_sentences_ask_for_the_rest(tmp_path: Path) -> None:
    _write(tmp_path / "lib" / "a.py", "Return the lines of one day.", "Count the lines of one day.")
    _write(tmp_path / "lib" / "b.py", "Too short.", "Remove the lines of one day.", rest="No more to say.")
    _write(tmp_path / "lib" / "test" / "c.py", "Test the lines of one day.")
    (tmp_path / "lib" / "broken.py").write_text("def f(:\n")
    assert write_other_domains(tmp_path / "out", tmp_path / "lib") == 1, "both questions have the same answer"
    both = _questions(tmp_path / "out", "development") + _questions(tmp_path / "out", "test")
    assert len(both) == 1 and both[0].endswith("the lines of one day.")


def test_each_question_is_asked_on_one_side_against_all_answers(tmp_path: Path) -> None:
    for number in range(10):
        _write(
            tmp_path / "lib" / f"m{number}.py", f"Return part {number} of the file.", rest=f"{REST}{number}"
        )
    assert write_other_domains(tmp_path / "out", tmp_path / "lib") == 10
    sides = [set(_questions(tmp_path / "out", role)) for role in ("development", "test")]
    assert [len(side) for side in sides] == [5, 5] and not sides[0] & sides[1]
    for role in ("development", "test"):
        folder = tmp_path / "out" / role / "retrieval" / "python-docstrings"
        assert len(pl.read_parquet(folder / "corpus.parquet")) == 10


def test_nothing_is_said_about_the_code_of_others(tmp_path: Path) -> None:
    _write(tmp_path / "lib" / "a.py", "Return the lines of one day.")
    text = (tmp_path / "lib" / "a.py").read_text()
    (tmp_path / "lib" / "a.py").write_text(text + 'DIGITS = "\\d"\n')
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert write_other_domains(tmp_path / "out", tmp_path / "lib") == 1
    assert not said
