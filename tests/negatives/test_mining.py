"""Rankings against a loop over queries and passages; files of rankings; random passages."""

import json
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.negatives import mining
from conan_embed.negatives.mining import mine, random_ranking, rank
from conan_embed.negatives.rankings import NONE, padded, without_repeats
from conan_embed.recipes.data import Data, RetrievalData
from conan_embed.recipes.sections import Mining
from conan_embed.search.exact import top_k
from conan_embed.texts.loading import load_tasks
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStoreBuilder
from conan_embed.texts.tasks import RetrievalDataset


def tokenize(texts):
    """One token a text, other texts other tokens."""
    tokens = np.array([zlib.crc32(text.encode()) & 0x7FFFFFFF for text in texts], np.int32)
    return tokens, np.arange(len(texts) + 1)


def make_set(cache, queries, positives, passages, *, others=(), name="set"):
    """A data set: `positives[i]` are the texts that answer query i; `others` are texts of other data sets."""
    builder = TextStoreBuilder()
    columns = [others, queries, [text for row in positives for text in row], passages]
    for texts, prompt in zip(columns, ("", "q", "p", "p"), strict=True):
        builder.add(pl.Series(list(texts), dtype=pl.String), prompt)
    store, (_, query_Q, positive, passage) = builder.build(cache, tokenize, fingerprint="")
    data = RetrievalDataset(
        name,
        query_Q,
        np.arange(len(queries)),
        Ragged.of_lengths(positive, np.array([len(row) for row in positives])),
        Ragged.empty(len(queries)),
        np.unique(np.concatenate([positive, passage])),
        "mined",
        None,
        None,
    )
    return data, store


