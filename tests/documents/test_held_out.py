"""What is held out: groups of what shares a text, whole; and near copies, as a slow comparison of sets finds them."""

import numpy as np
import polars as pl
import pytest

from conan_embed.documents import held_out
from conan_embed.documents.held_out import (
    HeldOutTexts,
    choose_groups,
    connected_groups,
    development_corpus,
    split_pairs,
    write_questions,
)
from conan_embed.filtering.minhash import plain
from tests.support.texts import WORDS


def similarity(one: str, two: str) -> float:
    sets = [{text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in plain(pl.Series([one, two]))]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def texts_with_near_copies(generator: np.random.Generator, count: int) -> list[str]:
    """Texts of twenty words, of which every second is another with some words changed."""
    texts: list[str] = []
    for number in range(count):
        words = generator.choice(WORDS, 20).tolist()
        if number % 2:
            words = texts[generator.integers(len(texts))].split()
            for _ in range(generator.integers(4)):
                words[generator.integers(len(words))] = generator.choice(WORDS)
        texts.append(" ".join(words))
    return texts


def test_near_copies_against_slow_sets():
    texts = texts_with_near_copies(np.random.default_rng(0), 120)
    held, own = texts[:40], [*texts[40:], texts[0].upper() + "!", "", "lamp"]
    found = HeldOutTexts(pl.Series(held)).near(pl.Series(own))
    best = np.array([max(similarity(one, two) for two in held) for one in own])
    assert 10 < found.sum() < 70
    assert (found <= (best >= 0.8)).all()
    # Bands miss a pair at the bound now and then, none well above it.
    assert found[best >= 0.9].all()


def test_nothing_held_out_is_near_nothing():
    assert not HeldOutTexts(pl.Series([], dtype=pl.String)).near(pl.Series(["a text"])).any()


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_connected_by_shared_keys(seed):
    generator = np.random.default_rng(seed)
    unit, key, other = generator.integers(0, (12, 15, 15), (20, 3)).T
    unit = np.unique(unit, return_inverse=True)[1]
    groups = {u: {u} for u in unit.tolist()}
    for keys in (key, other):
        for value in np.unique(keys):
            members = set().union(*(groups[u] for u in unit[keys == value].tolist()))
            groups |= dict.fromkeys(members, members)
    group = connected_groups(unit, pl.Series(key), pl.Series(other))
    for one in range(20):
        for two in range(20):
            assert (group[one] == group[two]) == (int(unit[two]) in groups[int(unit[one])])


def test_shares_of_the_questions_are_held_out():
    group = np.arange(1_000)
    role = choose_groups(group, 1_000, 0.2, seed=0)
    assert [(role == r).sum() for r in (0, 1, 2)] == [800, 60, 140]
    assert not choose_groups(group, 1_000, 0.0, seed=0).any()
    assert (choose_groups(np.arange(100), 100, 0.01, seed=0) > 0).sum() == 30  # a small collection gives 30 %
    large = np.concatenate([np.zeros(500, int), np.arange(1, 501)])
    assert all(choose_groups(large, 501, 0.2, seed)[0] == 0 for seed in range(5))  # too much for one group


def test_documents_stay_whole_and_first_sentences_make_no_questions():
    pairs = pl.DataFrame(
        {
            "document": [i // 10 for i in range(1_000)],
            "section": [i // 2 for i in range(1_000)],
            "query_key": [f"q{i}" for i in range(1_000)],
            "passage_key": [f"p{i // 2}" for i in range(1_000)],
            "kind": ["heading", "sentence"] * 500,
        }
    )
    split = split_pairs(pairs, 0.2, seed=1)
    roles = pairs.with_columns(split.role)
    assert (split.unit, split.num_groups) == ("document", 100)
    held = roles.filter(pl.col("role").is_in(["test", "development"]))
    assert set(held["kind"]) == {"heading"}
    assert len(held) == 150
    assert not set(held["document"]) & set(roles.filter(role="train")["document"])
    assert set(roles.filter(role="none")["kind"]) == {"sentence"}


def test_a_question_with_several_passages_counts_once():
    pairs = pl.DataFrame(
        {
            "document": [i // 40 for i in range(4_000)],
            "section": [i // 4 for i in range(4_000)],
            "query_key": [f"q{i // 4}" for i in range(4_000)],
            "passage_key": [f"p{i}" for i in range(4_000)],
            "kind": ["heading"] * 4_000,
        }
    )
    roles = pairs.with_columns(split_pairs(pairs, 0.2, seed=1).role)
    counts = dict(roles.group_by("role").agg(pl.col("query_key").n_unique()).iter_rows())
    assert counts == {"train": 800, "development": 60, "test": 140}


def test_few_groups_are_shared_out_like_many():
    """Half of the questions hang together; the rest is divided, not spent on development alone."""
    group = np.concatenate([np.zeros(900, int), np.arange(1, 101)])
    role = choose_groups(group, 101, 0.5, seed=0)
    assert [(role == r).sum() for r in (1, 2)] == [30, 70]


def test_written_questions(tmp_path):
    corpus = pl.DataFrame({"doc_id": ["a", "b", "c"], "text": ["A", "B", "C"]})
    corpus.write_parquet(tmp_path / "corpus.parquet")
    pairs = pl.DataFrame({"query": ["x", "y", "x"], "doc_id": ["a", "b", "c"]})
    assert write_questions(tmp_path, "faq", pairs, tmp_path / "corpus.parquet") == 2
    folder = tmp_path / "retrieval/faq"
    queries = dict(pl.read_parquet(folder / "queries.parquet").iter_rows())
    judged = pl.read_parquet(folder / "qrels.parquet")
    found = {(queries[query], doc, score) for query, doc, score in judged.iter_rows()}
    assert found == {("x", "a", 1), ("x", "c", 1), ("y", "b", 1)}
    assert pl.read_parquet(folder / "corpus.parquet").equals(corpus)


def test_the_development_corpus_keeps_answers_and_order(monkeypatch):
    monkeypatch.setattr(held_out, "DEVELOPMENT_PASSAGES", 5)
    corpus = pl.DataFrame({"doc_id": [str(i) for i in range(50)], "text": ["t"] * 50})
    kept = development_corpus(corpus, pl.Series(["40", "3"]), seed=0)["doc_id"].to_list()
    assert len(kept) == 7
    assert {"3", "40"} < {*kept}
    assert kept == sorted(kept, key=int)


def test_a_disk_without_links_gets_a_copy_of_the_corpus(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    corpus = pl.DataFrame({"doc_id": ["d0", "d1"], "text": ["a", "b"]})
    corpus.write_parquet(tmp_path / "corpus.parquet")
    pairs = pl.DataFrame({"query": ["a?"], "doc_id": ["d0"]})
    for _ in range(2):  # a killed run finds the file there
        write_questions(tmp_path, "faq", pairs, tmp_path / "corpus.parquet")
        assert pl.read_parquet(tmp_path / "retrieval/faq/corpus.parquet").equals(corpus)
