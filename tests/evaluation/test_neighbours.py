"""What queries find before and after training, and how both stand side by side."""

import json

import pytest

from conan_embed.evaluation.discovery import discover
from conan_embed.evaluation.neighbours import QueryNeighbours, examples_after, examples_before, neighbours
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
    ended = json.loads(json.dumps(examples_after(started, after)))
    assert ended["corpus"] == "Small" and len(ended["queries"]) == 4
    changed = [
        [hit["text"] for hit in q["before"]] != [hit["text"] for hit in q["after"]] for q in ended["queries"]
    ]
    assert changed == sorted(changed, reverse=True) and any(changed)
    # A run that goes on for more steps keeps what the untrained model found.
    queries = {query.query: query for query in after}
    again = examples_after(ended, [queries[query["query"]] for query in ended["queries"]])
    assert again == ended