def embeddings(store, seed=0, width=8):
    """One fixed random unit vector for each text id."""
    vectors = torch.randn(len(store), width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def embed_from(vectors):
    return lambda text_ids, description: vectors[torch.from_numpy(text_ids)]


@st.composite
def data_sets(draw):
    """Few words, so that queries are passages, positives are shared and queries are repeated."""
    words = st.sampled_from([f"w{i}" for i in range(25)])
    queries = draw(st.lists(words, min_size=1, max_size=6))
    # Equal queries share their positives, as in tasks.py; a query is not the only positive of itself.
    of_query = {
        query: [*draw(st.lists(words, max_size=4, unique=True)), f"answer {query}"] for query in set(queries)
    }
    return queries, [of_query[query] for query in queries], draw(st.lists(words, max_size=25))


@settings(max_examples=60)
@given(
    data_sets(),
    st.integers(1, 12),
    st.integers(0, 3),
    st.sampled_from([None, 0.5, 0.95]),
    st.booleans(),
    st.sampled_from([0, 0, 1, 5]),
    st.integers(0, 99),
)
def test_rankings(tmp_path_factory, texts, depth, offset, max_positive_ratio, relative, min_usable, seed):
    data, store = make_set(tmp_path_factory.getbasetemp() / "cache", *texts)
    vectors = embeddings(store, seed)
    chosen = Mining(
        depth=depth,
        offset=offset,
        max_positive_ratio=max_positive_ratio,
        subtract_background=relative,
        min_usable=min_usable,
        precision="float32",
    )
    found = mine(data, store, embed_from(vectors), chosen)
    pairs = [(q, i) for q in np.unique(data.query_Q) for i in data.passages]
    background = np.mean([float(vectors[q].double() @ vectors[i].double()) for q, i in pairs])
    assert found.background == pytest.approx(background, abs=1e-6)
    background = background if relative else 0
    width = min(depth + offset, len(data.passages))
    assert found.ids_QK.shape == found.scores_QK.shape == (len(data), width)
    assert found.ids_QK.dtype == np.int32
    removed = {}
    for row, query in enumerate(data.query_Q):
        positives = {store.text(i) for i in data.positives[row]}
        score = {int(i): float(vectors[query].double() @ vectors[i].double()) for i in data.passages}
        best = max(score[i] for i in data.positives[row] if store.text(i) != store.text(query))
        allowed = [i for i in score if store.text(i) not in positives | {store.text(query)}]
        expected = sorted(allowed, key=lambda i: -score[i])[:width]
        if max_positive_ratio is not None:
            bound = background + max_positive_ratio * (best - background)
            removed[query] = sum(score[i] >= bound for i in expected)
            expected = [i for i in expected if score[i] < bound]
            wanted = min(offset + min_usable, width)
            if min_usable and len(expected) < wanted:
                # Searched again: the first ranks under the bound, as far as the data set has them.
                expected = [i for i in sorted(allowed, key=lambda i: -score[i]) if score[i] < bound][:width]
        assert found.ids_QK[row].tolist() == expected + [NONE] * (width - len(expected))
        np.testing.assert_allclose(
            found.scores_QK[row, : len(expected)], [score[i] for i in expected], atol=1e-6
        )
        assert np.isneginf(found.scores_QK[row, len(expected) :]).all()
        assert found.positive_Q[row] == pytest.approx(best, abs=1e-6)
    assert found.bounded_out == sum(removed.values())
    np.testing.assert_array_equal(found.usable(offset).ids_QK, found.ids_QK[:, offset:])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("relative", [False, True])
def test_ranks_under_a_bound_far_down_are_found_without_a_deeper_search(
    tmp_path, monkeypatch, precision, relative
):
    """The answer of a query is the least like it: nearly the whole collection lies above the bound."""
    queries = [f"q{i}" for i in range(6)]
    data, store = make_set(tmp_path, queries, [[f"p{i}"] for i in range(6)], [f"w{i}" for i in range(3000)])
    vectors = embeddings(store, width=16).clone()
    shared = torch.nn.functional.normalize(torch.ones(16), dim=0)
    vectors = torch.nn.functional.normalize(
        vectors + shared, dim=1
    )  # all cosines lie high, as some models' do
    depths = []

    def noted(queries, corpus, k, **arguments):
        depths.append(k)
        return top_k(queries, corpus, k, **arguments)

    monkeypatch.setattr(mining, "top_k", noted)
    chosen = Mining(
        depth=30,
        offset=3,
        max_positive_ratio=0.9,
        subtract_background=relative,
        min_usable=20,
        precision=precision,
    )
    cosine_QM = (vectors[data.query_Q].double() @ vectors[data.passages].double().T).numpy()
    least_Q = data.passages[np.argsort(cosine_QM, axis=1)[np.arange(6), [5, 200, 1500, 2500, 2900, 2990]]]
    data = replace(data, positives=Ragged.of_lengths(least_Q, np.ones(6, np.int64)))
    found = mine(data, store, embed_from(vectors), chosen)

    background = cosine_QM.mean() if relative else 0.0
    short = 0
    for row, query in enumerate(data.query_Q):
        score = dict(zip(data.passages.tolist(), cosine_QM[row].tolist(), strict=True))
        bound = background + 0.9 * (score[least_Q[row]] - background)
        order = sorted((i for i in score if i != least_Q[row] and i != query), key=lambda i: -score[i])
        usable = [i for i in order[:33] if score[i] < bound]
        if len(usable) < 23:
            short += 1
            usable = [i for i in order if score[i] < bound][:33]
        assert [i for i in found.ids_QK[row].tolist() if i != NONE] == usable
    assert short >= 4
    assert max(depths) == 33  # the search goes on below the bound; it holds no more ranks than are kept
    assert len(depths) == 2


def test_some_queries_are_ranked_as_all_are(tmp_path):
    queries = [f"q{i}" for i in range(9)]
    data, store = make_set(tmp_path, queries, [[f"p{i}"] for i in range(9)], [f"w{i}" for i in range(40)])
    vectors = embeddings(store)
    chosen = Mining(depth=5, offset=2, max_positive_ratio=0.9, precision="float32")
    whole = mine(data, store, embed_from(vectors), chosen)
    rows = np.array([7, 2, 3])
    part = rank(data, store, rows, vectors[data.query_Q[rows]], vectors[data.passages], chosen)
    np.testing.assert_array_equal(part.ids_QK, whole.ids_QK[rows])
    np.testing.assert_allclose(part.positive_Q, whole.positive_Q[rows], atol=1e-6)


class OnApple(torch.Tensor):
    """In main memory, but says that it is on an Apple GPU until it is copied back."""

    device = torch.device("mps")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_beside_an_apple_gpu_the_search_runs_on_the_cpu(tmp_path):
    queries = [f"q{i}" for i in range(9)]
    data, store = make_set(tmp_path, queries, [[f"p{i}"] for i in range(9)], [f"w{i}" for i in range(40)])
    vectors, rows = embeddings(store), np.arange(9)
    query_ND, passage_MD = vectors[data.query_Q], vectors[data.passages]
    chosen = Mining(depth=5, offset=2, max_positive_ratio=0.9, precision="float32")
    expected = rank(data, store, rows, query_ND, passage_MD, chosen)
    found = rank(data, store, rows, query_ND.as_subclass(OnApple), passage_MD, chosen)
    np.testing.assert_array_equal(found.ids_QK, expected.ids_QK)
    np.testing.assert_array_equal(found.positive_Q, expected.positive_Q)


def test_a_text_of_a_class_is_not_its_own_best_positive(tmp_path):
    """Classes as positives: the bound is taken from the other texts of the class."""
    data, store = make_set(tmp_path, ["a", "b"], [["a", "b"], ["a", "b"]], ["c"])
    vectors = embeddings(store)
    found = mine(data, store, embed_from(vectors), Mining(depth=3, offset=0, precision="float32"))
    passage = {store.text(i): vectors[i] for i in data.passages}
    expected = [
        float(vectors[data.query_Q[0]] @ passage["b"]),
        float(vectors[data.query_Q[1]] @ passage["a"]),
    ]
    np.testing.assert_allclose(found.positive_Q, expected, atol=1e-6)


class Contents:
    """Of a store its contents: all texts differ."""

    def __init__(self, size):
        self.content = np.arange(size)

    def __len__(self):
        return len(self.content)


def labelled_texts(labels):
    """A data set of classes; `labels[i]` are those of text i, and it has the texts that share one as positives."""
    kinds = sorted({tuple(sorted(each)) for each in labels})
    members = [np.array([i for i, each in enumerate(labels) if set(each) & set(kind)]) for kind in kinds]
    ids = np.arange(len(labels))
    lists = Ragged.of_lengths(np.concatenate(members), np.array([len(each) for each in members]))
    list_Q = np.array([kinds.index(tuple(sorted(each))) for each in labels])
    return RetrievalDataset(
        "c", ids, list_Q, lists, Ragged.empty(len(ids)), ids, "mined", None, None, has_labels=True
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_texts_of_no_own_class_are_ranked_whatever_the_classes(precision):
    """Classes of half of the texts and of a few, and texts of several classes, against a loop over pairs."""
    generator = np.random.default_rng(0)
    labels = [{int(generator.choice(6, p=[0.45, 0.4, 0.05, 0.04, 0.03, 0.03]))} for _ in range(300)]
    for i in range(0, 300, 7):
        labels[i].add(int(generator.integers(6)))
    data, vectors = labelled_texts(labels), embeddings(range(300), width=16)
    chosen = Mining(depth=40, offset=0, precision=precision)
    found = rank(data, Contents(300), np.arange(300), vectors, vectors, chosen)
    scores = (vectors.double() @ vectors.double().T).numpy()
    for i in range(300):
        others = [j for j in range(300) if not labels[i] & labels[j]]
        expected = sorted(others, key=lambda j: -scores[i, j])[:40]
        assert found.ids_QK[i].tolist() == expected + [NONE] * (40 - len(expected))
        positives = [j for j in range(300) if labels[i] & labels[j] and j != i][:20]
        assert found.positive_Q[i] == pytest.approx(max(scores[i, j] for j in positives), abs=1e-6)


def test_memory_for_classes_grows_with_the_texts_and_not_with_their_pairs():
    size = 3000
    data, vectors = labelled_texts([{i % 2} for i in range(size)]), embeddings(range(size))
    rank(data, Contents(size), np.arange(4), vectors[:4], vectors, Mining(depth=5, offset=0))
    tracemalloc.start()
    rank(data, Contents(size), np.arange(size), vectors, vectors, Mining(depth=5, offset=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size * size / 2  # a byte for each pair of a text and another of its class


def tokenize_lower(texts):
    """A token per word, whatever its case."""
    rows = [[zlib.crc32(word.encode()) & 0x7FFFFFFF for word in text.lower().split()] for text in texts]
    return np.array([t for row in rows for t in row], np.int32), np.cumsum([0, *map(len, rows)])


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 0, 1]])
def test_the_bound_is_taken_from_a_positive_in_another_spelling(tmp_path, order):
    """Positives that are read alike are one passage; its score is the positive's, for each of their queries."""
    pairs = [("one", "Yes."), ("two", "yes."), ("three", "zebra crossing"), ("four", "YES.")]
    rows = [{"query": pairs[i][0], "positive": pairs[i][1], "negative": [f"n{i}", f"N{i}"]} for i in order]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = load_tasks(
        Data(retrieval=[RetrievalData(name="set", path=str(path))]),
        {"query": "", "passage": "", "sts": ""},
        tokenize_lower,
        fingerprint="lower",
        cache=tmp_path / "cache",
    )
    (data,), store = tasks.retrieval, tasks.store
    of_content = embeddings(range(int(store.content.max()) + 1))
    vectors = of_content[torch.from_numpy(store.content.copy())]
    found = mine(data, store, embed_from(vectors), Mining(depth=9, offset=0, precision="float32"))
    read = {store.text(i).lower(): vectors[i].double() for i in range(len(store))}
    expected = [float(read[pairs[i][0]] @ read[pairs[i][1].lower()]) for i in order]
    np.testing.assert_allclose(found.positive_Q, expected, atol=1e-6)
    # The file's own negatives before the mined ones: a content stands once in a row.
    ids = np.concatenate([padded(data.given), found.ids_QK], axis=1)
    ids, _ = without_repeats(ids, ids.astype(np.float32))
    for number, row in enumerate(ids.tolist()):
        negatives = [store.text(text).lower() for text in row if text != NONE]
        answer = pairs[order[number]][1].lower()
        assert negatives[0] == f"n{order[number]}"
        assert sorted(negatives) == sorted({"yes.", "zebra crossing", "n0", "n1", "n2", "n3"} - {answer})


# ------------------------------------------------------------------------------------------------------ random


@settings(max_examples=40)
@given(data_sets(), st.integers(1, 40), st.integers(0, 5))
def test_random_passages_are_no_answers_and_no_repetitions(tmp_path_factory, texts, depth, seed):
    data, store = make_set(tmp_path_factory.getbasetemp() / "cache", *texts)
    found = random_ranking(data, store, depth=depth, seed=seed)
    assert found.shape == (len(data), depth)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, random_ranking(data, store, depth=depth, seed=seed))
    for row, query in enumerate(data.query_Q):
        answers = {store.text(i) for i in data.positives[row]} | {store.text(query)}
        drawn = [int(i) for i in found[row] if i != NONE]
        assert found[row, : len(drawn)].tolist() == drawn  # NONE stands at the end only
        assert len(set(drawn)) == len(drawn)
        assert not {store.text(i) for i in drawn} & answers
        assert set(drawn) <= set(data.passages.tolist())
        others = sum(store.text(i) not in answers for i in data.passages)
        if len(data.passages) <= 4 * depth:
            assert len(drawn) == min(depth, others)


