"""Exact nearest neighbours by dot product, in blocks: the whole score matrix never exists.

A block of scores comes from one matrix product. Its best k are found in two rounds: the maxima of small
groups of neighbouring columns name k groups, then the members of these groups are looked at one by one.
(The best k elements always lie in the best k groups.) Both rounds compare *keys*: one int64 holds a score
in its upper half and the reversed index in its lower half, so keys are unique, and a larger key is a better
score or, between equal scores, a lower index. The result therefore does not depend on how a device breaks
ties, and blocks merge by taking the best k keys of two lists.

On a GPU the blocks are as large as its free memory allows.

With `precision="bfloat16"` the products keep eight bits; the best 2 k by them are scored again in float32.
Texts of one model often share a direction, which would use up these bits: so a common vector c is taken off
the corpus first. It changes no order, since q.(d - c) = q.d - q.c.

Shapes: Q queries, C corpus rows, D width, K results, N columns of a block, G groups of them, M their
members.
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from conan_embed.console import tracked
from conan_embed.device import search_device

CORPUS_BLOCK = 16384  # corpus rows a matrix product
SCORES_BLOCK = 1 << 24  # scores held at once: 64 MiB of float32
GPU_SCORES_BLOCK = 1 << 28  # where so much memory is free: large products, and few of them
OVERSAMPLING = 2  # candidates rescored per result, after a bfloat16 product
_SHORT_LIST = 16  # excluded rows of a block that are hidden one by one, however narrow the block is
_MAX_INDEX = 2**32 - 1


def search_vectors(
    queries: Tensor, corpus: Tensor, k: int, *, exclude: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return `top_k`, in main memory, of vectors there; the search runs on this process's GPU if it has one."""
    scores_QK, indices_QK = top_k(queries.to(search_device()), corpus, k, exclude=exclude)
    return scores_QK.cpu(), indices_QK.cpu()


