"""Write a trained model for serving; the copy counts only if it embeds as the original does.

The copy is written aside, loaded again by whatever will serve it (our own loader, or onnxruntime), and compared with
the original on the texts of `parity`. Only then does the folder get its name, with the figures in its `export.json`.

A Matryoshka prefix becomes a model of its own by cutting the last linear map: the first `width` rows of the dense
layer, or, for a model without one, a dense layer that copies the first `width` numbers. So every program that reads
the format serves the narrow model without knowing of prefixes.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from conan_embed.console import console
from conan_embed.encoder import card
from conan_embed.encoder.dense import Dense
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.export import graph, parity
from conan_embed.files import atomic_write, read_json, write_json

FACTS = "export.json"
Format = Literal["sentence-transformers", "onnx"]
_PACKAGES: dict[Format, tuple[str, ...]] = {"sentence-transformers": (), "onnx": graph.PACKAGES}


def export(
    model_folder: str | Path,
    output: str | Path,
    *,
    format: Format = "sentence-transformers",
    quantize: Literal["int8"] | None = None,
    width: int | None = None,
) -> Path:
    """Write the model of `model_folder` to the folder `output`, an earlier export there being replaced.

    - `sentence-transformers`: the folder that sentence-transformers, text-embeddings-inference and we load, float32.
    - `onnx`: `model.onnx` (see `graph`), the tokenizer, and `config.json`. Inputs are `input_ids` and
      `attention_mask`, int64 [batch, length]; the output `sentence_embedding`, float32 [batch, width], has length 1.

    `export.json` in the folder says what it holds, the prompts and max length to serve it with, and how near it is to
    the original (cosines on the texts of `parity`).

    Args:
        model_folder: a model folder, or a hub name.
        quantize: `"int8"` keeps the weights of the ONNX model as 8-bit integers: a quarter of the size, and faster.
        width: keep this prefix of the embedding; 1 to the model's own width.

    Returns:
        `output`.

    Raises:
        UserError: settings that do not fit, a folder in the way, missing packages, or a copy that embeds differently
            (cosine below 0.9999, or 0.98 in int8); then nothing is written.
    """
    output = Path(output)
    _check(output, format, quantize)
    model = EmbeddingModel.load(model_folder, dropout=None)  # the copy's config keeps the model's own dropout
    full_width = model.width
    if width is not None and not 1 <= width <= full_width:
        raise UserError(
            f"width {width}: the model has {full_width}, expected a width from 1 to {full_width}."
        )
    width = width or full_width
    expected_ND = parity.embed(model, width)
    details = _details(Path(model_folder), None if width == full_width else width, quantize)
    earlier = Path(model_folder) / card.FILE
    _cut(model, width)
    with console.status(f"exporting {model_folder}"), atomic_write(output) as aside:
        if format == "onnx":
            aside.mkdir(parents=True)
            found_ND = _write_onnx(model, aside, quantize)
            interface = card.Interface(model.prompts, width, (width,), model.max_length, onnx=True)
            card.write_card(aside, interface, details, earlier=earlier)
        else:
            model.save(aside, details=details, card=earlier)
            found_ND = parity.embed(EmbeddingModel.load(aside), width)
        facts = {
            "model": str(model_folder),
            "format": format,
            "quantize": quantize,
            "width": width,
            "full_width": full_width,
            "max_length": model.max_length,
            "prompts": model.prompts,
            "bytes": sum(file.stat().st_size for file in aside.rglob("*") if file.is_file()),
            "parity": parity.judged(found_ND, expected_ND, quantize),
            "versions": {
                name: version(name) for name in ("conan-embed", "torch", "transformers", *_PACKAGES[format])
            },
        }
        write_json(aside / FACTS, facts)
    return output


def _check(output: Path, format: str, quantize: str | None) -> None:
    """Refuse what cannot end well before a model is loaded."""
    if format not in _PACKAGES:
        raise UserError(f"format: {format!r} is unknown; expected one of {', '.join(_PACKAGES)}.")
    if quantize not in (None, "int8"):
        raise UserError(f"quantize: {quantize!r} is unknown; expected int8.")
    if quantize and format != "onnx":
        raise UserError(f"quantize: {quantize} cannot be written as {format}; expected the format onnx.")
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / FACTS).exists()):
        raise UserError(f"{output}: is there already and is no earlier export; expected a new folder.")
    if format == "onnx":
        graph.check_packages()


def _cut(model: EmbeddingModel, width: int) -> None:
    """Make the prefix of `width` numbers the whole embedding of `model`, in place."""
    if width == model.width:
        return
    if model.dense is None:
        dense = Dense(model.hidden, width)
        with torch.no_grad():
            dense.weight.copy_(torch.eye(width, model.hidden))
            dense.bias.zero_()
    else:
        dense = model.dense.cut(width)
    model.dense, model.width = dense, width
    model.widths = (width, *(narrower for narrower in model.widths if narrower < width))


def _write_onnx(model: EmbeddingModel, folder: Path, quantize: str | None) -> np.ndarray:
    """Write graph, tokenizer and config into `folder`; return what onnxruntime makes of the texts of `parity`."""
    # A server reads the length to cut at from here, and our padding comes after the text.
    model.tokenizer.model_max_length = model.max_length
    model.tokenizer.padding_side = "right"
    model.tokenizer.save_pretrained(folder)
    model.encoder.config.save_pretrained(folder)
    graph.write_graph(model, folder / graph.FILE, quantize=quantize)
    return parity.embed_with(graph.runner(folder), model.prompts)


def _details(model_folder: Path, width: int | None, quantize: str | None) -> dict[str, Any]:
    """What was noted about the model (its step, training, results), as far as it holds for the copy.

    A copy cut to `width` has the results of that width, where they are known, and int8 weights have none yet.
    """
    path = model_folder / "conan_embed.json"
    noted = read_json(path) if path.exists() else {}
    results = [] if quantize else noted.pop("results", [])
    if width is not None:
        results = [
            {**row, "score": row["widths"][str(width)], "base": None, "widths": {}}
            for row in results
            if str(width) in row["widths"]
        ]
    details = {name: value for name, value in noted.items() if name not in ("widths", "results")}
    return {**details, "results": results} if results else details
