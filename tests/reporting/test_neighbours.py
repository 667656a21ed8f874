"""Texts in the report: queries with their neighbours, mined negatives and hardest negatives, cut and in order."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from conan_embed.reporting.neighbours import (
    NUM_LETTERS,
    NUM_NEGATIVES,
    NUM_NEIGHBOURS,
    NUM_QUERIES,
    NUM_SHOWN,
    cut,
    examples,
    hardest,
    mining,
)
from conan_embed.reporting.runs import RunFiles

HOSTILE = "</style><script>alert(1)</script>"


def a_run(name: str = "run", path: Path = Path("runs/first"), **files: Any) -> RunFiles:
    return RunFiles(path=path, name=name, **files)


def ranked(*texts: str, relevant: str = "") -> list[dict[str, Any]]:
    return [
        {"text": text, "score": 0.9 - rank / 10, "relevant": text == relevant}
        for rank, text in enumerate(texts)
    ]


def a_query(query: str, before: list[Any], after: list[Any], **more: Any) -> dict[str, Any]:
    return {"query": query, "before": before, "after": after, **more}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("  two\n\nlines\t", "two lines"),
        (None, "None"),
        (3, "3"),
        ("字" * NUM_LETTERS, "字" * NUM_LETTERS),
        ("字" * (NUM_LETTERS + 1), "字" * NUM_LETTERS + "…"),
        ("a" * (NUM_LETTERS - 1) + " " + "b" * 9, "a" * (NUM_LETTERS - 1) + "…"),
        (HOSTILE, HOSTILE),
    ],
)
def test_a_text_is_cut_to_one_line(text, shown):
    assert cut(text) == shown


def test_neighbours_say_from_which_rank_they_came():
    record = a_query("问", ranked("a", "b", "c"), ranked("c", "b", HOSTILE, relevant="c"))
    (example,) = examples([a_run(examples={"corpus": "手册", "queries": [record]})]).shown
    before, after = example.sides
    assert (before.title, after.title) == ("Before", "After")
    assert [(text.rank, text.text, text.moved) for text in before.texts] == [
        ("1", "a", ""),
        ("2", "b", ""),
        ("3", "c", ""),
    ]
    assert [(text.text, text.moved) for text in after.texts] == [("c", "was 3"), ("b", ""), (HOSTILE, "new")]
    assert [text.relevant for text in after.texts] == [True, False, False]
    assert [text.score for text in after.texts] == [0.9, 0.8, 0.7]


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        (
            ranked("a", "x", relevant="x"),
            ranked("x", "a", relevant="x"),
            "at rank 2 before, at rank 1 after.",
        ),
        (ranked("a"), ranked("x", relevant="x"), "not among the first 1 before, at rank 1 after."),
        ([], ranked("x", relevant="x"), "at rank 1."),
        (
            ranked("a", "b"),
            ranked("a", "b"),
            "not among the first 2 before, not among the first 2 after. Sought: x",
        ),
        ([], ranked(*"abcdefx", relevant="x"), "at rank 7. Sought: x"),
    ],
)
def test_the_note_says_where_the_relevant_passage_stands(before, after, note):
    record = a_query("q", before, after, relevant=["x"])
    (example,) = examples([a_run(examples={"queries": [record]})]).shown
    assert example.note == f"First relevant passage: {note}"
    assert all(len(side.texts) <= NUM_NEIGHBOURS for side in example.sides)


def test_several_runs_show_the_queries_that_all_have():
    first = [a_query(name, ranked("a"), ranked("b")) for name in ("one", "two", "three")]
    other = [a_query("three", ranked("a"), ranked("c")), a_query("one", ranked("z"), ranked("b"))]
    group = examples(
        [a_run("A", examples={"queries": first}), a_run("none"), a_run("B", examples={"queries": other})]
    )
    assert [example.query for example in group.shown] == ["one", "three"]
    titles = [[side.title for side in example.sides] for example in group.shown]
    assert titles == [["A", "B"], ["Before", "A", "B"]], "one list before training where all started from it"
    assert all(example.note == "" for example in group.shown)


def test_the_first_queries_are_in_sight_and_the_others_folded_away():
    queries = [a_query(f"q{number}", [], ranked("a")) for number in range(NUM_QUERIES + 5)]
    group = examples([a_run(examples={"queries": queries})])
    names = [example.query for example in [*group.shown, *group.folded]]
    assert len(group.shown) == NUM_SHOWN
    assert names == [f"q{number}" for number in range(NUM_QUERIES)]
    assert group.note == "The nearest passages to some queries; relevant ones are marked ✓."


@pytest.mark.parametrize(
    "content", [{}, {"queries": None}, {"queries": []}, {"queries": {"a": 1}}, {"queries": [3]}]
)
def test_examples_without_queries_are_no_section(content):
    assert examples([a_run(examples=content)]) is None


def test_mining_is_a_row_a_data_set_with_the_numbers_of_any():
    negatives = [{"text": f"n{rank}", "score": 0.5, "rank": rank} for rank in range(NUM_NEGATIVES + 3)]
    record = {
        "query": HOSTILE,
        "positives": ["p", "长" * 999],
        "positive_score": 0.724,
        "negatives": negatives,
    }
    table = mining(
        a_run(
            mining={
                "问答": {
                    "queries": 3524,
                    "mean_score": 0.5,
                    "by_rank": {"1": 2},
                    "file": "a.npy",
                    "examples": [record],
                },
                "b": {"queries": 7, "examples": [{}]},
            }
        )
    )
    assert table.columns == ["queries", "mean score", "by rank"]
    assert [(row.name, row.cells) for row in table.rows] == [
        ("问答", ["3,524", "0.5", "1 2"]),
        ("b", ["7", "–", "–"]),
    ]
    (example,) = table.rows[0].entries
    positives, mined = example.sides
    assert example.query == HOSTILE
    assert positives.title == "Positives, the best at 0.72"
    assert [text.text for text in positives.texts] == ["p", cut("长" * 999)]
    assert [(text.rank, text.text) for text in mined.texts] == [
        (f"{n}", f"n{n}") for n in range(NUM_NEGATIVES)
    ]
    (bare,) = table.rows[1].entries
    assert [side.title for side in bare.sides] == ["Positives", "Negatives, with their ranks"]
    assert mining(a_run()) is None


def hard(query: str, negative: str, **more: Any) -> dict[str, Any]:
    return {
        **{"data_set": "问答", "query": query, "positive": "p", "negative": negative, "rank": 4},
        **{
            "positive_score": 0.7,
            "negative_score": 0.6,
            "mined_positive_score": 0.8,
            "mined_negative_score": None,
        },
        **{"in_use": True, "suspect": False, **more},
    }


@pytest.mark.parametrize(
    ("suspects", "words"),
    [
        (0, "None of the 3 hardest negatives looks like an answer that nobody labelled"),
        (1, "1 of the 3 hardest negatives looks like an answer that nobody labelled"),
        (2, "2 of the 3 hardest negatives look like answers that nobody labelled"),
    ],
)
def test_suspects_are_counted_and_the_command_lists_them(suspects, words):
    path = Path("my runs/它's")
    section = hardest(
        a_run(path=path, hardest=tuple(hard("q", f"n{n}", suspect=n < suspects) for n in range(3)))
    )
    assert section.summary.startswith(words)
    assert section.summary.endswith("To list them for labelling:") == bool(suspects)
    assert shlex.split(section.command) == (["conan-embed", "false-negatives", str(path)] if suspects else [])
    assert hardest(a_run()) is None


def test_negatives_stand_with_their_query_and_those_out_of_use_nowhere():
    lines = [
        hard("q", "suspect", suspect=True, in_use=False, rank=None),
        hard("q", "used", mined_negative_score=0.754),
        hard("q", "of another set", data_set="b"),
        hard("r", "gone", in_use=False),
        hard("q", HOSTILE),
        *[hard("q", f"more {n}") for n in range(NUM_NEGATIVES)],
    ]
    groups = hardest(a_run(hardest=tuple(lines))).groups
    assert [group.name for group in groups] == ["Suspected false negatives", "The hardest others in use"]
    (suspect,) = groups[0].shown
    assert [(text.rank, text.text) for text in suspect.sides[1].texts] == [("–", "suspect")]
    first, second = groups[1].shown
    assert (first.note, second.note) == ("问答", "b")
    (positive,) = first.sides[0].texts
    assert (positive.text, positive.score, positive.relevant, positive.moved) == (
        "p",
        0.7,
        True,
        "mined 0.80",
    )
    negatives = first.sides[1].texts
    assert [text.text for text in negatives] == [
        "used",
        HOSTILE,
        *(f"more {n}" for n in range(NUM_NEGATIVES - 2)),
    ]
    assert [text.moved for text in negatives[:2]] == ["mined 0.75", ""]
    assert [text.text for text in second.sides[1].texts] == ["of another set"]
