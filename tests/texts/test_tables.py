"""What the files of one data set hold: titles of passages, classes as sets of positives, graded pairs."""

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.recipes.data import ClassificationData, RetrievalData, StsData
from conan_embed.texts.tables import ClassificationTable, RetrievalTable, StsTable
from tests.texts.test_loading import Folder, prompted, texts


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_titles_stand_before_passages_as_they_do_in_the_positives(folder):
    corpus = [{"title": "T", "text": "one"}, {"title": "U", "text": "two"}]
    store, found = folder.retrieval([{"query": "a", "positive": ["T\none"]}], corpus=corpus)
    assert sorted(texts(store, found.passages)) == ["T\none", "U\ntwo"]
    store, found = folder.retrieval([{"query": "a", "positive": ["one"]}], corpus=corpus)
    assert sorted(texts(store, found.passages)) == ["one", "two"]
    store, found = folder.retrieval([{"query": "a", "positive": ["x"]}], corpus=corpus)
    assert sorted(texts(store, found.passages)) == ["T\none", "U\ntwo", "x"]
    store, found = folder.retrieval(
        [{"query": "a", "positive": ["one"]}], corpus=corpus, corpus_columns={"title": "title"}
    )
    assert sorted(texts(store, found.passages)) == ["T\none", "U\ntwo", "one"]


def test_classes_become_sets_of_positives(folder, capsys):
    rows = [
        ("x", "one"),
        ("y", "two"),
        ("x", "three"),
        ("lonely", "four"),
        ("y", "five"),
        ("y", "one"),
        ("x", "six"),
    ]
    path = folder.write("c", [{"label": label, "text": text} for label, text in rows])
    tasks = folder.load(classification=[ClassificationData(name="c", path=path)])
    (found,) = tasks.retrieval
    queries = texts(tasks.store, found.query_Q)
    assert queries == ["one", "two", "three", "five", "six"]
    x, y = ["one", "six", "three"], ["five", "one", "two"]  # "one" has both labels
    assert [sorted(texts(tasks.store, found.positives[i])) for i in found.list_Q] == [
        sorted({*x, *y}),
        y,
        x,
        y,
        x,
    ]
    assert sorted(texts(tasks.store, found.passages)) == sorted(queries)
    assert prompted(tasks.store, found.query_Q[0]) == "s: one"
    printed = " ".join(capsys.readouterr().err.split())
    assert "left out 1 classes" in printed and "1 labels are further ones of their text" in printed


def test_scores_beside_the_texts_are_said_to_be_unused(folder, capsys):
    row = {"query": "a", "pos": ["b"], "neg": ["c"]}
    folder.retrieval([row])
    assert "are not used" not in capsys.readouterr().err
    folder.retrieval([row | {"pos_scores": [0.9], "neg_scores": [0.1]}])
    printed = " ".join(capsys.readouterr().err.split())
    assert "the scores in 'pos_scores' and 'neg_scores' are not used; teacher.kind: columns would" in printed


def test_scores_beside_the_texts_become_pairs_of_texts_that_the_set_keeps(folder):
    rows = [
        {"query": "a", "pos": ["b", "c"], "neg": ["d", "a"], "pos_scores": [0.9, 1], "neg_scores": [0.1, 7]},
        {"query": "x", "pos": ["y"], "neg": ["d"], "pos_scores": [], "neg_scores": [-2.5]},
        {"query": "z", "pos": ["b"], "neg": ["d"]},
        {"query": "last", "pos": ["left out"], "pos_scores": [3]},
    ]
    data = {"retrieval": [RetrievalData(name="r", path=folder.write("r", rows), limit=3)]}
    without, tasks = folder.load(**data), folder.load(**data, with_scores=True)
    (found,) = tasks.retrieval
    pairs = zip(
        texts(tasks.store, found.scored_query_X),
        texts(tasks.store, found.scored_passage_X),
        found.score_X.tolist(),
        strict=True,
    )
    assert set(pairs) == {
        ("a", "b", 0.9),
        ("a", "c", 1.0),
        ("a", "d", 0.1),
        ("a", "a", 7.0),  # which is never a negative of itself
        ("x", "d", -2.5),
    }
    assert prompted(tasks.store, found.scored_passage_X[0]) == "p: b"
    assert without.retrieval[0].score_X is None
    assert without.store.identity() == tasks.store.identity()


