"""The model as one ONNX graph: padded tokens in, normalised embeddings out.

Training packs its texts without padding (encoder.packing); servers pad. The graph is therefore traced from a padded
forward: the user's encoder with stock scaled-dot-product attention, then our pooling under a mask, the dense layer
and the norm, so that nothing is left for a server to get wrong.

int8 is onnxruntime's dynamic quantisation: each output channel of a matrix has its own scale, activations are
quantised on the way. `reduce_range` keeps weights to 7 bits, because x86 processors without VNNI add products of
8-bit numbers in 16 bits and overflow: a model that passed its comparison here would embed worse there.

Shapes: N texts, L padded length, H hidden, D embedding width.
"""

import contextlib
import logging
import tempfile
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

FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

ONE_FILE_BYTES = 1_900_000_000
"""Larger weights stand in `model.onnx.data`: a protobuf file ends at 2 GiB."""


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

    def forward(self, input_ids_NL: torch.Tensor, attention_mask_NL: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, D], rows of length 1; padding stands after the texts."""
        output = self.encoder(input_ids=input_ids_NL, attention_mask=attention_mask_NL)
        pooled_NH = self._pool(output.last_hidden_state, attention_mask_NL)
        return nn.functional.normalize(self.dense_layers(pooled_NH), dim=1)

    def _pool(self, hidden_NLH: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return hidden_NLH[:, 0]
        if self.pooling == "last":
            return hidden_NLH[torch.arange(len(mask_NL)), mask_NL.sum(dim=1) - 1]
        weights_NL1 = mask_NL[:, :, None].to(hidden_NLH.dtype)
        return (hidden_NLH * weights_NL1).sum(dim=1) / weights_NL1.sum(dim=1)


def write_graph(model: EmbeddingModel, path: Path, *, quantize: str | None = None) -> None:
    """Write the ONNX graph of `model` to `path`, with its weights in float32 or, with `quantize="int8"`, int8."""
    large = sum(weight.numel() * weight.element_size() for weight in model.parameters()) > ONE_FILE_BYTES
    input_ids_NL = torch.full((2, 8), model.tokenizer.pad_token_id)
    attention_mask_NL = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    sizes = {0: "batch", 1: "length"}  # of any size, whatever the example has
    with _quiet(), stock_attention(model.encoder, "sdpa"):
        program = torch.onnx.export(
            PaddedModel(model).eval(),
            (input_ids_NL, attention_mask_NL),
            dynamo=True,
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_shapes=(sizes, sizes),
            verbose=False,
        )
        assert program is not None
        if quantize is None:
            program.save(path, external_data=large)
            return
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            program.save(Path(scratch) / FILE, external_data=large)
            _quantize(Path(scratch) / FILE, path, large)


def runner(folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a function that embeds a batch of texts as a server would, from `folder` alone, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def run(texts: Sequence[str]) -> np.ndarray:
        batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="np")
        (embeddings_ND,) = session.run([OUTPUT], {name: batch[name].astype(np.int64) for name in INPUTS})
        return embeddings_ND

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
