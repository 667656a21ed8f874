"""Searching a file: the answers are those of the definition, and a corpus is encoded once."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.search import index
from conan_embed.search.index import SHOWN_LINES, Hit, search, show

PASSAGES = [
    "逐行读取文件，就不会占用太多内存。",
    "北京是中华人民共和国的首都。",
    "The weather is nice today, let us walk in the park.",
    "Deep learning models need a lot of training data.",
    "这家餐厅的菜很好吃，价格也不贵。",
    "好",
]
QUERIES = ["如何用 Python 读取一个很大的文件？", "Where shall we walk?", "a capital city"]


@pytest.fixture
def model(tiny_model, tmp_path):
    tiny_model("bert", prompts={"query": "query: ", "passage": "passage: "}).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def corpus(tmp_path):
    """Write passages to a JSON lines file and return its path."""

    def write(texts=PASSAGES, name="corpus.jsonl", first_id=0):
        path = tmp_path / name
        rows = [{"doc_id": f"d{first_id + place}", "text": text} for place, text in enumerate(texts)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def encoded(monkeypatch):
    """The texts that models encoded so far, with their prompts."""
    texts = []
    encode = EmbeddingModel.encode

    def spy(self, batch, *, prompt="", **settings):
        texts.extend(prompt + text for text in batch)
        return encode(self, batch, prompt=prompt, **settings)

    monkeypatch.setattr(EmbeddingModel, "encode", spy)
    return texts


# ------------------------------------------------------------------------------------------------------ the answers


def test_hits_are_the_nearest_passages_by_cosine(model, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_SLAB", 4)  # the last one is not full
    found = search(QUERIES, model, corpus(), k=4, cache=tmp_path / "cache")
    loaded = EmbeddingModel.load(model)
    cosine = loaded.encode(QUERIES, prompt="query: ") @ loaded.encode(PASSAGES, prompt="passage: ").T
    for hits, scores in zip(found, cosine, strict=True):
        order = np.argsort(-scores)[:4]
        assert [(hit.doc_id, hit.text) for hit in hits] == [(f"d{row}", PASSAGES[row]) for row in order]
        np.testing.assert_allclose([hit.score for hit in hits], scores[order], atol=1e-2)  # bfloat16 products


def test_one_query_is_a_list_of_one(model, corpus, tmp_path):
    several = search(QUERIES, model, corpus(), cache=tmp_path / "cache")
    (alone,) = search(QUERIES[1], model, corpus(), cache=tmp_path / "cache")
    assert [hit.doc_id for hit in alone] == [hit.doc_id for hit in several[1]]
    assert len(alone) == 5


def test_more_hits_than_passages_are_all_passages(model, corpus, tmp_path):
    (hits,) = search("x", model, corpus(), k=100, cache=tmp_path / "cache")
    assert {hit.text for hit in hits} == set(PASSAGES)
    assert len(hits) == len(PASSAGES)


# -------------------------------------------------------------------------------------------------------- the cache


def test_a_corpus_is_encoded_once(model, corpus, tmp_path, encoded):
    first = search(QUERIES[0], model, corpus(), cache=tmp_path / "cache")
    assert sorted(encoded) == sorted([f"passage: {text}" for text in PASSAGES] + [f"query: {QUERIES[0]}"])
    encoded.clear()
    assert search(QUERIES[0], model, corpus(), cache=tmp_path / "cache") == first
    assert encoded == [f"query: {QUERIES[0]}"]


def test_the_same_texts_elsewhere_share_the_cache(model, corpus, tmp_path, encoded):
    search("x", model, corpus(), cache=tmp_path / "cache")
    encoded.clear()
    frame = pl.read_ndjson(corpus(first_id=100))
    frame.write_parquet(tmp_path / "elsewhere.parquet")
    ((hit,),) = search("x", model, tmp_path / "elsewhere.parquet", k=1, cache=tmp_path / "cache")
    assert encoded == ["query: x"]
    assert int(hit.doc_id[1:]) >= 100


@pytest.mark.parametrize(
    "texts",
    [
        PASSAGES[::-1],
        PASSAGES[:-1],
        [*PASSAGES[:-1], "坏"],
        [PASSAGES[0][:5], PASSAGES[0][5:], *PASSAGES[1:]],  # the same characters, cut elsewhere
    ],
)
def test_other_texts_are_encoded_anew(model, corpus, tmp_path, encoded, texts):
    search("x", model, corpus(), cache=tmp_path / "cache")
    encoded.clear()
    search("x", model, corpus(texts), cache=tmp_path / "cache")
    assert len(encoded) == len(texts) + 1


def one_weight_moved(model):
    with torch.no_grad():
        next(model.encoder.parameters())[7, 0] += 1e-3


def another_config(model):
    model.encoder.config.layer_norm_eps *= 2


def another_prompt(model):
    model.prompts["passage"] = "text: "


def another_length(model):
    model.max_length -= 1


def another_pooling(model):
    model.pooling = "cls"


@pytest.mark.parametrize(
    "change", [one_weight_moved, another_config, another_prompt, another_length, another_pooling]
)
def test_another_model_encodes_anew(model, corpus, tmp_path, encoded, change):
    search("x", model, corpus(), cache=tmp_path / "cache")
    encoded.clear()
    changed = EmbeddingModel.load(model)
    change(changed)
    changed.save(model)
    search("x", model, corpus(), cache=tmp_path / "cache")
    assert len(encoded) == len(PASSAGES) + 1


# ------------------------------------------------------------------------------------------------- a user's mistakes


def test_an_empty_query(model, corpus, tmp_path):
    with pytest.raises(UserError, match="query: found '  ', expected some text"):
        search(["x", "  "], model, corpus(), cache=tmp_path / "cache")


def test_no_hits_asked_for(model, corpus, tmp_path):
    with pytest.raises(UserError, match="k: found 0, expected 1 or more"):
        search("x", model, corpus(), k=0, cache=tmp_path / "cache")


def test_a_damaged_cache(model, corpus, tmp_path):
    search("x", model, corpus(), cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "search").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{file.name}: not a whole safetensors file"):
        search("x", model, corpus(), cache=tmp_path / "cache")


# ---------------------------------------------------------------------------------------------------------- on screen


def printed(hits, width):
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(show(hits))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [40, 100])
def test_show_prints_rank_score_and_the_first_lines_within_the_terminal(width):
    text = "逐行读取文件，就不会占用太多内存。" * 40
    lines = printed([Hit("d7", text, 0.91234), Hit("d8", "[bold]short[/]", -0.5)], width)
    assert max(map(cell_len, lines)) <= width
    assert lines[0].split() == ["1", "0.912", "d7"]
    assert lines[1].strip().startswith("逐行读取文件")
    assert lines[SHOWN_LINES].rstrip().endswith("…")
    shown = "".join(line.strip() for line in lines[1 : SHOWN_LINES + 1]).removesuffix("…").strip()
    assert text.startswith(shown)
    assert cell_len(shown) > (SHOWN_LINES - 1) * (width - 20)
    second = next(place for place, line in enumerate(lines) if "d8" in line)
    assert second == SHOWN_LINES + 2
    assert lines[second].split() == ["2", "-0.500", "d8"]
    assert lines[second + 1].strip() == "[bold]short[/]"  # a passage is no markup


def test_show_keeps_the_lines_of_a_text():
    lines = printed([Hit("d", "\nfirst\nsecond", 0.5)], 60)
    assert [line.strip() for line in lines[1:3]] == ["first", "second"]
    assert not any("…" in line for line in lines)
