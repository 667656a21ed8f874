"""The data of the benchmarks, built from a small package written for the purpose."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.python_docs import build
from benchmarks.python_pairs import normalised
from conan_embed.documents.python_packages import Package
from conan_embed.errors import UserError

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
            for package in (path.parent, path.parent.parent):
                (package / "__init__.py").touch()
            path.write_text("\n".join(lines))
    return Package("things", "things", root)


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
    (tmp_path / "empty.py").touch()
    empty = Package("empty", "empty", tmp_path)
    with pytest.raises(UserError, match="too small to learn from: 0 documented objects"):
        build(tmp_path / "out", packages=[empty])
