"""The store against a dictionary; what makes a new store and what finds the old one."""

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conan_embed.texts.store import TextStoreBuilder

text = st.text(alphabet=st.sampled_from("ab 好天😀\n"), min_size=1, max_size=3)
columns = st.lists(
    st.tuples(st.lists(text, max_size=8), st.sampled_from(["", "q: ", "p: "])), min_size=1, max_size=5
)


class Tokenizer:
    """A token per character; counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, texts):
        self.calls += 1
        lengths = [len(text) for text in texts]
        return np.array([ord(c) for text in texts for c in text], np.int32), np.concatenate(
            [[0], np.cumsum(lengths)]
        )


def build(cache, columns, tokenize=None, fingerprint="f"):
    builder = TextStoreBuilder()
    handles = [builder.add(pl.Series(texts, dtype=pl.String), prompt) for texts, prompt in columns]
    assert handles == list(range(len(columns)))
    return builder.build(cache, tokenize or Tokenizer(), fingerprint=fingerprint)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns.filter(lambda columns: any(texts for texts, _ in columns)))
def test_a_text_is_an_integer(tmp_path, columns):
    store, ids = build(tmp_path, columns)
    id_of: dict[tuple[str, str], int] = {}
    content_of: dict[str, int] = {}
    for (texts, prompt), found in zip(columns, ids, strict=True):
        assert found.dtype == np.int64
        assert len(found) == len(texts)
        for text, text_id in zip(texts, found.tolist(), strict=True):
            # Equal texts under equal prompts, and only they, have one id; equal texts have one content.
            assert id_of.setdefault((text, prompt), text_id) == text_id
            assert content_of.setdefault(text, store.content[text_id]) == store.content[text_id]
            assert store.text(text_id) == text
            start, stop = store.offsets[text_id : text_id + 2]
            assert "".join(map(chr, store.tokens[start:stop])) == prompt + text
    assert sorted(id_of.values()) == list(range(len(store)))
    assert len(set(content_of.values())) == len(content_of)
    assert store.lengths(np.arange(len(store))).tolist() == np.diff(store.offsets).tolist()
    same_hash = {(store.hashes[i], store.content[i]) for i in range(len(store))}
    assert len(same_hash) == len(content_of)


def test_the_second_build_finds_the_first(tmp_path):
    tokenize = Tokenizer()
    columns = [(["好", "b"], "q"), (["c"], "")]
    first, first_ids = build(tmp_path, columns, tokenize)
    calls = tokenize.calls
    assert calls > 0
    second, second_ids = build(tmp_path, columns, tokenize)
    assert tokenize.calls == calls
    assert first.folder == second.folder
    assert [ids.tolist() for ids in first_ids] == [ids.tolist() for ids in second_ids]
    assert second.tokens.tolist() == first.tokens.tolist()


BASE = [(["a", "b"], "q"), (["c"], "p"), (["d", "e"], "q")]


@pytest.mark.parametrize(
    ("columns", "fingerprint"),
    [
        (BASE, "another tokenizer"),
        ([(["a", "x"], "q"), (["c"], "p"), (["d", "e"], "q")], "f"),
        ([(["b", "a"], "q"), (["c"], "p"), (["d", "e"], "q")], "f"),
        ([(["a", "b"], "q"), (["c"], "p"), (["d", "e"], "p")], "f"),
        ([(["a", "b"], "q"), (["c"], "x"), (["d", "e"], "q")], "f"),
        ([(["a", "b"], "p"), (["c"], "q"), (["d", "e"], "p")], "f"),
    ],
)
def test_whatever_changes_tokens_or_ids_makes_another_store(tmp_path, columns, fingerprint):
    base, _ = build(tmp_path, BASE)
    other, _ = build(tmp_path, columns, fingerprint=fingerprint)
    assert other.folder != base.folder


def test_the_same_prompts_in_another_order_make_another_store(tmp_path):
    """Three prompts whose changes fall on the same places: only their names tell the two apart."""
    one, _ = build(tmp_path, [(["a"], "x"), (["b"], "y"), (["c"], "x"), (["d"], "z")])
    two, (_, _, ids, _) = build(tmp_path, [(["a"], "x"), (["b"], "y"), (["c"], "z"), (["d"], "x")])
    assert one.folder != two.folder
    assert chr(two.tokens[two.offsets[ids[0]]]) == "z"


def test_many_batches_of_texts(tmp_path, monkeypatch):
    monkeypatch.setattr("conan_embed.texts.store._TEXTS_PER_BATCH", 7)
    texts = [f"text {i}" for i in range(40)]
    store, (ids,) = build(tmp_path, [(texts, "p")])
    assert [store.text(i) for i in ids] == texts
    assert ["".join(map(chr, store.tokens[store.offsets[i] : store.offsets[i + 1]])) for i in ids] == [
        f"p{text}" for text in texts
    ]


def test_a_half_written_store_is_not_taken_for_a_whole_one(tmp_path):
    class Interrupted(Tokenizer):
        def __call__(self, texts):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, BASE, Interrupted())
    assert not list(tmp_path.glob("texts/*"))
    store, _ = build(tmp_path, BASE)
    assert len(store) == 5
