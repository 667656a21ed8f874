"""What queries find before and after training, and how both stand side by side."""

import json

import pytest

from conan_embed.evaluation.discovery import discover
from conan_embed.evaluation.neighbours import (
    Neighbour,
    QueryNeighbours,
    examples_after,
    examples_before,
    neighbours,
)
from tests.support.evaluation_fakes import BagOfWords, small_tables, write_tables


@pytest.fixture
def task(tmp_path):
    return next(task for task in discover(write_tables(tmp_path, small_tables())) if task.type == "retrieval")


def test_neighbours_are_the_nearest_documents(task):
    found = neighbours(BagOfWords(), task, queries=5, k=4)
    tables = small_tables()
    texts = [row["text"] for row in tables["retrieval/Small/queries"]]
    assert [query.query for query in found] == [texts[i] for i in (0, 4, 9, 14, 19)]
    documents = [f"{row['title']} {row['text']}".strip() for row in tables["retrieval/Small/corpus"]]
    model = BagOfWords()
    vectors = model.encode(documents, prompt="tell: ").astype(float)
    for query in found:
        scores = vectors @ model.encode([query.query], prompt="ask: ")[0]
        assert [hit.score for hit in query.found] == pytest.approx(sorted(scores, reverse=True)[:4], abs=1e-6)
        for hit in query.found:
            assert hit.score == pytest.approx(scores[documents.index(hit.text)], abs=1e-6)
            assert hit.relevant <= (hit.text in query.relevant)  # another document may have the same text
    relevant = {row["doc_id"] for row in tables["retrieval/Small/qrels"] if row["query_id"] == "q9"}
    assert sorted(found[2].relevant) == sorted(documents[int(name[1:])] for name in relevant)


def test_examples_show_what_changed_first(task):
    before, after = (neighbours(BagOfWords(keep=width), task, queries=4, k=2) for width in (3, 32))
    assert [QueryNeighbours.from_json(query.to_json()) for query in before] == before
    started = json.loads(json.dumps(examples_before("Small", before)))
    ended = json.loads(json.dumps(examples_after(started, "Small", after)))
    assert ended["corpus"] == "Small" and len(ended["queries"]) == 4
    changed = [
        [hit["text"] for hit in q["before"]] != [hit["text"] for hit in q["after"]] for q in ended["queries"]
    ]
    assert changed == sorted(changed, reverse=True) and any(changed)


def hits(query, *texts):
    return QueryNeighbours(query, ["wanted"], [Neighbour(text, 0.5, False) for text in texts])


def test_each_query_keeps_its_own_hits_however_often_the_model_is_evaluated():
    """The file puts changed queries first, and evaluation does not; a later look must not mix the two orders up."""
    examples = examples_before("Small", [hits("one", "a"), hits("two", "b"), hits("three", "c")])
    for changed in ("two", "three", "one", "two"):
        after = [
            hits(query, f"new {query}" if query == changed else text)
            for query, text in (("one", "a"), ("two", "b"), ("three", "c"))
        ]
        examples = json.loads(json.dumps(examples_after(examples, "Small", after)))
        shown = {q["query"]: (q["before"][0]["text"], q["after"][0]["text"]) for q in examples["queries"]}
        unchanged = {"one": ("a", "a"), "two": ("b", "b"), "three": ("c", "c")}
        assert shown == {**unchanged, changed: (unchanged[changed][0], f"new {changed}")}
        assert examples["queries"][0]["query"] == changed


def test_a_changed_development_set_is_shown_with_what_was_seen_before():
    examples = examples_before("Small", [hits("one", "a"), hits("two", "b")])
    more = examples_after(examples, "Small", [hits("new", "n"), hits("two", "B"), hits("three", "c")])
    assert [(q["query"], [hit["text"] for hit in q["before"]]) for q in more["queries"]] == [
        ("two", ["b"]),
        ("new", []),
        ("three", []),
    ]
    other = examples_after(examples, "Other", [hits("two", "B")])
    assert (other["corpus"], other["queries"][0]["before"]) == ("Other", [])