def test_random_passages_of_a_large_collection_are_many_even_and_drawn_in_blocks(tmp_path, monkeypatch):
    queries = [f"q{i}" for i in range(300)]
    data, store = make_set(tmp_path, queries, [["p"]] * 300, [f"w{i}" for i in range(200)])
    monkeypatch.setattr("conan_embed.negatives.mining._RANDOM_ROWS", 64)
    found = random_ranking(data, store, depth=20, seed=0)
    assert (found != NONE).mean() > 0.99
    counts = np.bincount(found[found != NONE], minlength=len(store))[data.passages]
    answer = [store.text(i) == "p" for i in data.passages]
    assert counts[answer] == 0
    # Each of the other 200 is expected 30 times; five sigma.
    assert np.abs(counts[~np.array(answer)] - 30).max() < 5 * np.sqrt(30)
    assert len({tuple(row) for row in found}) == 300
    assert (random_ranking(data, store, depth=20, seed=1) != found).mean() > 0.9


@pytest.mark.parametrize("share", [0.9, 0.97, 0.99])
def test_a_text_of_a_large_class_gets_as_many_random_negatives_as_there_are(share, monkeypatch):
    """However few the others are, each query has the depth, or all texts of other classes."""
    size, depth = 2000, 30
    largest = int(share * size)
    data = labelled_texts(
        [{0} if i < largest else {1, 2} if i % 5 == 0 else {1 + i % 2} for i in range(size)]
    )
    monkeypatch.setattr(mining, "_RANDOM_ROWS", 512)
    found = random_ranking(data, Contents(size), depth=depth, seed=0)
    classes = [set(data.positives[number].tolist()) for number in range(len(data.positives))]
    for i in range(size):
        drawn = [text for text in found[i].tolist() if text != NONE]
        own = classes[data.list_Q[i]]
        assert len(set(drawn)) == len(drawn) == min(depth, size - len(own))
        assert not own & set(drawn)
    # The others come equally often: five sigma.
    counts = np.bincount(found[:largest][found[:largest] != NONE], minlength=size)[largest:]
    expected = largest * min(depth, size - largest) / (size - largest)
    assert np.abs(counts - expected).max() <= 5 * np.sqrt(expected)
    np.testing.assert_array_equal(found, random_ranking(data, Contents(size), depth=depth, seed=0))


