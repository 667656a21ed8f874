"""Search a collection of passages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from conan_embed.api.model import load_model
from conan_embed.api.pairs import CACHE, Frame, read_passages
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.search.index import as_frame, check_queries, encode_passages, find


class Index:
    """Passages encoded by a model, for exact search: C passages, width D.

    The embeddings are written to `cache`, so that the same passages under the same model are encoded once.

    Args:
        model: a loaded model, or the name or folder of one.
        corpus: a file, a frame or dicts with `text` and perhaps `doc_id` and `title`, or a list of texts.
        cache: folder for the embeddings, float32 [C, D].

    Raises:
        UserError: no such model or file, or a bad row in it.

    Example:
        >>> index = ce.Index(model, ["Hold the button for ten seconds.", "It ships in two days."])
        >>> index
        Index: 2 passages, width 384
        >>> index.search("How do I reset it?", k=1)["text"].to_list()
        ['Hold the button for ten seconds.']
    """

    def __init__(
        self,
        model: EmbeddingModel | str | Path,
        corpus: str | Path | Frame | Sequence[str],
        *,
        cache: str | Path = CACHE,
    ) -> None:
        self.model = model if isinstance(model, EmbeddingModel) else load_model(model)
        self.passages = read_passages(corpus)
        self._embeddings_CD = encode_passages(self.model, self.passages["text"], Path(cache))

    def __len__(self) -> int:
        return len(self.passages)

    def __repr__(self) -> str:
        return f"Index: {len(self):,} passages, width {self.model.width}"

    def search(self, query: str | Sequence[str], k: int = 5) -> pl.DataFrame:
        """Return the `k` passages nearest to each query, best first; of equals, the one that comes first in the corpus.

        Args:
            query: one query, or several.
            k: hits per query; fewer if there are fewer passages.

        Returns:
            one row per hit: `query: str`, `rank: i64` (from 0), `score: f64` (cosine), `doc_id: str`, `text: str`.

        Raises:
            UserError: an empty query, or a `k` below 1.

        Example:
            >>> index = ce.Index(model, ["Hold the button for ten seconds.", "It ships in two days."])
            >>> index.search(["When will it come?", "How do I reset it?"], k=1)["doc_id"].to_list()
            ['2', '1']
        """
        queries = [query] if isinstance(query, str) else list(query)
        check_queries(queries, k)
        hits_of_query = find(self.model, queries, self.passages, self._embeddings_CD, k)
        return as_frame(queries, hits_of_query)
