"""What is worth reading and asking, the split, and graded pairs, on made-up objects."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from benchmarks.python_pairs import (
    GRADES,
    MAX_POSITIVES,
    PASSAGE_CHARACTERS,
    choose,
    graded_pairs,
    held_out_objects,
    passage,
    retrieval_pairs,
)
from conan_embed.documents.docstring_documents import is_document, is_query
from conan_embed.documents.python_packages import STANDARD_LIBRARY, PythonObject

LONG = "It reads every line of the file and keeps those that match, in the order in which they stand there."


def thing(
    name: str = "shop.find", summary: str = "Find the lines that match a pattern.", rest: str = LONG, **more
):
    module = more.pop("module", tuple(name.split(".")[:-1]))
    defaults = {"kind": "function", "signature": "(x)", "package": "shop", "owner": ""}
    return PythonObject(name=name, summary=summary, rest=rest, module=module, **(defaults | more))


@pytest.mark.parametrize(
    ("changes", "document", "query"),
    [
        ({}, True, True),
        ({"summary": "Find lines."}, True, False),
        ({"summary": "Return the value of this object if it is set."}, True, False),
        ({"name": "shop.find_lines", "summary": "Call find_lines to filter many lines."}, True, False),
        ({"summary": "Solve x^2 + y^2 = z^2, a*b/c - d*e/f = 0 (mod p) for all p."}, True, False),
        ({"rest": LONG + " Find the lines that match a pattern!"}, True, False),
        ({"rest": ""}, False, True),
        ({"summary": "Alias for the function that finds lines."}, False, True),
        ({"summary": "Deprecated: use another function to find lines."}, False, True),
        ({"summary": "Find the lines of the %(klass)s that match a pattern."}, False, True),
        ({"summary": "input_ids (tensor of some shape, optional):"}, False, True),
    ],
)
def test_what_is_worth_reading_and_asking(changes, document, query):
    assert (is_document(thing(**changes)), is_query(thing(**changes))) == (document, query)


def test_passage_is_short_and_ends_with_a_word():
    text = passage(thing(rest="word " * 1_000))
    assert text.startswith("shop.find(x)\nword word")
    assert text.endswith("word")
    assert PASSAGE_CHARACTERS - 5 <= len(text) <= PASSAGE_CHARACTERS


def test_no_package_dominates():
    counts = {STANDARD_LIBRARY: 400, "huge": 900, "large": 300, "small": 20, "none": 0}
    objects = {name: [thing(f"{name}.f{n}", package=name) for n in range(c)] for name, c in counts.items()}
    chosen = choose(objects, 800)
    assert [one.name for one in chosen] == sorted(one.name for one in chosen)
    assert Counter(one.package for one in chosen) == {
        STANDARD_LIBRARY: 200,
        "huge": 290,
        "large": 290,
        "small": 20,
    }
    assert len(choose(objects, 10_000)) == sum(counts.values())


def test_families_stay_on_one_side():
    things = [
        thing(f"m.f{n}", f"Summary number {n // 2}.", f"Text number {(n + 1) // 2}.") for n in range(40)
    ]
    chained = held_out_objects(
        things, 0.5
    )  # each shares its summary with one neighbour, its text with the other
    assert len(set(chained.tolist())) == 1
    alone = [thing(f"m.f{n}", f"Summary number {n}.", f"Text {n}") for n in range(2_000)]
    assert 0.25 < held_out_objects(alone, 0.3).mean() < 0.35


def test_split_of_an_object_does_not_depend_on_the_others():
    things = [thing(f"m.f{n}", f"Summary number {n}.", f"Text {n}") for n in range(100)]
    assert (held_out_objects(things, 0.3)[::2] == held_out_objects(things[::2], 0.3)).all()


def test_objects_with_one_summary_are_one_query():
    copies = [thing(f"m{n}.find", "Find the lines that match a pattern." if n else "Find lines that match the pattern")
              for n in range(MAX_POSITIVES + 1)]  # fmt: skip
    pairs = retrieval_pairs(copies)
    assert [[one.name for one in pair.objects] for pair in pairs] == [
        ["m0.find"],
        [f"m{n}.find" for n in range(1, 6)],
    ]
    assert retrieval_pairs([*copies[1:], thing("m9.find")]) == []  # one more than it can mean


def grade(a: PythonObject, b: PythonObject) -> float:
    if a.module == b.module:
        return GRADES["class"] if a.owner and a.owner == b.owner else GRADES["module"]
    if a.module[0] != b.module[0]:
        return GRADES["nothing"]
    return GRADES["folder"] if len(a.module) > 2 and a.module[:-1] == b.module[:-1] else GRADES["package"]


def test_graded_pairs_are_graded_by_the_tree_and_balanced():
    things = [
        thing(f"{package}.{folder}.{module}.{owner}.f{n}", f"Summary {package}{folder}{module}{owner}{n}.",
              module=(package, folder, module)[: 2 if folder == "g" else 3], owner=owner)
        for package in "ab" for folder in "fgh" for module in "mno" for owner in ("", "C", "D") for n in range(3)
    ]  # fmt: skip
    by_summary = {one.summary: one for one in things}
    pairs = graded_pairs(things, 40, np.random.default_rng(0))
    assert Counter(pairs["score"]) == dict.fromkeys(GRADES.values(), 40)
    rows = list(pairs.iter_rows())
    assert len({frozenset(row[:2]) for row in rows}) == len(rows)
    assert all(score == grade(by_summary[a], by_summary[b]) for a, b, score in rows)
    assert {grade(a, b) for a, b in combinations(things, 2)} == set(GRADES.values())
