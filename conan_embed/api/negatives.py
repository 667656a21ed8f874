"""Mine hard negatives, look at them, and find those that are probably answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from conan_embed.api.model import load_model
from conan_embed.api.pairs import CACHE, Frame, Pairs, read_pairs, read_passages, to_cache
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.negatives import mining
from conan_embed.negatives.embedding import embed_with
from conan_embed.negatives.false_negatives import MARGIN, beside_best_positive, first_positives
from conan_embed.negatives.rankings import NONE, Ranking, save_ranking
from conan_embed.recipes.data import Data, RetrievalData
from conan_embed.recipes.sections import Mining
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset
from conan_embed.training.setup import load_data


@dataclass(frozen=True, repr=False)
class MinedNegatives:
    """For each query, the passages that the model takes for answers although nobody labelled them so.

    Made by `mine_hard_negatives`. Q queries, K ranks.

    Attributes:
        dataset: queries, known positives and passages as text ids.
        store: the texts by id.
        ranking: text ids int32 [Q, K] in order of score, their cosines float32 [Q, K], and the cosine of each query's
            best positive float32 [Q]; from the offset on.
        whole: the same with the ranks before the offset.
    """

    dataset: RetrievalDataset
    store: TextStore
    ranking: Ranking
    whole: Ranking

    def __len__(self) -> int:
        return len(self.dataset)

    def __repr__(self) -> str:
        counts = (self.ranking.ids_QK != NONE).sum(axis=1)
        return (
            f"MinedNegatives: {len(self):,} queries, {len(self.dataset.passages):,} passages, "
            f"{counts.mean():.1f} negatives each"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.to_frame(ranks=3).head(12)._repr_html_()}"

    def to_frame(self, ranks: int | None = None) -> pl.DataFrame:
        """Return one row per query and negative, best first.

        Args:
            ranks: negatives per query; all of them by default.

        Returns:
            `query: str`, `positive: str` (the query's first), `negative: str`, `score: f32` (cosine of query and
            negative), `rank: u32` (from 0), `positive_score: f32` (cosine of the query and its best positive).

        Example:
            >>> mined = ce.mine_hard_negatives(model, "faq.jsonl")
            >>> mined.to_frame().columns
            ['query', 'positive', 'negative', 'score', 'rank', 'positive_score']
        """
        ids_QK = self.ranking.ids_QK[:, :ranks]
        row_X, rank_X = np.nonzero(ids_QK != NONE)
        first_positive_Q = self.dataset.positives.values[self.dataset.positives.offsets[self.dataset.list_Q]]
        return pl.DataFrame(
            {
                "query": texts_of(self.store, self.dataset.query_Q[row_X]),
                "positive": texts_of(self.store, first_positive_Q[row_X]),
                "negative": texts_of(self.store, ids_QK[row_X, rank_X]),
                "score": self.ranking.scores_QK[row_X, rank_X],
                "rank": rank_X.astype(np.uint32),
                "positive_score": self.ranking.positive_Q[row_X],
            }
        )

    def save(self, folder: str | Path) -> Path:
        """Write the ranking where a recipe reads it (`data.retrieval[].ranking`); return the folder.

        Training leaves out the first ranks that either the recipe's `mining.offset` or that of this ranking says, and
        whatever scores above the recipe's `mining.max_positive_ratio`.

        Example:
            >>> mined = ce.mine_hard_negatives(model, "faq.jsonl")
            >>> mined.save("rankings").joinpath("faq.safetensors").exists()
            True
        """
        save_ranking(Path(folder), self.dataset, self.store, self.whole)
        return Path(folder)


def mine_hard_negatives(
    model: EmbeddingModel | str | Path,
    pairs: Pairs | str | Path | Frame,
    *,
    corpus: str | Path | Frame | Sequence[str] | None = None,
    depth: int = 200,
    offset: int = 0,
    max_positive_ratio: float | None = None,
    subtract_background: bool = False,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
    cache: str | Path = CACHE,
) -> MinedNegatives:
    """Rank, for every query, the passages nearest to it that are not its positives (exact search).

    Args:
        model: a loaded model, or the name or folder of one.
        pairs: what `read_pairs` returned, or anything that it reads.
        corpus: passages to mine from: a file, a frame or dicts with `text`, or a list of texts; by default all
            positives and negatives of the pairs.
        depth: ranks per query.
        offset: first ranks to leave out, since they may be unlabelled answers (training uses 10).
        max_positive_ratio: keep only passages whose cosine is below this times that of the best positive; 0.95 is
            usual and removes most unlabelled answers.
        subtract_background: apply the ratio to cosines minus the mean cosine of unrelated texts, for models whose
            cosines are all high, such as E5.
        columns: the names of the pairs' columns, as in `read_pairs`.
        cache: folder for tokenised texts, which training on the same texts uses again.

    Raises:
        UserError: no such model or file, or a bad row in it.

    Example:
        >>> mined = ce.mine_hard_negatives(model, "faq.jsonl", depth=5)
        >>> mined
        MinedNegatives: 12 queries, 12 passages, 5.0 negatives each
        >>> top = mined.to_frame().row(0, named=True)
        >>> top["query"], top["negative"]
        ('How do I reset my password?', 'Open Settings, then Account, and choose Delete; it takes effect in 30 days.')
    """
    model = model if isinstance(model, EmbeddingModel) else load_model(model)
    settings = Mining(
        depth=depth,
        offset=offset,
        max_positive_ratio=max_positive_ratio,
        subtract_background=subtract_background,
        precision=precision,
    )
    entry: dict[str, Any] = read_pairs(pairs, columns).recipe_entry()
    if corpus is not None:
        is_path = isinstance(corpus, str | Path)
        entry["corpus"] = str(corpus if is_path else to_cache(read_passages(corpus), Path(cache)))
    data = Data(retrieval=[RetrievalData(**entry)])
    tasks = load_data(data, cache, model)
    embed = embed_with(model, tasks.store, precision)
    ranking = mining.mine(tasks.retrieval[0], tasks.store, embed, settings)
    whole = replace(ranking, offset=offset)
    return MinedNegatives(tasks.retrieval[0], tasks.store, whole.usable(offset), whole)


def find_false_negatives(
    model: EmbeddingModel | str | Path,
    mined: MinedNegatives,
    *,
    margin: float = MARGIN,
    ranks: int = 10,
    limit: int = 500,
) -> pl.DataFrame:
    """Return the mined negatives that `model` scores like a positive: probably answers that nobody labelled.

    Label them, and add the real answers to the positives. A model trained on the data judges better than the one that
    mined.

    Args:
        model: a loaded model, or the name or folder of one.
        mined: what `mine_hard_negatives` returned.
        margin: a negative is suspect from this far below the best positive on (cosine).
        ranks: negatives of each query to look at.
        limit: the likeliest pairs to look at, over all queries.

    Returns:
        the suspects, most suspect first: `query: str`, `positive: str` (the best one), `negative: str`,
        `positive_score: f32` and `negative_score: f32` (cosines under `model`), `rank: u32` (when mined).

    Raises:
        UserError: no such model.

    Example:
        >>> mined = ce.mine_hard_negatives(model, "faq.jsonl", depth=5)
        >>> suspects = ce.find_false_negatives(model, mined, margin=0.5)
        >>> bool((suspects["negative_score"] > suspects["positive_score"] - 0.5).all())
        True
    """
    model = model if isinstance(model, EmbeddingModel) else load_model(model)
    row_P, rank_P = _likeliest(mined.ranking, ranks, limit)
    store, data = mined.store, mined.dataset
    query_P, negative_P = data.query_Q[row_P], mined.ranking.ids_QK[row_P, rank_P]
    pair_X, positive_X = first_positives(data, store, row_P)
    query_PD = _embed(model, store, "query", query_P)
    negative_PD, positive_XD = (_embed(model, store, "passage", ids) for ids in (negative_P, positive_X))
    negative_score_P, score_X, best_P = beside_best_positive(query_PD, negative_PD, positive_XD, pair_X)
    frame = pl.DataFrame(
        {
            "query": texts_of(store, query_P),
            "positive": texts_of(store, positive_X[best_P]),
            "negative": texts_of(store, negative_P),
            "positive_score": score_X[best_P],
            "negative_score": negative_score_P,
            "rank": rank_P.astype(np.uint32),
        }
    )
    lead = pl.col("negative_score") - pl.col("positive_score")
    return frame.filter(lead >= -margin).sort(lead, descending=True, maintain_order=True)


def texts_of(store: TextStore, ids_X: np.ndarray) -> pl.Series:
    """Return the texts of ids, str [X]; a text that occurs often is read once."""
    distinct, inverse_X = np.unique(ids_X, return_inverse=True)
    return pl.Series([store.text(int(text)) for text in distinct], dtype=pl.String)[inverse_X]


def _likeliest(ranking: Ranking, ranks: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and ranks of the `limit` negatives nearest to their query's best positive, in order of rows."""
    row_X, rank_X = np.nonzero(ranking.ids_QK[:, :ranks] != NONE)
    nearness_X = ranking.scores_QK[row_X, rank_X] - ranking.positive_Q[row_X]
    chosen = np.sort(np.argsort(-nearness_X, kind="stable")[:limit])
    return row_X[chosen], rank_X[chosen]


def _embed(model: EmbeddingModel, store: TextStore, role: str, ids_X: np.ndarray) -> np.ndarray:
    """float32 [X, D]; a text that occurs often is encoded once."""
    distinct, inverse_X = np.unique(ids_X, return_inverse=True)
    texts = [store.text(int(text)) for text in distinct]
    embeddings: np.ndarray = model.encode(texts, prompt=model.prompts[role])
    return embeddings[inverse_X]
