import json

import numpy as np
import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.tuning import encoding
from conan_embed.tuning.encoding import encode_file
from tests.tiny_models import SENTENCES, make_tiny_model


@pytest.fixture
def texts(tmp_path):
    rows = [{"doc_id": f"d{number}", "text": text} for number, text in enumerate(SENTENCES)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "texts.jsonl"


@pytest.mark.parametrize("at_once", [4, 1000])
def test_both_files_hold_the_embeddings_of_the_model_in_order(
    texts, tmp_path, monkeypatch, at_once: int
) -> None:
    monkeypatch.setattr(encoding, "_TEXTS_AT_ONCE", at_once)
    model = make_tiny_model("bert", prompts={"passage": "p: ", "query": "q: "})
    expected = model.encode_document(list(SENTENCES))
    assert encode_file(model, texts, tmp_path / "v.npy") == len(SENTENCES)
    encode_file(model, texts, tmp_path / "v.parquet")
    frame = pl.read_parquet(tmp_path / "v.parquet")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-2)
    np.testing.assert_allclose(frame["embedding"].to_numpy(), expected, atol=1e-2)
    assert frame["doc_id"].to_list() == [f"d{number}" for number in range(len(SENTENCES))]


def test_queries_and_narrower_widths(texts, tmp_path) -> None:
    model = make_tiny_model("bert", prompts={"passage": "p: ", "query": "q: "})
    encode_file(model, texts, tmp_path / "v.npy", query=True, width=8)
    np.testing.assert_allclose(
        np.load(tmp_path / "v.npy"), model.encode_query(list(SENTENCES), width=8), atol=1e-2
    )


def test_another_kind_of_output_is_refused(texts, tmp_path) -> None:
    with pytest.raises(UserError, match=r"v\.csv: expected a name that ends in \.parquet or \.npy"):
        encode_file(make_tiny_model("bert"), texts, tmp_path / "v.csv")
