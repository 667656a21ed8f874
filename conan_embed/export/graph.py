"""The model as one ONNX graph: padded tokens in, normalised embeddings out.

Training packs its texts without padding (encoder.packing); servers pad. The graph is therefore traced from a padded
forward: the user's encoder with stock attention, then our pooling under a mask, the dense layers and the norm, so that
nothing is left for a server to get wrong. Clients that pool by themselves (sentence-transformers, optimum,
transformers.js) find the hidden states under the name that they look for.

int8 is onnxruntime's dynamic quantisation: each output channel of a matrix has its own scale, activations are
quantised on the way. `reduce_range` keeps weights to 7 bits, because x86 processors without VNNI add products of
8-bit numbers in 16 bits and overflow: a model that passed its comparison here would embed worse there.

Shapes: N texts, L padded length, H hidden, D embedding width.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer

from conan_embed.encoder.attention import stock_attention
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError

FOLDER, FILE, INT8_FILE = "onnx", "model.onnx", "model_quantized.onnx"  # where all clients look
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("sentence_embedding", "last_hidden_state")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

ONE_FILE_BYTES = 1_900_000_000
"""Larger weights go to `model.onnx.data`: a protobuf file ends at 2 GiB."""


def check_packages() -> None:
    """Raise UserError where the packages of the extra `onnx` are not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f'format onnx: {", ".join(missing)} not installed; expected pip install "conan-embed[onnx]".'
        )


class PaddedModel(nn.Module):
    """`EmbeddingModel` on padded batches, for tracing; its encoder must not use the packed attention."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.encoder, self.pooling = model.encoder, model.pooling
        self.dense_layers = nn.Sequential(*model.dense_layers())

    def forward(
        self, input_ids_NL: torch.Tensor, attention_mask_NL: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 [N, D], rows of length 1, and the hidden states [N, L, H]; padding stands after the texts."""
        hidden_NLH = self.encoder(input_ids=input_ids_NL, attention_mask=attention_mask_NL).last_hidden_state
        embedding_ND = self.dense_layers(self._pool(hidden_NLH, attention_mask_NL))
        return nn.functional.normalize(embedding_ND, dim=1), hidden_NLH

    def _pool(self, hidden_NLH: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return hidden_NLH[:, 0]
        if self.pooling == "last":
            return hidden_NLH[torch.arange(len(mask_NL)), mask_NL.sum(dim=1) - 1]
        weights_NL1 = mask_NL[:, :, None].to(hidden_NLH.dtype)
        return (hidden_NLH * weights_NL1).sum(dim=1) / weights_NL1.sum(dim=1)


def write_graph(model: EmbeddingModel, folder: Path) -> None:
    """Write the graph of `model` to `folder`/onnx, with its weights in float32."""
    (folder / FOLDER).mkdir()
    large = sum(weight.numel() * weight.element_size() for weight in model.parameters()) > ONE_FILE_BYTES
    with _quiet():
        _trace(model).save(folder / FOLDER / FILE, external_data=large)


def write_int8(folder: Path, *, careful: bool = False) -> None:
    """Write the graph of `folder`/onnx again beside it, with its weights in int8.

    Args:
        careful: keep the matrices behind the feed-forward activations in float32. Few of those activations are many
            times larger than the rest, and rounding them with one scale loses what the others say. The file is then
            about half larger.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = folder / FOLDER / FILE
    with _quiet():
        quantize_dynamic(
            source,
            folder / FOLDER / INT8_FILE,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_narrowing_products(source) if careful else None,
            use_external_data_format=source.with_name(f"{FILE}.data").exists(),
        )


def _narrowing_products(path: Path) -> list[str]:
    """Return the names of matrix products with at least twice as many inputs as outputs."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    narrows = {
        weight.name
        for weight in graph.initializer
        if len(weight.dims) == 2 and weight.dims[0] >= 2 * weight.dims[1]
    }
    return [
        node.name for node in graph.node if node.op_type == "MatMul" and not narrows.isdisjoint(node.input)
    ]


def _trace(model: EmbeddingModel) -> "torch.onnx.ONNXProgram":
    input_ids_NL = torch.full((2, 8), model.tokenizer.pad_token_id)
    attention_mask_NL = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    sizes = {0: "batch", 1: "length"}  # of any size, whatever the example has
    # Soft-capped scores need transformers' eager attention; it is the slower one elsewhere.
    attention = "sdpa" if getattr(model.encoder, "_supports_sdpa", True) else "eager"
    with stock_attention(model.encoder, attention):
        program = torch.onnx.export(
            PaddedModel(model).eval(),
            (input_ids_NL, attention_mask_NL),
            dynamo=True,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=(sizes, sizes),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where each came from, with absolute paths
    return program


def runner(folder: Path, file: str = FILE) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a function that embeds a batch of texts as a server would, from `folder` alone, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FOLDER / file, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def run(texts: Sequence[str]) -> np.ndarray:
        batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="np")
        inputs = {name: batch[name].astype(np.int64) for name in INPUTS}
        (embedding_ND,) = session.run(OUTPUTS[:1], inputs)
        return embedding_ND

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn about torchvision, names of sizes and advice for convolutions: nothing a user can act on."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
