"""Searching what a tuning run left: the nearest passages with their places, and an index that is never stale."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import write_json
from conan_embed.tuning.plan import Files
from conan_embed.tuning.searching import is_tuned, search_tuned, write_index
from tests.tiny_models import SENTENCES, make_tiny_model

HEADINGS = [["Guide", "Files"], ["Guide"], [], None]


def passages(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "doc_id": [f"手册.md#{number}" for number in range(len(texts))],
            "text": texts,
            "document": [["Manual", "", None][number % 3] for number in range(len(texts))],
            "headings": [" > ".join(HEADINGS[number % 4] or []) or None for number in range(len(texts))],
        }
    )


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return make_tiny_model("bert", prompts={"query": "query: ", "passage": "passage: "})


@pytest.fixture
def files(tmp_path: Path, model: EmbeddingModel) -> Files:
    files = Files(tmp_path / "run")
    model.save(files.model)
    passages(list(SENTENCES)).write_parquet(files.passages)
    write_index(files, model)
    return files


class Counting:
    """An encoder that counts texts."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model, self.count = model, 0

    def encode(self, texts: list[str], **more) -> np.ndarray:
        self.count += len(texts)
        return self.model.encode(texts, **more)


def test_hits_are_the_nearest_by_float64_cosine_best_first(files: Files, model: EmbeddingModel) -> None:
    query = "how do I read a file?"
    query_D, passage_ND = (
        encode.astype(np.float64)
        for encode in (model.encode_query([query])[0], model.encode_document(SENTENCES))
    )
    order = np.argsort(-(passage_ND @ query_D), kind="stable")
    hits = search_tuned(query, str(files.folder), k=4)
    assert [hit.text for hit in hits] == [SENTENCES[number] for number in order[:4]]
    assert [hit.score for hit in hits] == pytest.approx((passage_ND @ query_D)[order[:4]], abs=1e-5)
    assert len(search_tuned(query, files.folder, k=1000)) == len(SENTENCES)


def test_a_hit_names_file_document_and_heading_where_there_are_any(files: Files) -> None:
    shown = {hit.text: hit.doc_id for hit in search_tuned("file", files.folder, k=20)}
    assert [shown[text] for text in SENTENCES[:4]] == [
        "手册.md#0  Manual > Guide > Files",
        "手册.md#1  Guide",
        "手册.md#2",
        "手册.md#3  Manual",
    ]


def test_an_index_is_used_until_the_passages_change(files: Files, model: EmbeddingModel, capsys) -> None:
    counting = Counting(model)
    write_index(files, model, counting)
    assert counting.count == 0, "it was there"
    search_tuned("file", files.folder)
    assert capsys.readouterr().err == ""
    passages(["An entirely new passage."]).write_parquet(files.passages)
    [hit] = search_tuned("file", files.folder)
    assert hit.text == "An entirely new passage."
    assert f"{files.passages}: changed since it was indexed; encoding it again." in " ".join(
        capsys.readouterr().err.split()
    )
    search_tuned("file", files.folder)
    assert "changed" not in capsys.readouterr().err, "noted the first time"
    write_index(files, model, counting)
    assert counting.count == 0


def test_passages_are_encoded_by_the_encoder_that_is_given(tmp_path: Path, model: EmbeddingModel) -> None:
    files = Files(tmp_path)
    passages(list(SENTENCES)).write_parquet(files.passages)
    counting = Counting(model)
    write_index(files, model, counting)
    assert counting.count == len(SENTENCES)


@pytest.mark.parametrize(
    ("query", "k", "words"), [(" \n", 5, "query: found ' .n', expected some text"), ("file", 0, "k: found 0")]
)
def test_a_query_without_text_and_k_below_one_are_refused(files: Files, query, k, words) -> None:
    with pytest.raises(UserError, match=words):
        search_tuned(query, files.folder, k=k)


@pytest.mark.parametrize("part", ["model", "passages"])
def test_a_part_that_is_missing_is_named(files: Files, part: str) -> None:
    path = getattr(files, part)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(UserError) as caught:
        search_tuned("file", files.folder)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "{}", '{"hash": null}', None])
def test_a_note_of_the_index_that_says_nothing_means_to_encode_again(files: Files, content, capsys) -> None:
    noted = files.index / "passages.json"
    if content is None:
        noted.unlink()
    else:
        noted.write_text(content)
    assert search_tuned("file", files.folder)
    assert "encoding it again" in capsys.readouterr().err


def test_a_folder_is_tuned_where_tune_has_written_its_result(tmp_path: Path) -> None:
    assert not is_tuned(tmp_path / "nowhere") and not is_tuned(tmp_path)
    write_json(Files(tmp_path).result, {})
    assert is_tuned(tmp_path) and is_tuned(str(tmp_path))
