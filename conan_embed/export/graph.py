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


def write_graphs(model: EmbeddingModel, folder: Path, *, quantize: str | None = None) -> list[str]:
    """Write the graph of `model` to `folder`/onnx in float32 and, with `quantize="int8"`, in int8 too.

    Returns:
        the files' names, the one that was asked for last.
    """
    large = sum(weight.numel() * weight.element_size() for weight in model.parameters()) > ONE_FILE_BYTES
    target = folder / FOLDER
    target.mkdir()
    with _quiet():
        _trace(model).save(target / FILE, external_data=large)
        if quantize is None:
            return [FILE]
        _quantize(target / FILE, target / INT8_FILE, large)
    return [FILE, INT8_FILE]


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


def _quantize(source: Path, target: Path, large: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=large,
    )


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