def top_k(
    queries: Tensor,
    corpus: Tensor,
    k: int,
    *,
    precision: Literal["float32", "bfloat16"] = "float32",
    exclude: tuple[Tensor, Tensor] | None = None,
    exclude_lists: tuple[Tensor, Tensor] | None = None,
    below: Tensor | None = None,
    progress: str = "",
) -> tuple[Tensor, Tensor]:
    """Return the `k` corpus rows of largest dot product with each query, best (then lower index) first.

    Args:
        queries: `[Q, D]`, any floating type. The work is done on the device of this tensor.
        corpus: `[C, D]`, any floating type, on any device: it is converted and moved block by block.
        k: results per query, at least 1; more than C is allowed.
        precision: of the matrix products. `bfloat16` is faster and may miss a result late in the list.
        exclude: `(offsets, indices)`, int64 `[Q + 1]` and `[offsets[Q]]`: the corpus rows
            `indices[offsets[q]:offsets[q + 1]]` are never returned for query q.
        exclude_lists: `(offsets, lists)`, for lists of `exclude` that queries share, of which there may be any number:
            those of query q are `lists[offsets[q]:offsets[q + 1]]`, and no pair of a query and a row is ever kept.
        below: float32 `[Q]`, only rows that score less than this are returned for each query. It needs
            `precision="float32"`: rounded scores do not say which rows these are.
        progress: text of a progress bar; empty for none.

    Returns:
        scores: float32 `[Q, K]`, computed in float32 in both precisions.
        indices: int64 `[Q, K]`. Where fewer than `k` rows are allowed the rest is index -1, score -inf.
    """
    assert k >= 1
    assert below is None or precision == "float32"
    num_queries, num_rows = len(queries), len(corpus)
    is_rounded = precision == "bfloat16"
    num_candidates = OVERSAMPLING * k if is_rounded else k
    query_step = max(1, _scores_at_once(queries.device) // max(1, min(CORPUS_BLOCK, num_rows)))

    device, dtype = queries.device, torch.bfloat16 if is_rounded else torch.float32
    queries_QD = queries.to(dtype)
    centre_D = corpus[:CORPUS_BLOCK].to(device, torch.float32).mean(dim=0)
    excluded = None if exclude is None else _Excluded(exclude, exclude_lists, num_rows, device)
    below_Q1 = None if below is None else below.to(device, torch.float32)[:, None]
    worst = _keys(torch.tensor(-torch.inf), torch.tensor(_MAX_INDEX))
    best_QK = worst.to(device).expand(num_queries, num_candidates).clone()

    corpus_starts: Iterable[int] = range(0, num_rows, CORPUS_BLOCK)
    for start in tracked(corpus_starts, progress) if progress else corpus_starts:
        block_ND = corpus[start : start + CORPUS_BLOCK].to(device, torch.float32)
        if is_rounded:
            block_ND = (block_ND - centre_D).to(dtype)
        for first in range(0, num_queries, query_step):
            rows = slice(first, min(first + query_step, num_queries))
            scores_QN = queries_QD[rows] @ block_ND.T
            if excluded is not None:
                excluded.hide(scores_QN, rows, start)
            if below_Q1 is not None:
                scores_QN.masked_fill_(scores_QN >= below_Q1[rows], -torch.inf)
            block_QK = _best_keys(scores_QN, num_candidates, start)
            best_QK[rows] = torch.cat([best_QK[rows], block_QK], dim=1).topk(num_candidates, dim=1).values

    if is_rounded:
        best_QK = _rescore(best_QK, queries, corpus).topk(k, dim=1).values
    scores_QK, indices_QK = _from_keys(best_QK)
    return scores_QK, indices_QK.masked_fill(scores_QK == -torch.inf, -1)


class _Excluded:
    """Corpus rows hidden from each query: lists of rows, and the lists of each query (by default one of its own).

    Within a block, short lists become pairs of a query and a row; a list with many of the block's rows becomes a mask
    over them, which the queries share: a class has thousands of texts, each of them hidden from all the others.
    """

    def __init__(
        self,
        lists: tuple[Tensor, Tensor],
        lists_of_query: tuple[Tensor, Tensor] | None,
        num_rows: int,
        device: torch.device,
    ) -> None:
        offsets, indices = (part.to(device) for part in lists)
        number = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=device), offsets.diff())
        self.num_rows = max(num_rows, 1)
        self.entries = (number * self.num_rows + indices).sort().values  # list and row as one number each
        if lists_of_query is None:
            lists_of_query = torch.arange(len(offsets)), torch.arange(len(offsets) - 1)
        self.offsets, self.lists = lists_of_query[0].cpu(), lists_of_query[1].to(device)

    def hide(self, scores_QN: Tensor, rows: slice, start: int) -> None:
        """Set the hidden scores of a block (queries `rows`, corpus rows from `start`) to -inf, in place."""
        num_columns, device = scores_QN.shape[1], scores_QN.device
        bounds = self.offsets[rows.start : rows.stop + 1]
        list_X = self.lists[int(bounds[0]) : int(bounds[-1])]
        query_X = torch.repeat_interleave(torch.arange(len(scores_QN)), bounds.diff()).to(device)
        first_X = torch.searchsorted(self.entries, list_X * self.num_rows + start)
        last_X = torch.searchsorted(self.entries, list_X * self.num_rows + start + num_columns)
        is_long_X = last_X - first_X > max(_SHORT_LIST, num_columns // 64)
        short_X = ~is_long_X
        which, column = self._columns(first_X[short_X], last_X[short_X], start)
        scores_QN[query_X[short_X][which], column] = -torch.inf
        if is_long_X.any():
            long, mask_of_X = list_X[is_long_X].unique(return_inverse=True)
            first = torch.searchsorted(self.entries, long * self.num_rows + start)
            last = torch.searchsorted(self.entries, long * self.num_rows + start + num_columns)
            mask_UN = torch.zeros(len(long), num_columns, dtype=torch.bool, device=device)
            which, column = self._columns(first, last, start)
            mask_UN[which, column] = True
            _hide_by_mask(scores_QN, mask_UN, query_X[is_long_X], mask_of_X)

    def _columns(self, first_X: Tensor, last_X: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Return the columns of the block in which ranges of entries lie, after the range that each belongs to."""
        counts_X = last_X - first_X
        which = torch.repeat_interleave(torch.arange(len(counts_X), device=counts_X.device), counts_X)
        before_X = counts_X.cumsum(0) - counts_X
        entry = torch.arange(len(which), device=which.device) + (first_X - before_X)[which]
        return which, self.entries[entry] % self.num_rows - start


def _hide_by_mask(scores_QN: Tensor, mask_UN: Tensor, query_X: Tensor, mask_of_X: Tensor) -> None:
    """Hide what the masks of each query say; `query_X` is ascending, and a query may have several."""
    turn_X = torch.arange(len(query_X), device=query_X.device) - torch.searchsorted(query_X, query_X)
    for turn in range(int(turn_X.max()) + 1):
        query, mask = query_X[turn_X == turn], mask_of_X[turn_X == turn]
        if len(query) == len(scores_QN):  # each query has one: no copy of the scores
            scores_QN.masked_fill_(mask_UN[mask], -torch.inf)
        else:
            scores_QN[query] = scores_QN[query].masked_fill_(mask_UN[mask], -torch.inf)


def _scores_at_once(device: torch.device) -> int:
    """Return how many scores a block holds; with keys and indices each takes some 32 bytes at worst."""
    if device.type != "cuda":
        return SCORES_BLOCK
    free, _ = torch.cuda.mem_get_info(device)
    return max(1 << 20, min(GPU_SCORES_BLOCK, free // 2 // 32))


def _keys(scores: Tensor, indices: Tensor) -> Tensor:
    """Pack float32 scores and indices below 2^32 into int64 keys, which sort by score, then index."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: 0.0 and -0.0 are equal scores and need equal bits
    # The bits of a negative float grow as it falls; turned around below the sign they sort as ints do.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_MAX_INDEX - indices)


def _from_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `_keys`: float32 scores and int64 indices."""
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores, _MAX_INDEX - (keys & _MAX_INDEX)


def _best_keys(scores_QN: Tensor, k: int, start: int) -> Tensor:
    """Return the keys of the best `min(k, N)` scores of each row, in any order; column 0 is row `start`.

    Scores of 16 bits are widened (exactly) once they are few: their block is the largest thing that moves.
    """
    num_columns, device = scores_QN.shape[1], scores_QN.device
    # Groups of about sqrt(N / k) columns make both rounds equally long.
    size = 1 << round(math.log2(max(1.0, num_columns / k)) / 2)
    if size == 1:
        keys_QN = _keys(scores_QN.float(), torch.arange(num_columns, device=device) + start)
        return keys_QN.topk(min(k, num_columns), dim=1, sorted=False).values
    if num_columns % size:
        scores_QN = torch.nn.functional.pad(scores_QN, (0, -num_columns % size), value=-torch.inf)
    maxima_QG = scores_QN.unflatten(1, (-1, size)).amax(dim=2)
    groups_G = torch.arange(maxima_QG.shape[1], device=device)
    _, groups_QK = _from_keys(_keys(maxima_QG.float(), groups_G).topk(k, dim=1, sorted=False).values)
    members_QM = (groups_QK[:, :, None] * size + torch.arange(size, device=device)).flatten(1)
    keys_QM = _keys(scores_QN.gather(1, members_QM).float(), members_QM + start)
    return keys_QM.topk(k, dim=1, sorted=False).values


def _rescore(keys_QK: Tensor, queries: Tensor, corpus: Tensor) -> Tensor:
    """Replace the scores inside the keys by float32 dot products, where the score is not -inf."""
    columns = max(1, SCORES_BLOCK // max(1, queries.shape[1]))  # vectors gathered at once
    rows = max(1, columns // keys_QK.shape[1])
    parts = [
        torch.cat([_rescore_block(part, block_QD, corpus) for part in keys.split(columns, dim=1)], dim=1)
        for keys, block_QD in zip(keys_QK.split(rows), queries.split(rows), strict=True)
    ]
    return torch.cat(parts)


def _rescore_block(keys_QK: Tensor, queries_QD: Tensor, corpus: Tensor) -> Tensor:
    scores_QK, indices_QK = _from_keys(keys_QK)
    hidden_QK = scores_QK == -torch.inf
    rows_QK = indices_QK.masked_fill(hidden_QK, 0).to(corpus.device)
    candidates_QKD = corpus[rows_QK].to(queries_QD.device, torch.float32)
    exact_QK = (candidates_QKD * queries_QD.float()[:, None, :]).sum(dim=2)
    return _keys(exact_QK.masked_fill(hidden_QK, -torch.inf), indices_QK)
