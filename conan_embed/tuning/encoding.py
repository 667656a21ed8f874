"""The embeddings of a file of texts, for anyone's database: Parquet (`doc_id`, `embedding`) or a NumPy matrix."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from conan_embed.console import progress_bar
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import atomic_write
from conan_embed.texts.readers import read_corpus

_TEXTS_AT_ONCE = 2_048


def encode_file_with(
    model: str | Path, texts: str | Path, output: str | Path, *, query: bool = False, width: int | None = None
) -> int:
    """Load a model and encode a file with it; see `encode_file`."""
    loaded = EmbeddingModel.load(model).to(collectives.start())
    return encode_file(loaded, texts, output, query=query, width=width)


def encode_file(
    model: EmbeddingModel,
    texts: str | Path,
    output: str | Path,
    *,
    query: bool = False,
    width: int | None = None,
) -> int:
    """Encode the texts of a file; return their number.

    Args:
        texts: whatever `read_corpus` reads: a column `text`, perhaps `doc_id` and `title`.
        output: `.parquet`, with `doc_id` and `embedding` (float32 [width]) in the file's order, or `.npy`, float32
            [N, width].
        query: put the model's query prompt before the texts instead of its passage prompt.
        width: a Matryoshka prefix; None for the full width.

    Raises:
        UserError: an output of another kind, or whatever is wrong with the texts.
    """
    output = Path(output)
    if output.suffix not in (".parquet", ".npy"):
        raise UserError(f"{output}: expected a name that ends in .parquet or .npy.")
    frame = read_corpus(texts)
    embeddings = _embeddings(
        model, frame, model.prompts["query" if query else "passage"], width or model.width
    )
    with atomic_write(output) as aside:
        if output.suffix == ".npy":
            _write_matrix(aside, embeddings, (len(frame), width or model.width))
        else:
            _write_table(aside, embeddings, frame["doc_id"], width or model.width)
    return len(frame)


def _embeddings(
    model: EmbeddingModel, frame: pl.DataFrame, prompt: str, width: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    with progress_bar() as progress:
        task = progress.add_task("Encoding", total=len(frame), note="")
        for start in range(0, len(frame), _TEXTS_AT_ONCE):
            texts = frame["text"][start : start + _TEXTS_AT_ONCE].to_list()
            yield start, model.encode(texts, prompt=prompt, widths=[width])[width]
            progress.advance(task, len(texts))


def _write_matrix(
    path: Path, embeddings: Iterator[tuple[int, NDArray[np.float32]]], shape: tuple[int, int]
) -> None:
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for start, rows in embeddings:
        matrix[start : start + len(rows)] = rows
    matrix.flush()


def _write_table(
    path: Path, embeddings: Iterator[tuple[int, NDArray[np.float32]]], doc_ids: pl.Series, width: int
) -> None:
    kind = pa.list_(pa.float32(), width)
    schema = pa.schema([("doc_id", pa.string()), ("embedding", kind)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start, rows in embeddings:
            names = doc_ids[start : start + len(rows)].to_arrow().cast(pa.string())
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), type=kind)
            writer.write_table(pa.Table.from_arrays([names, vectors], schema=schema))
