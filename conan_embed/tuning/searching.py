"""Search what a tuning run left: its passages, with file, line and heading, by its model and index."""

from dataclasses import replace
from pathlib import Path

import polars as pl

from conan_embed.console import console
from conan_embed.device import choose_device
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.cached_encoder import Embedder
from conan_embed.files import hash_file, read_json, write_json
from conan_embed.search.index import Hit, check_queries, encode_passages, find
from conan_embed.texts.readers import read_corpus
from conan_embed.tuning.plan import Files


def is_tuned(folder: str | Path) -> bool:
    """Return whether a folder was written by `tune`."""
    return Files(Path(folder)).result.exists()


def write_index(files: Files, model: EmbeddingModel, encoder: Embedder | None = None) -> None:
    """Encode the passages of a run, and note what they were.

    Args:
        encoder: of the same model, with what it encoded before.
    """
    encode = (encoder or model).encode
    encode_passages(model, read_corpus(files.passages)["text"], files.index, encode=encode)
    write_json(files.index / "passages.json", {"hash": hash_file(files.passages)})


def search_tuned(query: str, folder: str | Path, *, k: int = 5) -> list[Hit]:
    """Return the passages nearest to a query, best first; their doc_id says file, line and heading.

    Where the passages changed since they were indexed, this is said, and they are encoded again.

    Raises:
        UserError: an empty query, `k` below 1, or a part of the run that is missing.
    """
    files = Files(Path(folder))
    check_queries([query], k)
    passages = read_corpus(files.passages)
    model = EmbeddingModel.load(files.model).to(choose_device())
    noted = files.index / "passages.json"
    if not noted.exists() or read_json(noted) != {"hash": hash_file(files.passages)}:
        console.print(f"{files.passages}: changed since it was indexed; encoding it again.")
        write_index(files, model)
    [hits] = find(model, [query], passages, encode_passages(model, passages["text"], files.index), k)
    columns = pl.read_parquet(files.passages, columns=["doc_id", "document", "headings"])
    path_of = {doc_id: " > ".join(filter(None, path)) for doc_id, *path in columns.iter_rows()}
    return [replace(hit, doc_id=f"{hit.doc_id}  {path_of[hit.doc_id]}".rstrip()) for hit in hits]
