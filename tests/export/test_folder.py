"""An exported model embeds as the original does, or is not written at all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.export import export, graph, parity
from conan_embed.files import read_json

TEXTS = ["好", "How do I read a very large file in Python?", "北京是中华人民共和国的首都。" * 12]


@pytest.fixture
def saved(tiny_model, tmp_path):
    """Save a tiny model and return its folder."""

    def save(family="bert", **settings):
        tiny_model(family, **settings).save(tmp_path / "model", details={"step": 7})
        return tmp_path / "model"

    return save


def prefix(folder, width, texts=TEXTS):
    """The definition: the first numbers of the original's embedding, normalised anew."""
    full = torch.from_numpy(EmbeddingModel.load(folder).encode(texts, precision="float32"))
    return nn.functional.normalize(full[:, :width], dim=1).numpy()


def onnx_embeddings(folder, texts=TEXTS, file="model.onnx"):
    """What a server computes that knows only onnxruntime and the tokenizer's own file."""
    onnxruntime, tokenizers = pytest.importorskip("onnxruntime"), pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(read_json(folder / "export.json")["max_length"])
    pad_token = read_json(folder / "config.json").get("pad_token_id") or 0  # masked: any will do
    tokenizer.enable_padding(pad_id=pad_token)
    batch = tokenizer.encode_batch(texts)
    inputs = {
        "input_ids": np.array([text.ids for text in batch]),
        "attention_mask": np.array([text.attention_mask for text in batch]),
    }
    session = onnxruntime.InferenceSession(folder / "onnx" / file)
    assert [output.name for output in session.get_outputs()] == ["sentence_embedding", "last_hidden_state"]
    return session.run(None, inputs)[0]


# ------------------------------------------------------------------------------------------ the same embeddings


@pytest.mark.parametrize(
    ("family", "pooling", "dense_width", "width"),
    [("xlm-roberta", "last", 48, 24), ("modernbert", "mean", None, None)],
)
def test_onnx_equals_the_original(saved, tmp_path, family, pooling, dense_width, width):
    pytest.importorskip("onnxscript")
    folder = saved(family, pooling=pooling, dense_width=dense_width)
    output = export(folder, tmp_path / "onnx", format="onnx", width=width)
    expected = prefix(folder, width or dense_width or 32)
    np.testing.assert_allclose(onnx_embeddings(output), expected, atol=1e-5)
    np.testing.assert_allclose(onnx_embeddings(output, TEXTS[:1]), expected[:1], atol=1e-5)  # batch of one
    record = read_json(output / "export.json")
    assert record["width"] == expected.shape[1]
    parity_ = record["parity"]["model.onnx"]
    assert 0.9999 <= parity_["cosine_min"] <= parity_["cosine_mean"] < 1.0001
    assert str(tmp_path) not in json.dumps(record) + (output / "conan_embed.json").read_text()


def test_int8_is_smaller_and_near(saved, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(graph, "ONE_FILE_BYTES", 0)  # as if the weights were too many for one protobuf file
    folder = saved("bert", hidden=128, layers=1, pooling="cls")
    output = export(folder, tmp_path / "onnx", format="onnx", quantize="int8")
    weights = sum(file.stat().st_size for file in (output / "onnx").glob("model_quantized.onnx*"))
    assert weights < 0.6 * (folder / "model.safetensors").stat().st_size
    cosine = (onnx_embeddings(output, file="model_quantized.onnx") * prefix(folder, 128)).sum(axis=1)
    assert (cosine >= 0.97).all()
    assert (cosine < 0.99999).any()
    record = read_json(output / "export.json")["parity"]
    assert record["model.onnx"]["cosine_min"] > 0.9999
    assert record["model_quantized.onnx"]["nearest_kept"] >= parity.RANKING_FLOOR
    here = (str(tmp_path), str(Path(graph.__file__).parents[2]), "site-packages")
    for file in filter(Path.is_file, output.rglob("*")):
        assert not [place for place in here if place.encode() in file.read_bytes()], file


@pytest.mark.parametrize("dense_width", [None, 48])
@pytest.mark.parametrize("width", [None, 8])
def test_the_folder_loads_in_sentence_transformers(saved, tmp_path, dense_width, width):
    library = pytest.importorskip("sentence_transformers")
    folder = saved("bert", dense_width=dense_width, prompts={"query": "q: "}, widths=[16, 4])
    output = export(folder, tmp_path / "export", width=width)
    expected = prefix(folder, width or dense_width or 32)
    theirs = library.SentenceTransformer(str(output), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), expected, atol=1e-5)
    assert theirs.prompts["query"] == "q: "
    np.testing.assert_allclose(
        EmbeddingModel.load(output).encode(TEXTS, precision="float32"), expected, atol=1e-5
    )


def test_a_cut_folder_keeps_the_narrower_widths_and_the_notes(saved, tmp_path):
    folder = saved(widths=[16, 8, 4])
    output = export(folder, tmp_path / "export", width=8)
    model = EmbeddingModel.load(output)
    assert (model.width, model.widths) == (8, (8, 4))
    assert read_json(output / "conan_embed.json")["step"] == 7


def test_an_earlier_export_is_replaced(saved, tmp_path):
    folder = saved()
    export(folder, tmp_path / "export")
    export(folder, tmp_path / "export", width=8)
    assert EmbeddingModel.load(tmp_path / "export").width == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "model"]


# ------------------------------------------------------------------------------------------------------ the gate


def test_a_copy_that_fails_is_not_left_behind(saved, tmp_path, monkeypatch):
    folder = saved()
    monkeypatch.setitem(parity.FLOORS, None, 1.1)
    with pytest.raises(UserError, match="nothing was written"):
        export(folder, tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ------------------------------------------------------------------------------------------------ a user's mistakes


@pytest.mark.parametrize("width", [0, 33])
def test_a_width_that_the_model_does_not_have(saved, tmp_path, width):
    with pytest.raises(UserError, match=f"width {width}: the model has 32, expected a width from 1 to 32"):
        export(saved(), tmp_path / "export", width=width)


def test_int8_needs_onnx(saved, tmp_path):
    with pytest.raises(
        UserError, match="int8 cannot be written as sentence-transformers; expected the format onnx"
    ):
        export(saved(), tmp_path / "export", quantize="int8")


def test_an_unknown_format(saved, tmp_path):
    with pytest.raises(UserError, match="'gguf' is unknown; expected one of sentence-transformers, onnx"):
        export(saved(), tmp_path / "export", format="gguf")


def test_an_unknown_quantisation(saved, tmp_path):
    with pytest.raises(UserError, match="'int4' is unknown; expected int8"):
        export(saved(), tmp_path / "export", format="onnx", quantize="int4")


def test_a_folder_that_is_no_export_is_not_replaced(saved):
    folder = saved()
    with pytest.raises(UserError, match="is there already and is no earlier export"):
        export(folder, folder)
    assert EmbeddingModel.load(folder).width == 32


def test_missing_packages(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        UserError, match=r'onnxscript not installed; expected pip install "conan-embed\[onnx\]"'
    ):
        export(saved(), tmp_path / "export", format="onnx")
