"""By what negatives are replaced that the model has learned: the sources of `hard_negatives.source`.

- `ranking`: the next window of the ranking mined before training (the paper).
- `bank`: a ranking made anew from the bank of passage embeddings that training keeps fresh (bank.py).
- `remine`: a ranking made anew from the whole corpus, embedded again at the check: the honest upper bound.
- `static`: nothing.

Positive-aware bounds, the mining offset and the masking of known positives hold for all of them.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from conan_embed.errors import UserError
from conan_embed.negatives.bank import PassageBank, passages_of
from conan_embed.negatives.embedding import Embed
from conan_embed.negatives.mining import rank
from conan_embed.negatives.rankings import NONE, widened
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.schema import Mining, Replacement
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset


class Source(Protocol):
    """Where new negatives come from."""

    @property
    def bank(self) -> PassageBank | None:
        """Passage embeddings that training keeps fresh, or None."""
        ...

    def replace(self, rows: np.ndarray) -> np.ndarray:
        """Put other negatives in place for the queries `rows` of the table; return those that got some."""
        ...


class Static:
    """Never replaces anything."""

    bank = None

    def replace(self, rows: np.ndarray) -> np.ndarray:
        return rows[:0]


class NextWindow:
    """The next window of the ranking that a query has."""

    bank = None

    def __init__(self, table: NegativeTable, *, restart: bool) -> None:
        self.table, self.restart = table, restart

    def replace(self, rows: np.ndarray) -> np.ndarray:
        return self.table.next_window(rows, restart=self.restart)


class Remine:
    """Rankings made anew with the model as it is now, over the corpus embedded again.

    Negatives that were given or drawn have no corpus to be ranked from: they take the next window of their lists.
    """

    bank: PassageBank | None = None

    def __init__(
        self,
        table: NegativeTable,
        sets: Sequence[RetrievalDataset],
        store: TextStore,
        embed: Embed,
        settings: Mining,
        *,
        restart: bool,
    ) -> None:
        self.table, self.sets, self.store, self.embed, self.mining = table, sets, store, embed, settings
        self.next_window = NextWindow(table, restart=restart)
        sizes = [len(data) for data in sets]
        self.first_rows = np.cumsum([0, *sizes[:-1]])
        self.is_mined_Q = np.repeat([data.negative_source == "mined" for data in sets], sizes)

    def replace(self, rows: np.ndarray) -> np.ndarray:
        replaced = [self.next_window.replace(rows[~self.is_mined_Q[rows]])]
        for data, first in zip(self.sets, self.first_rows, strict=True):
            of_set = rows[(rows >= first) & (rows < first + len(data))]
            if len(of_set) and data.negative_source == "mined":
                replaced.append(self._rank_anew(data, of_set, int(first)))
        return np.sort(np.concatenate(replaced))

    def _rank_anew(self, data: RetrievalDataset, rows: np.ndarray, first: int) -> np.ndarray:
        """Give queries of a data set new rankings, where these hold at least one whole window."""
        query_ND, passage_MD = self._vectors(data, rows - first)
        ranking = rank(data, self.store, rows - first, query_ND, passage_MD, self.mining)
        ids = ranking.usable(self.mining.offset)
        enough = (ids != NONE).sum(axis=1) >= self.table.num_negatives
        self.table.replace_rankings(rows[enough], widened(ids[enough], self.table.ranking_QK.shape[1]))
        return rows[enough]

    def _vectors(self, data: RetrievalDataset, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float [N, D] of these queries and [M, D] of all passages of the data set, rows of length 1."""
        query_ND = self.embed(data.query_Q[rows], "")
        return query_ND, self.embed(data.passages, f"{data.name}: passages, embedded again")


class Bank(Remine):
    """Rankings made anew from the bank: one small matrix product instead of the corpus embedded again."""

    bank: PassageBank

    def __init__(
        self,
        table: NegativeTable,
        sets: Sequence[RetrievalDataset],
        store: TextStore,
        embed: Embed,
        settings: Mining,
        *,
        restart: bool,
        width: int,
    ) -> None:
        super().__init__(table, sets, store, embed, settings, restart=restart)
        mined = [data.passages for data in sets if data.negative_source == "mined"]
        if not mined:
            raise UserError(
                "hard_negatives.source: bank ranks mined negatives anew; expected a data set with them."
            )
        self.bank = PassageBank(passages_of(mined), width)

    def _vectors(self, data: RetrievalDataset, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        query_ND = self.embed(data.query_Q[rows], "")
        prefix_ND = torch.nn.functional.normalize(query_ND[:, : self.bank.width], dim=1)
        return prefix_ND, self.bank.rows_of(data.passages).to(query_ND.device)


def make_source(
    settings: Replacement,
    mining: Mining,
    table: NegativeTable,
    sets: Sequence[RetrievalDataset],
    store: TextStore,
    embed: Embed,
    *,
    width: int,
) -> Source:
    """Return the source that the recipe names.

    Args:
        width: of the embeddings; a bank keeps at most so many dimensions.
    """
    restart = settings.on_exhausted == "restart"
    if settings.source == "static":
        return Static()
    if settings.source == "ranking":
        return NextWindow(table, restart=restart)
    if settings.source == "remine":
        return Remine(table, sets, store, embed, mining, restart=restart)
    width = min(settings.bank_width or width, width)
    return Bank(table, sets, store, embed, mining, restart=restart, width=width)
