"""The quickstart's data, read from a small package tree written for the purpose."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.quickstart.docstrings import read_docstring
from conan_embed.quickstart.python_docs import (
    GRADES,
    MAX_POSITIVES,
    PASSAGE_CHARACTERS,
    build,
    choose,
    graded_pairs,
    held_out_objects,
    is_document,
    is_query,
    normalised,
    passage,
    retrieval_pairs,
)
from conan_embed.quickstart.sources import (
    STANDARD_LIBRARY,
    Package,
    PythonObject,
    Reading,
    folder_package,
    installed_packages,
    read_package,
)

# Docstrings ----------------------------------------------------------------------------------------------------


def test_summary_is_the_first_sentence_and_the_rest_lacks_it():
    parts = read_docstring("""
        Sort the *rows* of a table, e.g. by :func:`~table.keys.date`, so that
        ``late`` ones come last. Ties keep their order.

        Parameters
        ----------
        table : `Table`
            What to sort; see [the guide](https://example.org/guide).

        Examples
        --------
        >>> sort(table)
        Table(3)
    """)
    assert parts.signature == ""
    assert parts.summary == "Sort the rows of a table, e.g. by date, so that late ones come last."
    assert parts.rest == "Ties keep their order.\nParameters\ntable : Table\nWhat to sort; see the guide."


@pytest.mark.parametrize(
    ("docstring", "signature", "summary", "rest"),
    [
        (
            "abs(x, *, out=None) -> Tensor\n\nTake the absolute value.",
            "abs(x, *, out=None) -> Tensor",
            "Take the absolute value.",
            "",
        ),
        (
            "Open a file.\n:param str path: where it is\n:rtype: File\n:raises OSError: it is not there",
            "",
            "Open a file.",
            "path: where it is\nRaises OSError: it is not there",
        ),
        (
            "Open a file.\n\nArgs:\n    path: where\n\n.. versionadded:: 3\n\n.. note:: Close it.",
            "",
            "Open a file.",
            "Args:\npath: where\nNote: Close it.",
        ),
        (
            "Join the parts\nof a path\n\n.. code-block:: python\n\n    join(a, b)\n\nSafe.",
            "",
            "Join the parts of a path",
            "Safe.",
        ),
        (
            "Pass *args and **kwargs (a * b) on to :class:`.Queue`.",
            "",
            "Pass *args and **kwargs (a * b) on to Queue.",
            "",
        ),
        ('!!! note "Usage"\n    [Models](a.md)\n\nA base class.', "", "A base class.", ""),
        (
            "Make :class:`Path`\\s from `.Text`, [`Name`] and [names][all-names], but index a[0][1].",
            "",
            "Make Paths from Text, Name and names, but index a[0][1].",
            "",
        ),
        ("Convert units.\n\n```python\nconvert(3)\n```\n\nFast.", "", "Convert units.", "Fast."),
    ],
)
def test_markup_of_many_styles(docstring, signature, summary, rest):
    parts = read_docstring(docstring)
    assert (parts.signature, parts.summary, parts.rest) == (signature, summary, rest)


# Sources -------------------------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> Package:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder_package("shop", root)


SHOP = {
    "shop/__init__.py": '"""A shop with a till and a store."""\nfrom shop._till import Till as Till, count\n'
    "from .store import *\nfrom ._core import *\n",
    "shop/_till.py": '''
class Till:
    """A box for money."""

    def __init__(self, coins: int = 0, *, currency: "str" = "EUR"):
        """Not for the reader."""

    def open(self, key, /):
        """Open the box."""

    @property
    def total(self) -> int:
        """How much is inside."""

    @staticmethod
    def mint(value):
        """Make a coin."""

    def _count(self):
        """Private."""

def count(coins, by=1):
    """Count coins."""

def weigh(coins):
    """Nobody imports this."""

class _Drawer:
    """Private."""
''',
    "shop/store/__init__.py": '"""Goods on shelves."""\n__all__ = ["Shelf"]\n'
    'class Shelf:\n    """A shelf."""\nclass Board:\n    """Not listed."""\n',
    "shop/_core.py": '__all__ = ["scan"]\nfrom shop._scanner import scan, beep\n' + "#" * 5000,
    "shop/_scanner.py": 'def scan(x):\n    """Scan a code."""\ndef beep():\n    """Beep."""\n' + "#" * 5000,
    "shop/_docs.py": 'add_docstr(shop.pay, """pay(cash) -> bool\n\nPay in cash.""")\n'
    'add_newdoc("shop._scanner", "scan", ("speed", "How fast it is."))\n',
    "shop/prices.py": 'try:\n    import x\nexcept ImportError:\n    def tax(n, rate=0.2) -> float:\n'
    '        """Add the tax."""\n',
    "shop/broken.py": "def broken(:\n",
    "shop/binary.py": "\0",
    "shop/made.py": '# Generated by a tool. DO NOT EDIT.\ndef made():\n    """Made."""\n',
    "shop/tests/test_till.py": 'def test():\n    """A test."""\n',
    "shop/_vendor/other.py": 'def other():\n    """Another package."""\n',
}  # fmt: skip


def test_objects_go_by_their_public_names(tmp_path):
    reading = read_package(write(tmp_path, SHOP), enough=100)
    found = {thing.name: (thing.kind, thing.signature, thing.summary) for thing in reading.objects}
    assert found == {
        "shop": ("module", "", "A shop with a till and a store."),
        "shop.store": ("module", "", "Goods on shelves."),
        "shop.Shelf": ("class", "", "A shelf."),
        "shop.Till": ("class", "(coins: int=0, *, currency: 'str'='EUR')", "A box for money."),
        "shop.Till.open": ("method", "(key, /)", "Open the box."),
        "shop.Till.total": ("property", " -> int", "How much is inside."),
        "shop.Till.mint": ("method", "(value)", "Make a coin."),
        "shop.count": ("function", "(coins, by=1)", "Count coins."),
        "shop.scan": ("function", "(x)", "Scan a code."),
        "shop.scan.speed": ("method", "", "How fast it is."),
        "shop.pay": ("function", "(cash) -> bool", "Pay in cash."),
        "shop.prices.tax": ("function", "(n, rate=0.2) -> float", "Add the tax."),
    }
    assert reading.files_skipped == 3  # broken, binary, made


def test_place_is_where_an_object_is_defined(tmp_path):
    things = {thing.name: thing for thing in read_package(write(tmp_path, SHOP), enough=100).objects}
    assert things["shop.Till.open"].place == ("shop", "_till")
    assert things["shop.Till.open"].owner == things["shop.Till"].owner == "Till"
    assert things["shop.count"].owner == ""


def test_reading_stops_at_the_surface(tmp_path):
    deep = {f"shop/a/b/c{n}.py": f'def f{n}():\n    """Do {n}."""\n' for n in range(5)}
    reading = read_package(write(tmp_path, SHOP | deep), enough=4)
    assert len(reading.objects) == 4
    assert all(thing.name.count(".") < 3 for thing in reading.objects)


def test_long_signature_loses_annotations_then_arguments(tmp_path):
    def signature(count: int, annotation: str) -> str:
        arguments = ", ".join(f"argument_{n}{annotation}" for n in range(count))
        package = write(tmp_path, {"m.py": f'def f({arguments}):\n    """Do it."""\n'})
        return next(thing.signature for thing in read_package(package, 9).objects)

    assert signature(2, ": int") == "(argument_0: int, argument_1: int)"
    assert signature(10, ": dict[str, int]") == "(" + ", ".join(f"argument_{n}" for n in range(10)) + ")"
    assert signature(50, "").endswith(", ...)")
    assert len(signature(50, "")) <= 170


def test_the_machine_has_a_standard_library_and_our_dependencies():
    packages = {package.name: dict(package.modules) for package in installed_packages()}
    assert {"json", "json.decoder", "argparse"} <= packages[STANDARD_LIBRARY].keys()
    assert not any(name.startswith(("test.", "idlelib")) for name in packages[STANDARD_LIBRARY])
    assert "numpy" in packages["numpy"]
    assert "conan-embed" not in packages


# Documents, queries, split -------------------------------------------------------------------------------------

LONG = "It reads every line of the file and keeps those that match, in the order in which they stand there."


def thing(
    name: str = "shop.find", summary: str = "Find the lines that match a pattern.", rest: str = LONG, **more
):
    place = more.pop("place", tuple(name.split(".")[:-1]))
    defaults = {"kind": "function", "signature": "(x)", "package": "shop", "owner": ""}
    return PythonObject(name=name, summary=summary, rest=rest, place=place, **(defaults | more))


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
    readings = [
        Reading(name, [thing(f"{name}.f{n}", package=name) for n in range(c)]) for name, c in counts.items()
    ]
    chosen = choose(readings, 800)
    assert [one.name for one in chosen] == sorted(one.name for one in chosen)
    assert Counter(one.package for one in chosen) == {
        STANDARD_LIBRARY: 200,
        "huge": 290,
        "large": 290,
        "small": 20,
    }
    assert len(choose(readings, 10_000)) == sum(counts.values())


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
    if a.place == b.place:
        return GRADES["class"] if a.owner and a.owner == b.owner else GRADES["module"]
    if a.place[0] != b.place[0]:
        return GRADES["nothing"]
    return GRADES["folder"] if len(a.place) > 2 and a.place[:-1] == b.place[:-1] else GRADES["package"]


def test_graded_pairs_are_graded_by_the_tree_and_balanced():
    things = [
        thing(f"{package}.{folder}.{module}.{owner}.f{n}", f"Summary {package}{folder}{module}{owner}{n}.",
              place=(package, folder, module)[: 2 if folder == "g" else 3], owner=owner)
        for package in "ab" for folder in "fgh" for module in "mno" for owner in ("", "C", "D") for n in range(3)
    ]  # fmt: skip
    by_summary = {one.summary: one for one in things}
    pairs = graded_pairs(things, 40, np.random.default_rng(0))
    assert Counter(pairs["score"]) == dict.fromkeys(GRADES.values(), 40)
    rows = list(pairs.iter_rows())
    assert len({frozenset(row[:2]) for row in rows}) == len(rows)
    assert all(score == grade(by_summary[a], by_summary[b]) for a, b, score in rows)
    assert {grade(a, b) for a, b in combinations(things, 2)} == set(GRADES.values())


# The whole -----------------------------------------------------------------------------------------------------

NOUNS = [
    "river",
    "bridge",
    "castle",
    "garden",
    "engine",
    "violin",
    "market",
    "forest",
    "letter",
    "harbour",
    "winter",
]
VERBS = ["paint", "repair", "measure", "count", "polish", "carry", "hide", "draw", "follow", "weigh"]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Package:
    """Write a package of 3 folders x 5 modules x 2 classes x 10 methods, with different summaries and texts."""
    root = tmp_path_factory.mktemp("library")
    rng = np.random.default_rng(0)
    for folder in range(3):
        for module in range(5):
            lines = []
            for owner in range(2):
                lines.append(f"class C{folder}{module}{owner}:")
                for verb in VERBS:
                    a, b, c, d, e = rng.choice(NOUNS, 5)
                    summary = (
                        f"{verb.capitalize()} the {a} near a {b} before the {c} {folder}{module}{owner}."
                    )
                    rest = f"Takes the {d} and the {e} of the {a}, and gives them to {verb} C{folder}{module}{owner}."
                    lines += [f"  def {verb}(self):", f'    """{summary}', "", f"    {rest}", '    """']
            path = root / "things" / f"f{folder}" / f"m{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines))
    return folder_package("things", root)


def read(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path)


def test_build_writes_what_training_and_evaluation_read(library, tmp_path):
    summary = build(tmp_path, held_out=0.3, pairs_per_grade=20, max_objects=16 * 300, packages=[library])
    train, corpus = read(tmp_path / "train/retrieval.parquet"), read(tmp_path / "train/corpus.parquet")
    evaluation = tmp_path / "eval/retrieval/PythonDocs"
    queries, all_passages, qrels = (
        read(evaluation / f"{name}.parquet") for name in ("queries", "corpus", "qrels")
    )
    train_sts, eval_sts = read(tmp_path / "train/sts.parquet"), read(tmp_path / "eval/sts/PythonTree.parquet")
    documents = read(tmp_path / "documents.parquet")

    assert dict(train.schema) == {"query": pl.String, "positive": pl.List(pl.String)}
    assert (
        dict(corpus.schema)
        == dict(all_passages.schema)
        == dict.fromkeys(("doc_id", "title", "text"), pl.String)
    )
    assert dict(queries.schema) == dict.fromkeys(("query_id", "text"), pl.String)
    assert dict(qrels.schema) == {"query_id": pl.String, "doc_id": pl.String, "score": pl.Int32}
    for graded in (train_sts, eval_sts):
        assert dict(graded.schema) == {"text_a": pl.String, "text_b": pl.String, "score": pl.Float32}

    # Every positive is a passage to mine around, and every held-out query finds its passages among all.
    positives = train["positive"].explode()
    assert set(positives) <= set(corpus["text"]) < set(all_passages["text"])
    assert qrels["doc_id"].is_in(all_passages["doc_id"].to_list()).all()
    assert set(qrels["query_id"]) == set(queries["query_id"])
    assert documents["doc_id"].to_list() == all_passages["doc_id"].to_list()
    assert all(s in text for s, text in zip(documents["summary"], documents["text"], strict=True))

    # Nothing held out is seen in training, and no passage tells its own summary.
    assert qrels["doc_id"].is_in(corpus["doc_id"].to_list()).sum() == 0
    trained = {normalised(text) for text in [*train["query"], *train_sts["text_a"], *train_sts["text_b"]]}
    asked = {normalised(text) for text in [*queries["text"], *eval_sts["text_a"], *eval_sts["text_b"]]}
    assert not trained & asked
    assert not any(
        normalised(row["query"]) in normalised(text) for row in train.to_dicts() for text in row["positive"]
    )

    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["objects"] == summary.objects == len(documents) == 300
    assert written["packages"] == {"things": 300}
    assert (
        (summary.train_queries, summary.eval_queries)
        == (len(train), len(queries))
        == (len(positives), len(qrels))
    )


def test_two_builds_write_the_same_bytes(library, tmp_path):
    files = []
    for name in ("one", "two"):
        build(tmp_path / name, pairs_per_grade=20, packages=[library])
        files.append(
            {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*.*")}
        )
    assert files[0] == files[1]
    assert len(files[0]) == 9


def test_seed_changes_the_graded_pairs_and_not_the_split(library, tmp_path):
    for seed in (0, 1):
        build(tmp_path / str(seed), seed=seed, pairs_per_grade=20, packages=[library])
    same = [(tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
            for name in ("train/retrieval.parquet", "train/sts.parquet")]  # fmt: skip
    assert same == [True, False]


def test_max_objects_and_max_eval_queries(library, tmp_path):
    summary = build(tmp_path, held_out=0.5, max_objects=16 * 100, max_eval_queries=7, packages=[library])
    assert (summary.objects, summary.eval_queries) == (100, 7)


def test_share_that_is_none(library, tmp_path):
    with pytest.raises(UserError, match=r"held_out is 1\.5, expected a share between 0 and 1"):
        build(tmp_path, held_out=1.5, packages=[library])


def test_too_little_documentation(tmp_path):
    with pytest.raises(UserError, match="too small to learn from: 0 documented objects"):
        build(tmp_path / "out", packages=[write(tmp_path / "in", {"empty.py": ""})])
