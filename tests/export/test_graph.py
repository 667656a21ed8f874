"""The graph that is traced: padded batches of any size embed as packed ones do, and int8 keeps what matters."""

import contextlib
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from conan_embed.errors import UserError
from conan_embed.export import graph, parity
from tests.tiny_models import SENTENCES


def torch_runner(padded, model):
    """`graph.runner` without ONNX: the module that is traced, run by torch."""

    @torch.no_grad()
    def run(texts):
        batch = model.tokenizer(
            list(texts), padding=True, truncation=True, max_length=model.max_length, return_tensors="pt"
        )
        model.encoder.set_attn_implementation("sdpa")
        return padded(batch["input_ids"], batch["attention_mask"])[0].numpy()

    return run


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert"])
def test_the_padded_forward_equals_the_packed_one(tiny_model, family, pooling):
    model = tiny_model(family, pooling=pooling, dense_width=48, prompts={"passage": "passage: "})
    texts = parity.known_texts(model)
    expected = parity.embed(model, texts, 48)
    found = parity.embed_with(torch_runner(graph.PaddedModel(model), model), texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_pooling_is_that_of_each_text_alone(tiny_model, pooling):
    padded = graph.PaddedModel(tiny_model("bert", pooling=pooling))
    hidden_NLH = torch.randn(4, 6, 32, dtype=torch.float64)
    lengths = [6, 1, 4, 2]
    mask_NL = torch.tensor([[1] * length + [0] * (6 - length) for length in lengths])
    rows = [row[:length] for row, length in zip(hidden_NLH, lengths, strict=True)]
    of_row = {"cls": lambda row: row[0], "mean": lambda row: row.mean(dim=0), "last": lambda row: row[-1]}
    expected_ND = torch.stack([of_row[pooling](row) for row in rows])
    torch.testing.assert_close(padded._pool(hidden_NLH, mask_NL), expected_ND)


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(tiny_model):
    model = tiny_model("bert", dense_width=48)
    model.encoder.set_attn_implementation("sdpa")
    batch = model.tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    ids_NL, mask_NL = batch["input_ids"], batch["attention_mask"]
    others_NL = torch.where(mask_NL == 1, ids_NL, torch.randint_like(ids_NL, 5, 100))
    padded = graph.PaddedModel(model)
    embedding_ND, hidden_NLH = padded(ids_NL, mask_NL)
    torch.testing.assert_close(padded(others_NL, mask_NL)[0], embedding_ND)
    assert hidden_NLH.shape == (*ids_NL.shape, 32)
    torch.testing.assert_close(embedding_ND.norm(dim=1), torch.ones(len(SENTENCES)))


@pytest.mark.parametrize("missing", [(), ("onnx",), ("onnx", "onnxruntime"), graph.PACKAGES])
def test_all_packages_that_are_missing_are_named(monkeypatch, missing):
    monkeypatch.setattr(graph, "find_spec", lambda name: None if name in missing else object())
    if not missing:
        graph.check_packages()
        return
    with pytest.raises(UserError) as caught:
        graph.check_packages()
    assert str(caught.value).startswith(
        f"format onnx: {', '.join(missing)} not installed; expected pip install"
    )


def products(folder: Path, shapes: list[tuple[int, int]]) -> Path:
    """Write a graph that multiplies its input by one matrix after the other."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = [
        onnx.numpy_helper.from_array(
            np.random.default_rng(0).normal(size=shape).astype(np.float32), f"w{number}"
        )
        for number, shape in enumerate(shapes)
    ]
    values = [f"x{number}" for number in range(len(shapes) + 1)]
    nodes = [
        onnx.helper.make_node("MatMul", [value, weight.name], [after], name=f"product {weight.name}")
        for value, weight, after in zip(values, weights, values[1:], strict=False)
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])
        for name, width in ((values[0], shapes[0][0]), (values[-1], shapes[-1][1]))
    ]
    made = onnx.helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    (folder / graph.FOLDER).mkdir()
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(
        onnx.helper.make_model(made, opset_imports=[opset], ir_version=10), folder / graph.FOLDER / graph.FILE
    )
    return folder / graph.FOLDER / graph.INT8_FILE


@pytest.mark.parametrize("careful", [False, True])
def test_careful_int8_keeps_products_in_float32_that_halve_the_width_or_more(tmp_path, careful):
    shapes = [(16, 64), (64, 32), (32, 32), (32, 17), (17, 8), (8, 3)]
    path = products(tmp_path, shapes)
    graph.write_int8(tmp_path, careful=careful)
    import onnx

    left = {node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"}
    narrowing = {f"product w{number}" for number, (rows, columns) in enumerate(shapes) if rows >= 2 * columns}
    assert len(narrowing) == 3
    assert left == (narrowing if careful else set())


def test_int8_products_are_near_those_in_float32(tmp_path):
    path = products(tmp_path, [(64, 32)])
    graph.write_int8(tmp_path)
    import onnxruntime

    values_ND = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
    exact_ND, rounded_ND = (
        onnxruntime.InferenceSession(file).run(None, {"x0": values_ND})[0]
        for file in (path.with_name(graph.FILE), path)
    )
    cosine_N = (
        (exact_ND * rounded_ND).sum(1) / np.linalg.norm(exact_ND, axis=1) / np.linalg.norm(rounded_ND, axis=1)
    )
    assert (cosine_N > 0.999).all() and (exact_ND != rounded_ND).any()


def test_the_exporters_are_silent_and_the_log_speaks_again_whatever_happens(caplog):
    with (
        contextlib.suppress(ZeroDivisionError),
        warnings.catch_warnings(record=True) as heard,
        graph._quiet(),
    ):
        warnings.warn("advice", stacklevel=1)
        logging.getLogger("torch.onnx").warning("advice")
        logging.getLogger("torch.onnx").error("fault")
        _ = 1 / 0
    logging.getLogger("torch.onnx").warning("heard")
    assert [record.message for record in caplog.records] == ["fault", "heard"]
    assert not heard
