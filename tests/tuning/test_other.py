"""Questions from docstrings: which become one, which files are left out, and that nothing is printed about them."""

import warnings
from pathlib import Path

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.tuning.other import hash_of_sets, write_other_domains

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


def _pairs(folder: Path, rows: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"text_a": ["a"] * rows, "text_b": ["b"] * rows, "score": range(rows)}).write_csv(
        folder / "s.csv"
    )
    return folder


def test_sets_of_a_user_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    first = [hash_of_sets(_pairs(tmp_path / name / "sts", 3).parent) for name in ("one", "copy")]
    assert first[0] == first[1]
    assert hash_of_sets(_pairs(tmp_path / "one" / "sts", 4).parent) != first[0]
    for half in ("development", "test"):
        _pairs(tmp_path / "halves" / half / "sts", 3)
    halves = hash_of_sets(tmp_path / "halves")
    _pairs(tmp_path / "halves" / "test" / "sts", 4)
    assert hash_of_sets(tmp_path / "halves") != halves


@pytest.mark.parametrize(("there", "missing"), [("test", "development"), ("development", "test")])
def test_one_half_alone_is_refused(tmp_path: Path, there: str, missing: str) -> None:
    _pairs(tmp_path / there / "sts", 3)
    with pytest.raises(
        UserError, match=f"found {there}/ without {missing}/; expected both, or the sets right in"
    ):
        hash_of_sets(tmp_path)
