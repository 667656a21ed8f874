"""`summary.json`: what is written is read again, and a file that is something else is named with its fault."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conan_embed.errors import UserError
from conan_embed.files import write_json
from conan_embed.filtering.summary import (
    BadRows,
    Comparisons,
    Funnel,
    Reason,
    Rows,
    Sample,
    Scores,
    SourceCounts,
    Speed,
    StageSpeed,
    Summary,
    read_summary,
)

EMPTY = Summary(Rows(0, 0, 0), Speed(0.0, None, 1, {}), Funnel(["read"], {"read": 0}, {}), {}, [])
SAMPLE = Sample("问题\u2028?", "</script> " + "很长 " * 10_000, "网页", "a\tb", float("-0.5"), None, 2**63)
FULL = Summary(
    rows=Rows(10, 7, 3),
    speed=Speed(1.5, 6.7, 2, {"rules": StageSpeed(0.25, None), "teacher": StageSpeed(1e-9, 10**12)}),
    funnel=Funnel(["read", "rules"], {"read": 10, "rules": 7}, {"网页": {"read": 10, "rules": 7}}),
    sources={"a\tb": SourceCounts(10, 7, {"query": {"zh": 1.0}})},
    reasons=[
        Reason("rules", "copy", "the same", 3, 4, {"网页": 3}, [SAMPLE, replace(SAMPLE, duplicate_of=0)])
    ],
    bad_rows=[BadRows("x.csv", 2, {"not UTF-8": 2}, "line 1: 0xff")],
    duplicates=Comparisons(9, 5, 0),
    scores=Scores([-1.0, 0.0, 1.0], 0.4, {"网页": [3, 7]}),
)


@pytest.mark.parametrize("summary", [EMPTY, FULL, replace(FULL, scores=None)], ids=["empty", "full", "part"])
def test_what_is_written_is_read_again(tmp_path: Path, summary: Summary) -> None:
    write_json(tmp_path / "summary.json", summary.to_json())
    assert read_summary(tmp_path / "summary.json") == summary


def test_what_did_not_run_is_left_out() -> None:
    assert {*FULL.to_json()} - {*EMPTY.to_json()} == {"duplicates", "scores"}
    assert (FULL.read, FULL.kept) == (10, 7)


def change(*path: Any, to: Any) -> Any:
    """The full summary as JSON, with one value changed; None takes it out."""
    values = json.loads(json.dumps(FULL.to_json()))
    owner = values
    for key in path[:-1]:
        owner = owner[key]
    if to is None:
        del owner[path[-1]]
    else:
        owner[path[-1]] = to
    return values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (change("rows", to=None), "rows: Field required."),
        (change("rows", "kept", to="many"), "rows.kept: Input should be a valid integer, "),
        (change("reasons", 0, "samples", 1, "id", to=None), "reasons.0.samples.1.id: Field required."),
        (change("funnel", "categories", "网页", to=3), "funnel.categories.网页: Input should be "),
        ([], "Input should be "),
        (None, "Input should be "),
    ],
)
def test_another_file_is_named_with_its_first_fault(tmp_path: Path, values: Any, words: str) -> None:
    path = tmp_path / "summary.json"
    write_json(path, values)
    with pytest.raises(UserError) as caught:
        read_summary(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not the summary of a filter run: {words}")
    assert message.endswith(".") and not message.endswith("..") and "\n" not in message


def test_a_file_that_is_cut_short_or_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(UserError, match=r"summary\.json"):
        read_summary(path)
    path.write_text(json.dumps(FULL.to_json())[:-1], "utf-8")
    with pytest.raises(UserError, match=r"summary\.json"):
        read_summary(path)
