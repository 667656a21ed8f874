"""A bi-encoder teacher's embeddings of all texts of a run, made once and kept on disk.

Any pair of a query and a candidate then has its teacher's score for a dot product: those of in-batch candidates, and
those of negatives that are put in place during training. Rows have length 1 and half precision (cosines change by less
than 0.001): 2 bytes x width per text, memory-mapped, so that they need not fit into memory.

    cache/teacher/KEY/rows.npy      float16 [N, D]; KEY hashes the teacher and the texts with their prompts
    cache/teacher/KEY-W.npy         float32 [D, W], the W principal axes of the passages

Shapes: N texts, D width of the teacher, W width kept.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
import xxhash

from conan_embed.distributed import collectives
from conan_embed.encoder.encode import TOKEN_BUDGET
from conan_embed.encoder.fingerprint import fingerprint
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.files import atomic_write
from conan_embed.negatives.embedding import embed_with
from conan_embed.texts.store import TextStore, TextStoreBuilder
from conan_embed.texts.tasks import RetrievalDataset

_SLAB = 32_768  # texts embedded between two writes
_PCA_ROWS = 50_000


class TeacherBank:
    """Embeddings of texts by text id.

    Args:
        text_ids: int64 [N], sorted.
        rows_ND: float16 or float32, rows of length 1.
        key: names what is in it.
    """

    def __init__(self, text_ids: np.ndarray, rows_ND: np.ndarray, key: str) -> None:
        self.text_ids, self.rows_ND, self.key = text_ids, rows_ND, key

    def rows_of(self, text_ids: np.ndarray) -> np.ndarray:
        """Return float32 [len(text_ids), D]."""
        position = np.searchsorted(self.text_ids, text_ids)
        assert (self.text_ids[position] == text_ids).all(), "a text that the teacher has not seen"
        rows: np.ndarray = self.rows_ND[position].astype(np.float32)
        return rows


def make_banks(
    teacher: EmbeddingModel,
    store: TextStore,
    sets: Sequence[RetrievalDataset],
    cache: Path,
    *,
    precision: str,
) -> tuple[TeacherBank, TeacherBank]:
    """Embed the queries and the passages of all data sets with the teacher; all processes must call it.

    Args:
        teacher: on its device.

    Returns:
        the banks of queries and of passages.
    """
    queries = _ids_by_prompt(sets, teacher, query=True)
    passages = _ids_by_prompt(sets, teacher, query=False)
    return _bank(teacher, store, queries, cache, precision), _bank(teacher, store, passages, cache, precision)


def _ids_by_prompt(sets: Sequence[RetrievalDataset], teacher: EmbeddingModel, *, query: bool) -> pl.DataFrame:
    """Return id: i64, prompt: str of the texts of one side, each id once, sorted."""
    parts = []
    for data in sets:
        ids = [data.query_Q] if query else [data.passages, data.positives.values, data.given.values]
        role = "sts" if data.has_labels else "query" if query else "passage"
        unique = np.unique(np.concatenate(ids))
        parts.append(pl.DataFrame({"id": unique}).with_columns(prompt=pl.lit(teacher.prompts[role])))
    return pl.concat(parts).unique("id", keep="first", maintain_order=True).sort("id")


def _bank(
    teacher: EmbeddingModel, store: TextStore, ids: pl.DataFrame, cache: Path, precision: str
) -> TeacherBank:
    text_ids = ids["id"].to_numpy()
    key = xxhash.xxh3_128(f"{fingerprint(teacher)} {precision}".encode())
    key.update(np.ascontiguousarray(store.hashes[text_ids]).tobytes())
    key.update(repr(ids["prompt"].rle().to_list()).encode())
    folder = cache / "teacher" / key.hexdigest()
    if not collectives.all_true((folder / "rows.npy").exists()):
        _embed_all(teacher, store, ids, cache, folder, precision)
    return TeacherBank(text_ids, np.load(folder / "rows.npy", mmap_mode="r"), key.hexdigest())


def _embed_all(
    teacher: EmbeddingModel, store: TextStore, ids: pl.DataFrame, cache: Path, folder: Path, precision: str
) -> None:
    """Embed the texts, every process its share, and write the rows on each node."""
    texts = _tokenized(teacher, store, ids, cache)
    embed = embed_with(teacher, texts.store, precision, TOKEN_BUDGET)
    writes = collectives.is_local_main_process()
    with contextlib.ExitStack() as stack:
        if writes:
            aside = stack.enter_context(atomic_write(folder, first_stays=True))
            aside.mkdir(parents=True)
            shape = (len(ids), teacher.width)
            rows = np.lib.format.open_memmap(aside / "rows.npy", "w+", np.float16, shape)
        for start in range(0, len(ids), _SLAB):
            slab = texts.ids[start : start + _SLAB]
            embedding_ND = embed(slab, "teacher")
            if writes:
                rows[start : start + len(slab)] = embedding_ND.to(torch.float16).cpu().numpy()
        if writes:
            rows.flush()
    collectives.barrier()


class _Tokenized:
    """Texts as the teacher reads them: its own store, and their ids there in the order of `ids`."""

    def __init__(self, store: TextStore, ids: np.ndarray) -> None:
        self.store, self.ids = store, ids


def _tokenized(teacher: EmbeddingModel, store: TextStore, ids: pl.DataFrame, cache: Path) -> _Tokenized:
    """Tokenise on one process of each node; the others map what it wrote."""
    if not collectives.is_local_main_process():
        collectives.broadcast_on_node(None)
    builder, order = TextStoreBuilder(), []
    for (prompt,), part in ids.with_row_index("row").group_by("prompt", maintain_order=True):
        builder.add(pl.Series([store.text(text) for text in part["id"]]), str(prompt))
        order.append(part["row"].to_numpy())
    fingerprint_of_tokens = f"{teacher.max_length} {teacher.tokenizer_text()}"
    own, columns = builder.build(cache, teacher.tokenize, fingerprint=fingerprint_of_tokens)
    if collectives.is_local_main_process():
        collectives.broadcast_on_node(str(own.folder))
    own_ids = np.empty(len(ids), np.int64)
    own_ids[np.concatenate(order)] = np.concatenate(columns)
    return _Tokenized(own, own_ids)


def principal_axes(rows_ND: np.ndarray, width: int) -> np.ndarray:
    """Return float32 [D, W], the directions in which the rows are longest (no centring: cosines stay cosines).

    A sample of evenly spaced rows decides; signs are fixed, so that every process finds the same.
    """
    step = max(1, len(rows_ND) // _PCA_ROWS)
    sample = rows_ND[::step].astype(np.float64)
    _, axes_DD = np.linalg.eigh(sample.T @ sample)
    axes_DW = axes_DD[:, ::-1][:, :width]
    largest = np.abs(axes_DW).argmax(axis=0)
    signs = np.sign(axes_DW[largest, np.arange(axes_DW.shape[1])])
    return (axes_DW * signs).astype(np.float32)


def axes_of(passages: TeacherBank, width: int, cache: Path) -> np.ndarray:
    """Return float32 [D, W], the principal axes of a bank of passages, worked out by one process of each node."""
    path = cache / "teacher" / f"{passages.key}-{width}.npy"
    if not collectives.all_true(path.exists()):
        if collectives.is_local_main_process():
            with atomic_write(path) as aside, aside.open("wb") as file:
                np.save(file, principal_axes(passages.rows_ND, width))
        collectives.barrier()
    axes_DW: np.ndarray = np.load(path)
    return axes_DW