def test_a_draw_is_that_of_one_call_where_no_row_is_short(tmp_path):
    queries = [f"q{i}" for i in range(50)]
    data, store = make_set(tmp_path, queries, [["p"]] * 50, [f"w{i}" for i in range(200)])
    found = random_ranking(data, store, depth=20, seed=3)
    generator = np.random.default_rng([3, 50, len(data.passages)])
    drawn = data.passages[generator.integers(len(data.passages), size=(50, 40))]
    answer = data.positives[0][0]
    for row in range(50):
        assert found[row].tolist() == [t for t in dict.fromkeys(drawn[row].tolist()) if t != answer][:20]


def test_a_bound_leaves_classes_alone(tmp_path):
    """A text of another class is no answer, however near: the nearest ones are the hardest true negatives."""
    texts = [f"t{i}" for i in range(20)]
    data, store = make_set(tmp_path, texts, [texts[i % 2 :: 2] for i in range(20)], [])
    embed, bounded = embed_from(embeddings(store)), Mining(max_positive_ratio=0.2, precision="float32")
    free = mine(data, store, embed, bounded.model_copy(update={"max_positive_ratio": None}))
    classes = mine(replace(data, has_labels=True), store, embed, bounded)
    assert np.array_equal(classes.ids_QK, free.ids_QK) and classes.bounded_out == 0
    assert not np.array_equal(mine(data, store, embed, bounded).ids_QK, free.ids_QK)
