"""Write a trained model for serving; the copy counts only if it embeds as the original does.

The copy is written aside, loaded again by what will serve it (our own loader, or onnxruntime), and compared with the
original on the texts of `parity`. Only then does the folder get its name, with the figures in its `export.json`.

A Matryoshka prefix becomes a model of its own by cutting the last linear map: the first `width` rows of the dense
layer, or, for a model without one, a dense layer that copies the first `width` numbers. So every program that reads
the format serves the narrow model without knowing of prefixes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from conan_embed.console import console
from conan_embed.encoder import card
from conan_embed.encoder.dense import Dense
from conan_embed.encoder.loading import local_folder
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.export import graph, parity
from conan_embed.files import atomic_write, read_json, write_json

RECORD = "export.json"
Format = Literal["sentence-transformers", "onnx"]
_PACKAGES: dict[Format, tuple[str, ...]] = {"sentence-transformers": (), "onnx": graph.PACKAGES}


@dataclass(frozen=True)
class ExportRecord:
    """What `export.json` says of an exported folder.

    Attributes:
        model: hub name or last part of the folder's path of the original.
        width, full_width: numbers of an embedding, of the copy and of the original.
        parity: how near the copy is to the original, by file.
    """

    model: str
    format: Format
    quantize: str | None
    width: int
    full_width: int
    max_length: int
    prompts: dict[str, str]
    bytes: int
    parity: dict[str, parity.Parity]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def export(
    model_folder: str | Path,
    output: str | Path,
    *,
    format: Format = "sentence-transformers",
    quantize: Literal["int8"] | None = None,
    width: int | None = None,
    texts: Sequence[str] | None = None,
) -> Path:
    """Write the model of `model_folder` to the folder `output`, replacing an earlier export there.

    - `sentence-transformers`: the folder that sentence-transformers, text-embeddings-inference, vLLM and we load,
      float32.
    - `onnx`: the same folder with `onnx/model.onnx` beside (see `graph`), and `onnx/model_quantized.onnx` in int8: one
      folder for onnxruntime, optimum, transformers.js, fastembed and both backends of sentence-transformers.

    `export.json` in the folder says what it holds, the prompts and max length to serve it with, and how near it is to
    the original (see `parity`).

    Args:
        model_folder: a model folder, or a hub name.
        quantize: `"int8"` adds the ONNX graph with weights as 8-bit integers: a quarter to two fifths of the size, and
            faster.
        width: keep this prefix of the embedding; 1 to the model's own width.
        texts: compare on these (without prompts) instead of our own texts.

    Returns:
        `output`.

    Raises:
        UserError: settings that do not fit, a folder in the way, missing packages, or a copy that embeds differently
            (cosine below 0.9999; in int8 the 5th percentile below 0.97); then nothing is written.

    Example:
        >>> export("runs/faq/model", "runs/faq/onnx", format="onnx", quantize="int8")  # doctest: +SKIP
    """
    output = Path(output)
    _check(output, format, quantize)
    source = local_folder(str(model_folder))
    model = EmbeddingModel.load(model_folder, dropout=None)  # the copy's config keeps the model's own dropout
    if format == "onnx" and not model.include_prompt:
        raise UserError(
            f"{model_folder}: its prompts are not pooled (include_prompt: false), which a graph cannot know; expected "
            "the format sentence-transformers."
        )
    full_width, width = model.width, _check_width(width, model.width)
    compared = parity.known_texts(model, texts)
    original_ND = parity.embed(model, compared, width)
    details = _details(source, None if width == full_width else width)
    _cut(model, width)
    with console.status(f"exporting {model_folder}"), atomic_write(output) as aside:
        if format == "onnx":
            copies = _write_onnx(model, aside, source, details, quantize, compared)
        else:
            model.save(aside, details=details, card=source / card.FILE)
            copies = {"model.safetensors": parity.embed(EmbeddingModel.load(aside), compared, width)}
        record = ExportRecord(
            model=card.shown_base(str(model_folder)),
            format=format,
            quantize=quantize,
            width=width,
            full_width=full_width,
            max_length=model.max_length,
            prompts=model.prompts,
            bytes=sum(file.stat().st_size for file in aside.rglob("*") if file.is_file()),
            parity={
                file: parity.compare(
                    copy_ND, original_ND, compared, "int8" if file == graph.INT8_FILE else None
                )
                for file, copy_ND in copies.items()
            },
            versions={
                name: version(name) for name in ("conan-embed", "torch", "transformers", *_PACKAGES[format])
            },
        )
        write_json(aside / RECORD, record.to_json())
    return output


def _check(output: Path, format: str, quantize: str | None) -> None:
    """Refuse what cannot end well before a model is loaded."""
    if format not in _PACKAGES:
        raise UserError(f"format: {format!r} is unknown; expected one of {', '.join(_PACKAGES)}.")
    if quantize not in (None, "int8"):
        raise UserError(f"quantize: {quantize!r} is unknown; expected int8.")
    if quantize and format != "onnx":
        raise UserError(f"quantize: {quantize} cannot be written as {format}; expected the format onnx.")
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / RECORD).exists()):
        raise UserError(f"{output}: is there already and is no earlier export; expected a new folder.")
    if format == "onnx":
        graph.check_packages()


def _check_width(width: int | None, full_width: int) -> int:
    if width is not None and not 1 <= width <= full_width:
        raise UserError(
            f"width {width}: the model has {full_width}, expected a width from 1 to {full_width}."
        )
    return width or full_width


def _cut(model: EmbeddingModel, width: int) -> None:
    """Make the prefix of `width` numbers the whole embedding of `model`, in place."""
    if width == model.width:
        return
    if model.dense is None:
        model.dense = Dense(model.hidden, width)
        with torch.no_grad():
            model.dense.weight.copy_(torch.eye(width, model.hidden))
            model.dense.bias.zero_()
    else:
        model.dense = model.dense.cut(width)
    model.width = width
    model.widths = (width, *(narrower for narrower in model.widths if narrower < width))


def _write_onnx(
    model: EmbeddingModel,
    folder: Path,
    source: Path,
    details: dict[str, Any],
    quantize: str | None,
    texts: Sequence[str],
) -> dict[str, np.ndarray]:
    """Write model folder and graphs; return the embeddings that onnxruntime computes with each graph."""
    model.tokenizer.padding_side = "right"  # the graph pools texts that are padded at the end
    model.save(folder, details=details, card=source / card.FILE)
    graph.write_graph(model, folder)
    copies = {graph.FILE: parity.embed_with(graph.runner(folder), texts)}
    if quantize is not None:
        copies[graph.INT8_FILE] = _write_int8(folder, copies[graph.FILE], texts)
    interface = card.Interface(model.prompts, model.width, model.widths, model.max_length, onnx=[*copies])
    card.write_card(folder, interface, details, earlier=source / card.FILE)
    return copies


def _write_int8(folder: Path, float_ND: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Write the int8 graph, carefully where it would move some text far; return its embeddings."""
    for careful in (False, True):
        graph.write_int8(folder, careful=careful)
        int8_ND = parity.embed_with(graph.runner(folder, graph.INT8_FILE), texts)
        if (int8_ND * float_ND).sum(axis=1).min() >= parity.FAR_IN_INT8:
            break
    return int8_ND


def _details(folder: Path, width: int | None) -> dict[str, Any]:
    """Return what was noted about the model (its step, training, results), as far as it holds for the copy.

    A copy cut to `width` has the results of that width, where they are known.
    """
    path = folder / "conan_embed.json"
    noted = read_json(path) if path.exists() else {}
    results = noted.get("results", [])
    if width is not None:
        results = [
            {**row, "score": row["widths"][str(width)], "base": None, "widths": {}}
            for row in results
            if str(width) in row["widths"]
        ]
    details = {name: value for name, value in noted.items() if name not in ("widths", "results")}
    return {**details, "results": results} if results else details
