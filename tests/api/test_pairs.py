"""Pairs in Python: from memory and from files alike, split, printed, and refused with a sentence."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import conan_embed as ce
from tests.support.docs import FAQ


def in_memory(kind: str) -> Any:
    rows = [{"query": query, "positive": positive} for query, positive in FAQ]
    return {"dicts": rows, "polars": pl.DataFrame(rows), "pandas": pl.DataFrame(rows).to_pandas()}[kind]


@pytest.mark.parametrize("kind", ["dicts", "polars", "pandas"])
def test_pairs_from_memory_equal_those_from_a_file(kind: str, faq: Path) -> None:
    assert ce.read_pairs(in_memory(kind)).to_frame().equals(ce.read_pairs(faq).to_frame())


def test_pairs_from_memory_name_the_bad_row() -> None:
    rows = [{"query": "a", "positive": "b"}, {"query": " ", "positive": "c"}]
    with pytest.raises(
        ce.UserError, match="data in memory: row 2: column 'query': found a text with nothing to read"
    ):
        ce.read_pairs(rows)


@pytest.mark.parametrize("nothing", [[], pl.DataFrame({"query": [], "positive": []})])
def test_no_pairs_are_an_error(nothing: Any) -> None:
    with pytest.raises(ce.UserError, match="found no rows"):
        ce.read_pairs(nothing)


def test_a_value_that_is_no_table_is_an_error() -> None:
    with pytest.raises(ce.UserError, match="cannot be read as a table"):
        ce.read_pairs(3)  # type: ignore[arg-type]


def test_split_keeps_equal_queries_together() -> None:
    rows = [{"query": f"q{i % 10}", "positive": f"p{i}"} for i in range(40)]
    train, test = ce.read_pairs(rows).split(0.3, seed=1)
    assert (len(train), len(test)) == (28, 12)
    assert not {*train.frame["query"]} & {*test.frame["query"]}


def test_split_keeps_a_question_together_however_it_is_written() -> None:
    rows = [
        {"query": form.format(i), "positive": "p"}
        for i in range(10)
        for form in ("How {}?", " how  {}? ", "HOW {}?")
    ]
    train, test = ce.read_pairs(rows).split(0.5)
    sides = [{" ".join(query.lower().split()) for query in side.frame["query"]} for side in (train, test)]
    assert not sides[0] & sides[1]
    assert (len(train), len(test), len(sides[1])) == (15, 15, 5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_split_refuses_an_empty_side(share: float) -> None:
    with pytest.raises(ce.UserError, match="leaves one side empty"):
        ce.read_pairs(in_memory("dicts")).split(share)


def test_pairs_print_a_line_each() -> None:
    text = repr(ce.read_pairs([{"query": "a\nb", "positive": "x" * 100}]))
    assert text.splitlines()[1] == f"  a b  ->  {'x' * 59}…"
