"""Files become tasks: sets of positives, negatives that are none, classes as positives, titles of passages."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.errors import UserError
from conan_embed.recipes.data import ClassificationData, Data, RetrievalData
from conan_embed.texts.loading import load_tasks

PROMPTS = {"query": "q: ", "passage": "p: ", "sts": "s: "}


def tokenize(texts):
    lengths = [len(text) for text in texts]
    return np.array([ord(c) for text in texts for c in text], np.int32), np.concatenate(
        [[0], np.cumsum(lengths)]
    )


class Folder:
    """A folder of JSON lines files and the tasks read from it."""

    def __init__(self, path):
        self.path = path

    def write(self, name, rows):
        path = self.path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    def load(self, with_scores=False, **data):
        cache = self.path / "cache"
        return load_tasks(
            Data(**data), PROMPTS, tokenize, fingerprint="", cache=cache, with_scores=with_scores
        )

    def retrieval(self, rows, corpus=None, **settings):
        if corpus is not None:
            settings["corpus"] = self.write("corpus", corpus)
        settings = {"name": "r", "path": self.write("r", rows), **settings}
        tasks = self.load(retrieval=[RetrievalData(**settings)])
        return tasks.store, tasks.retrieval[0]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def texts(store, ids):
    return [store.text(int(i)) for i in ids]


def prompted(store, text_id):
    start, stop = store.offsets[text_id : text_id + 2]
    return "".join(map(chr, store.tokens[start:stop]))


def test_several_positives_and_duplicate_queries_are_one_set(folder):
    store, found = folder.retrieval(
        [
            {"query": "a", "positive": ["1", "2"], "negative": ["9", "8"]},
            {"query": "b", "positive": ["3"], "negative": []},
            {"query": "a", "positive": ["2", "4"], "negative": ["1", "9", "a"]},
        ]
    )
    assert len(found) == 3
    assert texts(store, found.query_Q) == ["a", "b", "a"]
    positives = [texts(store, found.positives[i]) for i in found.list_Q]
    assert positives == [["1", "2", "4"], ["3"], ["1", "2", "4"]]
    # "1" is a known positive of "a" by its first row, and "a" is the query itself.
    assert [texts(store, found.given[i]) for i in range(3)] == [["9", "8"], [], ["9"]]
    assert sorted(texts(store, found.passages)) == ["1", "2", "3", "4", "8", "9", "a"]
    assert prompted(store, found.query_Q[0]) == "q: a"
    assert {
        prompted(store, i)[:3] for i in (*found.positives.values, *found.given.values, *found.passages)
    } == {"p: "}


def test_the_query_is_no_positive_of_itself(folder, capsys):
    store, found = folder.retrieval(
        [
            {"query": "a", "positive": ["a", "1"]},
            {"query": "b", "positive": ["b"]},
            {"query": "c", "positive": ["2"]},
        ]
    )
    assert texts(store, found.query_Q) == ["a", "c"]
    assert [texts(store, found.positives[i]) for i in found.list_Q] == [["1"], ["2"]]
    assert "left out 1 queries" in " ".join(capsys.readouterr().err.split())


def test_nothing_but_queries_as_positives_is_refused(folder):
    with pytest.raises(UserError, match="expected positives that are other texts"):
        folder.retrieval([{"query": "a", "positive": ["a"]}])


def test_an_answer_in_another_data_set_is_no_negative(folder):
    """Query "a" stands in three data sets (in one as a text of a class): what answers it in one is masked in all."""
    files = {
        "r": [{"query": "a", "positive": "1", "negative": ["2", "x", "5"]}, {"query": "b", "positive": "3"}],
        "s": [
            {"query": "c", "positive": "4"},
            {"query": "a", "positive": ["2", "4"], "negative": ["1", "y"]},
        ],
    }
    sets = [RetrievalData(name=name, path=folder.write(name, rows)) for name, rows in files.items()]
    classes = folder.write("c", [{"text": t, "label": label} for t, label in ("a0", "50", "60", "71", "81")])
    tasks = folder.load(retrieval=sets, classification=[ClassificationData(name="c", path=classes)])
    first, second, labelled = tasks.retrieval
    assert [texts(tasks.store, first.given[i]) for i in range(2)] == [["x"], []]
    assert [texts(tasks.store, second.given[i]) for i in range(2)] == [[], ["y"]]

    def known(data, row):
        everything = np.arange(len(tasks.store))
        is_known = data.known_positives(tasks.store).contains(np.full(len(everything), row), everything)
        return set(texts(tasks.store, everything[is_known]))

    answers = {"a", "1", "2", "4", "5", "6"}
    assert known(first, 0) == known(second, 1) == known(labelled, 0) == answers
    assert (known(first, 1), known(second, 0)) == ({"b", "3"}, {"c", "4"})
    assert known(labelled, 3) == {"7", "8"}


@pytest.mark.parametrize("source", ["mined", "random"])
def test_a_corpus_is_what_is_mined_from(folder, source):
    store, found = folder.retrieval(
        [{"query": "a", "positive": ["1"], "negative": ["9"]}],
        corpus=[{"doc_id": "x", "text": "5"}, {"doc_id": "y", "text": "1"}],
        negative_source=source,
    )
    assert sorted(texts(store, found.passages)) == ["1", "5"]


@pytest.mark.parametrize("source", ["given", "none"])
def test_a_corpus_that_nothing_is_mined_from_is_not_read(folder, source):
    _, found = folder.retrieval([{"query": "a", "positive": ["1"]}], corpus=[], negative_source=source)
    assert len(found.passages) == 1


# ------------------------------------------------------------------------------- texts that are read alike


def tokenize_words(texts):
    """A token per word, in lower case, between two special tokens; at most eight, after a prompt of one."""
    rows = [[*[1, *(sum(map(ord, word)) for word in text.lower().split())][:7], 2] for text in texts]
    return np.array([t for row in rows for t in row], np.int32), np.cumsum([0, *map(len, rows)])


def count_words(texts):
    return np.array([len(text.split()) + 2 for text in texts])


@pytest.fixture
def cut(folder):
    """A folder whose texts are read in lower case and cut."""

    def load(**data):
        return load_tasks(
            Data(**data),
            PROMPTS,
            tokenize_words,
            fingerprint="words",
            cache=folder.path / "cache",
            count_tokens=count_words,
        )

    folder.load = load
    return folder


def test_queries_that_are_read_alike_share_their_positives(cut):
    store, dataset = cut.retrieval(
        [
            {"query": "What now", "positive": "one"},
            {"query": "other", "positive": ["ONE", "one", "three"]},
            {"query": "what  now", "positive": ["two", "Two"], "negative": ["One", "TWO", "four"]},
        ]
    )
    assert texts(store, dataset.query_Q) == ["What now", "other", "what  now"]
    assert [texts(store, dataset.positives[i]) for i in dataset.list_Q] == [
        ["one", "two"],
        ["one", "three"],
        ["one", "two"],
    ]
    assert texts(store, dataset.given[2]) == ["four"]
    # Of passages that are read alike one is there to be mined.
    assert sorted(text.lower() for text in texts(store, dataset.passages)) == ["four", "one", "three", "two"]


SPELLINGS = st.tuples(st.integers(0, 5), st.sampled_from(["w{}", "W{}", "w{} ", " W{}"])).map(
    lambda drawn: drawn[1].format(drawn[0])
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "query": st.sampled_from(["q0", "Q0", "q1", "w0"]),
            "positive": st.lists(SPELLINGS, min_size=1, max_size=3).map(lambda texts: [*texts, "answer"]),
            "negative": st.lists(SPELLINGS, max_size=4),
        }
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.none() | st.lists(SPELLINGS, min_size=1, max_size=4))
def test_one_id_for_each_content_and_every_positive_is_a_passage(tmp_path_factory, rows, corpus):
    """Whatever the spellings: the ids of passages, positives and given negatives name each content once."""
    folder = Folder(tmp_path_factory.mktemp("spellings"))
    files = {"path": folder.write("r", rows)}
    if corpus is not None:
        files["corpus"] = folder.write("c", [{"text": text} for text in corpus])
    data = Data(retrieval=[RetrievalData(name="r", **files)])
    tasks = load_tasks(data, PROMPTS, tokenize_words, fingerprint="words", cache=folder.path / "cache")
    store, (dataset,) = tasks.store, tasks.retrieval

    def read(text):
        return " ".join(text.lower().split())

    positives, given_ids = dataset.positives.values, dataset.given.values
    assert set(positives.tolist()) <= set(dataset.passages.tolist())
    assert dataset.passages.tolist() == sorted(set(dataset.passages.tolist()))
    everything = {*dataset.passages.tolist(), *positives.tolist(), *given_ids.tolist()}
    assert len({read(text) for text in texts(store, everything)}) == len(everything)
    assert set(store.tokens[store.offsets[sorted(everything)] + 1].tolist()) == {sum(map(ord, "p:"))}
    # And they are still those of the file, as the model reads them.
    written = [[read(text) for text in row["negative"]] for row in rows]
    answers = {
        read(row["query"]): {
            read(text)
            for other in rows
            if read(other["query"]) == read(row["query"])
            for text in other["positive"]
        }
        for row in rows
    }
    for number, row in enumerate(rows):
        query = read(row["query"])
        assert {read(t) for t in texts(store, dataset.positives[dataset.list_Q[number]])} == answers[
            query
        ] - {query}
        expected = [text for text in written[number] if text not in answers[query] | {query}]
        assert [read(text) for text in texts(store, dataset.given[number])] == expected


def test_a_positive_that_is_read_like_its_query_is_none(cut, capsys):
    long = "one two three four five six"
    store, dataset = cut.retrieval(
        [
            {"query": "How so", "positive": ["how SO", "because"]},
            {"query": "alone", "positive": "Alone"},
            {"query": long, "positive": long + " and more of it"},
            {"query": "last", "positive": "least"},
        ]
    )
    assert texts(store, dataset.query_Q) == ["How so", "last"]
    assert [texts(store, dataset.positives[i]) for i in dataset.list_Q] == [["because"], ["least"]]
    assert "left out 2 queries whose only positive is read like" in capsys.readouterr().err


def test_known_positives_beyond_the_cut_are_no_negatives(cut):
    start = "our shop and what you may expect "
    store, dataset = cut.retrieval(
        [
            {"query": "shoes", "positive": start + "shoes", "negative": [start + "hats", "x"]},
            {"query": "hats", "positive": start + "hats"},
        ]
    )
    assert texts(store, dataset.given[0]) == ["x"]
    assert dataset.known_positives(store).contains(np.array([0, 1]), dataset.positives.values).all()


def test_labels_of_texts_that_are_read_alike_count_for_both(cut):
    rows = [("x", "Good"), ("y", "good"), ("x", "bad"), ("y", "worse"), ("z", "p"), ("z", "q"), ("x", "BAD")]
    path = cut.write("c", [{"label": label, "text": text} for label, text in rows])
    tasks = cut.load(classification=[ClassificationData(name="c", path=path)])
    (dataset,) = tasks.retrieval
    assert texts(tasks.store, dataset.query_Q) == ["Good", "bad", "worse", "p", "q"]
    positives = [texts(tasks.store, dataset.positives[i]) for i in dataset.list_Q]
    assert positives == [["Good", "bad", "worse"], ["Good", "bad"], ["Good", "worse"], ["p", "q"], ["p", "q"]]


def test_it_is_printed_how_much_is_cut(cut, capsys):
    cut.retrieval([{"query": "short", "positive": "w " * 12}, {"query": "q " * 6, "positive": "just enough"}])
    total = 4 + 15 + 9 + 5  # with prompts and special tokens; 15 and 9 are more than 8
    assert (
        f"2 of 4 texts are longer than 8 tokens and are cut there: {8 / total:.1%} of all"
        in capsys.readouterr().err
    )
    cut.retrieval([{"query": "a", "positive": "b"}])
    assert "cut" not in capsys.readouterr().err


def test_a_text_of_which_the_tokenizer_leaves_nothing_is_a_bad_row(folder, capsys):
    def load(on_bad_row, rows):
        path = folder.write("r", rows)
        data = Data(retrieval=[RetrievalData(name="r", path=path)], on_bad_row=on_bad_row)
        return load_tasks(data, PROMPTS, drop_emoji, fingerprint=on_bad_row, cache=folder.path / "cache")

    def drop_emoji(texts):
        return tokenize([text.replace("😀", "") for text in texts])

    bad_query = [{"query": "a", "positive": "1"}, {"query": "😀", "positive": "2"}]
    bad_positive = [
        {"query": "a", "positive": ["1", "😀😀"], "negative": ["😀"]},
        {"query": "b", "positive": ["2", "3"]},
    ]
    with pytest.raises(UserError, match=r"r.jsonl: line 2: column 'query': found the text '😀', of which"):
        load("error", bad_query)
    with pytest.raises(UserError, match=r"r.jsonl: line 1: column 'positive': found the text '😀😀'"):
        load("error", bad_positive)
    tasks = load("drop", bad_query)
    assert texts(tasks.store, tasks.retrieval[0].query_Q) == ["a"]
    assert "dropped 1 texts that the model cannot read; the first is" in capsys.readouterr().err
    tasks = load("drop", bad_positive)
    (dataset,) = tasks.retrieval
    assert [texts(tasks.store, dataset.positives[i]) for i in dataset.list_Q] == [["1"], ["2", "3"]]
    assert len(dataset.given.values) == 0
