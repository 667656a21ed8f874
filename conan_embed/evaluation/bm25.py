"""BM25: what plain word search finds, a baseline that every embedding model should beat.

Words are lower-cased and stemmed (Snowball, English) where PyStemmer is installed; Chinese, Japanese and Korean are
cut into overlapping pairs of characters, as Lucene's CJK analyser does. The formula is Lucene's (k1 = 1.2, b = 0.75).

Shapes: Q queries, C documents, K ranks, V terms of the queries.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

K1, B = 1.2, 0.75
_CHUNK = 20_000  # documents at once
_SCORES = 1 << 24  # scores at once
_WORD = r"[\p{L}\p{N}_&&[^\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]]+"
_RUN = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]+"


def bm25_top_k(queries: Sequence[str], documents: Sequence[str], k: int) -> NDArray[np.int64]:
    """Return the documents that BM25 finds for each query, best first (then lower index): int64 [Q, K], -1 for none.

    Documents pass through a chunk at a time, and of their terms only those of the queries are kept.
    """
    asked = _terms(queries)
    vocabulary = asked["term"].unique().sort()
    query_QV = _matrix(asked, vocabulary, len(queries))
    lengths_C = np.zeros(len(documents))
    parts = []
    for start, terms in _chunks(documents):
        lengths_C += np.bincount(terms["text"] + start, terms["count"], minlength=len(documents))
        parts.append(_matrix(terms, vocabulary, min(_CHUNK, len(documents) - start)))
    counts_CV = _stack(parts, len(documents), len(vocabulary))
    weight_VC = _weights(counts_CV, lengths_C).T.tocsr()
    rows = max(1, _SCORES // max(1, len(documents)))
    found = [_best(query_QV[start : start + rows] @ weight_VC, k) for start in range(0, len(queries), rows)]
    return np.concatenate(found) if found else np.zeros((0, k), np.int64)


def _chunks(documents: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    for start in range(0, len(documents), _CHUNK):
        yield start, _terms(documents[start : start + _CHUNK])


def _terms(texts: Sequence[str]) -> pl.DataFrame:
    """Return the terms of each text: text (its position), term, count."""
    frame = pl.DataFrame({"term": texts}, schema={"term": pl.String}).with_row_index("text")
    frame = frame.with_columns(pl.col("term").str.to_lowercase())
    words = frame.with_columns(pl.col("term").str.extract_all(_WORD)).explode("term").drop_nulls()
    runs = frame.with_columns(pl.col("term").str.extract_all(_RUN)).explode("term").drop_nulls()
    single = runs.filter(pl.col("term").str.len_chars() == 1)
    pairs = [runs.with_columns(pl.col("term").str.slice(offset).str.extract_all("..")) for offset in (0, 1)]
    parts = [_stemmed(words), single, *(part.explode("term").drop_nulls() for part in pairs)]
    return pl.concat(parts).group_by("text", "term").agg(count=pl.len()).sort("text", "term")


def _stemmed(words: pl.DataFrame) -> pl.DataFrame:
    stem = _stemmer()
    if stem is None:
        return words
    unique = words["term"].unique()
    stems = pl.DataFrame(
        {"term": unique, "stem": stem(unique.to_list())}, schema_overrides={"stem": pl.String}
    )
    return words.join(stems, on="term", maintain_order="left").select("text", term="stem")


def _stemmer() -> Callable[[list[str]], list[str]] | None:
    try:
        import Stemmer
    except ImportError:
        return None
    stem: Callable[[list[str]], list[str]] = Stemmer.Stemmer("english").stemWords
    return stem


def _matrix(terms: pl.DataFrame, vocabulary: pl.Series, rows: int) -> csr_array:
    """Return counts of the vocabulary's terms, [rows, V]."""
    numbers = pl.DataFrame({"term": vocabulary}).with_row_index("number")
    known = terms.join(numbers, on="term")
    entries = (known["text"].to_numpy().astype(np.int64), known["number"].to_numpy().astype(np.int64))
    values = known["count"].to_numpy().astype(np.float32)
    return csr_array((values, entries), shape=(rows, len(vocabulary)))


def _stack(parts: list[csr_array], rows: int, columns: int) -> csr_array:
    if not parts:
        return csr_array((rows, columns), dtype=np.float32)
    data, indices = (np.concatenate([getattr(part, name) for part in parts]) for name in ("data", "indices"))
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    return csr_array((data, indices, np.concatenate([[0], np.cumsum(lengths)])), shape=(rows, columns))


def _weights(counts_CV: csr_array, lengths_C: NDArray[np.floating]) -> csr_array:
    """Return what each term of each document adds to a query's score (Robertson and Zaragoza 2009, equation 3.15)."""
    num_documents = max(counts_CV.shape[0], 1)
    frequency_V = np.bincount(counts_CV.indices, minlength=counts_CV.shape[1])
    idf_V = np.log1p((num_documents - frequency_V + 0.5) / (frequency_V + 0.5))
    norm_C = K1 * (1 - B + B * lengths_C / max(lengths_C.mean() if len(lengths_C) else 0, 1e-9))
    row = np.repeat(np.arange(counts_CV.shape[0]), np.diff(counts_CV.indptr))
    count = counts_CV.data
    value = idf_V[counts_CV.indices] * count / (count + norm_C[row])
    return csr_array((value.astype(np.float32), counts_CV.indices, counts_CV.indptr), shape=counts_CV.shape)


def _best(scores: csr_array, k: int) -> NDArray[np.int64]:
    scores_QC = scores.toarray()
    order = np.argsort(-scores_QC, axis=1, kind="stable")[:, :k]
    found = np.where(np.take_along_axis(scores_QC, order, axis=1) > 0, order, -1)
    return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=-1)