def test_a_table_of_scores_counts_before_those_beside_the_texts(folder, capsys):
    row = {"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [0.9], "neg_scores": [0.1]}
    table = folder.write("t", [{"query": "a", "passage": "b", "score": 3}])
    data = RetrievalData(name="r", path=folder.write("r", [row]), scores=table)
    (found,) = folder.load(retrieval=[data], with_scores=True).retrieval
    assert found.score_X.tolist() == [3.0]
    printed = "".join(capsys.readouterr().err.split())
    assert f"arenotused;thosein{table}count" in printed


def test_columns_of_scores_may_have_any_name(folder):
    rows = [{"query": "a", "pos": ["b"], "neg": ["c"], "grade": [0.9]}]
    columns = {"positive_score": "grade"}
    data = RetrievalData(name="r", path=folder.write("r", rows), columns=columns)
    (found,) = folder.load(retrieval=[data], with_scores=True).retrieval
    assert found.score_X.tolist() == [0.9]
    (found,) = folder.load(retrieval=[data]).retrieval
    assert found.score_X is None


def test_a_single_class_is_refused(folder):
    path = folder.write(
        "c", [{"label": "x", "text": "1"}, {"label": "x", "text": "2"}, {"label": "y", "text": "3"}]
    )
    with pytest.raises(UserError, match="found 1 class of two texts or more, expected at least 2"):
        folder.load(classification=[ClassificationData(name="c", path=path)])


def test_sts_pairs(folder):
    path = folder.write(
        "s", [{"text_a": "1", "text_b": "2", "score": 3.5}, {"text_a": "2", "text_b": "2", "score": 5}]
    )
    rows = folder.write("r", [{"query": "1", "positive": ["2"]}] * 3)
    tasks = folder.load(
        sts=[StsData(name="s", path=path, weight=2.0)],
        retrieval=[RetrievalData(name="r", path=rows, limit=2)],
    )
    (found,) = tasks.sts
    assert texts(tasks.store, found.left_P) == ["1", "2"]
    assert texts(tasks.store, found.right_P) == ["2", "2"]
    assert found.left_P[1] == found.right_P[1] == found.right_P[0]
    assert found.score_P.tolist() == [3.5, 5.0]
    assert found.weight == 2.0
    # Three prompts, one content.
    assert len(set(tasks.store.content)) == 2
    assert len(tasks.store) == 4


def test_texts_that_the_model_cannot_read_leave_every_column():
    bad = pl.Series(["bad"])
    retrieval = RetrievalTable(
        RetrievalData(name="r", path="r"),
        pl.DataFrame({"query": ["a", "bad"], "negative": [["bad", "n"], ["m"]], "list": [0, 1]}),
        pl.DataFrame({"query": ["a", "bad"], "positive": [["p", "bad"], ["q"]]}),
        pl.Series(["p", "bad"]),
        pl.DataFrame({"query": ["a", "a"], "passage": ["bad", "p"], "score": [1.0, 2.0]}),
    ).without(bad)
    assert retrieval.rows.rows() == [("a", ["n"], 0)]
    assert retrieval.lists["positive"].to_list() == [["p"], ["q"]]
    assert retrieval.corpus.to_list() == ["p"]
    assert retrieval.scored.rows() == [("a", "p", 2.0)]
    labels = ClassificationTable(
        ClassificationData(name="c", path="c"), pl.DataFrame({"text": ["a", "bad"], "label": [0, 1]})
    )
    assert labels.without(bad).rows.rows() == [("a", 0)]
    pairs = pl.DataFrame({"text_a": ["a", "bad", "a"], "text_b": ["bad", "b", "b"], "score": [1.0, 2.0, 3.0]})
    assert StsTable(StsData(name="s", path="s"), pairs).without(bad).rows.rows() == [("a", "b", 3.0)]
