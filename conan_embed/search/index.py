"""Search a file of passages with a model: encode the passages once, answer from the matrix ever after.

    cache/search/KEY.safetensors     "passages" float32 [C, D], rows of length 1, in the order of the file

KEY is a hash of everything that the matrix depends on: the model's weights, config, tokenizer and settings, and the
passages' texts. So a model trained further, or an edited file, is encoded anew, and the same file elsewhere (or in
another format) is not.
A later search maps the matrix into memory and takes the exact best by dot product (`exact.top_k`); files of the cache
can be deleted at any time.

Shapes: Q queries, C passages, D width, K hits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
import xxhash
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from safetensors.torch import save_file

from conan_embed.console import progress_bar
from conan_embed.device import choose_device
from conan_embed.encoder.fingerprint import fingerprint
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.weight_files import read_tensors
from conan_embed.errors import UserError
from conan_embed.files import atomic_write
from conan_embed.search.exact import search_vectors
from conan_embed.texts.readers import read_corpus

SHOWN_LINES = 3
"""Lines of a passage that `show` prints."""

_SLAB = 256  # passages encoded at once: a move of the progress bar; larger ones are not faster


@dataclass(frozen=True)
class Hit:
    """One passage found: its doc_id and text as in the file, and the cosine of its embedding with the query's."""

    doc_id: str
    text: str
    score: float


def as_frame(queries: Sequence[str], hits_of_query: Sequence[Sequence[Hit]]) -> pl.DataFrame:
    """Return one row per hit: `query: str`, `rank: i64` (from 0), `score: f64` (cosine), `doc_id: str`, `text: str`."""
    rows = [
        (query, rank, hit.score, hit.doc_id, hit.text)
        for query, hits in zip(queries, hits_of_query, strict=True)
        for rank, hit in enumerate(hits)
    ]
    schema = {
        "query": pl.String,
        "rank": pl.Int64,
        "score": pl.Float64,
        "doc_id": pl.String,
        "text": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def search(
    query: str | list[str],
    model_folder: str | Path,
    corpus: str | Path,
    *,
    k: int = 5,
    cache: str | Path = Path("cache"),
) -> list[list[Hit]]:
    """Return the `k` passages of `corpus` nearest to each query, best first (between equals, the earlier in the file).

    Queries and passages are encoded with the model's own prompts.

    Args:
        query: one query, or several, each with some text.
        model_folder: a model folder, or a hub name.
        corpus: passages, whatever `read_corpus` reads.
        k: hits per query; fewer where the corpus is smaller.
        cache: folder of the encoded corpora.

    Raises:
        UserError: an empty query, a `k` below 1, a model or corpus that cannot be read, a damaged file in the cache.
    """
    queries = [query] if isinstance(query, str) else query
    check_queries(queries, k)
    passages = read_corpus(corpus)
    model = EmbeddingModel.load(model_folder).to(choose_device())
    return find(model, queries, passages, encode_passages(model, passages["text"], Path(cache)), k)


def check_queries(queries: Sequence[str], k: int) -> None:
    """Raise UserError for an empty query or a `k` below 1."""
    for text in queries:
        if not text.strip():
            raise UserError(f"query: found {text!r}, expected some text.")
    if k < 1:
        raise UserError(f"k: found {k}, expected 1 or more.")


def find(
    model: EmbeddingModel, queries: Sequence[str], passages: pl.DataFrame, passages_CD: torch.Tensor, k: int
) -> list[list[Hit]]:
    """Return the `k` passages (doc_id, text) nearest to each query, given the passages' embeddings."""
    queries_QD = torch.from_numpy(model.encode(queries, prompt=model.prompts["query"]))
    scores_QK, rows_QK = search_vectors(queries_QD, passages_CD, min(k, len(passages)))
    return [
        [
            Hit(doc_id, text, score)
            for (doc_id, text), score in zip(passages[rows].rows(), scores, strict=True)
        ]
        for rows, scores in zip(rows_QK.numpy(), scores_QK.tolist(), strict=True)
    ]


def encode_passages(
    model: EmbeddingModel, texts: pl.Series, cache: Path, *, encode: Callable[..., Any] | None = None
) -> torch.Tensor:
    """Return the embeddings of `texts`, float32 [C, D], mapped from the cache; encode them first if it has none.

    Args:
        encode: instead of `model.encode`, such as that of an encoder which remembers the model's embeddings.
    """
    path = cache / "search" / f"{_key(model, texts)}.safetensors"
    if not path.exists():
        passages_CD = torch.empty(len(texts), model.width)
        with progress_bar() as progress:
            task = progress.add_task("encoding passages", total=len(texts), note="")
            for start in range(0, len(texts), _SLAB):
                slab = texts[start : start + _SLAB].to_list()
                embeddings = (encode or model.encode)(slab, prompt=model.prompts["passage"])
                passages_CD[start : start + _SLAB] = torch.from_numpy(embeddings)
                progress.advance(task, len(slab))
        with atomic_write(path) as aside:
            save_file({"passages": passages_CD}, aside)
    return read_tensors(path)["passages"]


def _key(model: EmbeddingModel, texts: pl.Series) -> str:
    """Hash all that the embeddings of `texts` depend on."""
    key = xxhash.xxh3_128(fingerprint(model).encode())
    key.update(texts.str.len_bytes().to_numpy().data)
    key.update("".join(texts).encode())
    return key.hexdigest()


def show(hits: list[Hit]) -> RenderableType:
    """Return the hits of one query as a table for a rich console: rank, score, doc_id and the text's first lines."""
    table = Table(show_header=False, box=None, padding=(0, 2, 1, 0))
    table.add_column(justify="right", style="bold")
    table.add_column(justify="right", style="green")
    table.add_column(ratio=1)
    for rank, hit in enumerate(hits, 1):
        table.add_row(str(rank), f"{hit.score:.3f}", Group(Text(hit.doc_id, style="dim"), _Opening(hit.text)))
    return table


class _Opening:
    """The first lines of a text, whatever the width of the terminal; never read as markup."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(20, options.max_width), options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        enough = self.text[: (SHOWN_LINES + 1) * (width + 1)]  # a line holds at most `width` characters
        lines = list(Text(enough).wrap(console, width))
        if len(lines) > SHOWN_LINES:
            last = lines[SHOWN_LINES - 1]
            last.rstrip()
            last.truncate(width - 1)
            last.append("…")
        yield Text("\n").join(lines[:SHOWN_LINES])
