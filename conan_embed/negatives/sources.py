"""By what negatives are replaced that the model has learned: the sources of `hard_negatives.source`.

- `ranking`: the next ranks of the ranking mined before training (the paper).
- `bank`: a ranking made anew from the bank of passage embeddings that training keeps fresh (bank.py).
- `remine`: a ranking made anew from the whole corpus, embedded again at the check: the honest upper bound.
- `static`: nothing.

Positive-aware bounds, the mining offset and the masking of known positives hold for all of them. S_0 of what a ranking
made anew puts in place is the score that ranked it, at full width; of the next ranks of an old ranking it is the first
that training sees, since an older model made the score that is known.

Shapes: R queries, n negatives of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from conan_embed.errors import UserError
from conan_embed.negatives.bank import PassageBank, passages_of
from conan_embed.negatives.embedding import Embed
from conan_embed.negatives.mining import rank
from conan_embed.negatives.rankings import Ranking, known_scores
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.sections import Mining, Replacement
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset


class Source(Protocol):
    """Where new negatives come from."""

    @property
    def bank(self) -> PassageBank | None:
        """Passage embeddings that training keeps fresh, or None."""
        ...

    def replace(self, rows: np.ndarray, slots_RN: np.ndarray, *, whole: bool) -> np.ndarray:
        """Put other negatives into slots of the table.

        Args:
            rows: int64 [R], queries, ascending.
            slots_RN: bool [R, n], their slots.
            whole: all slots of a query or none (table.py).

        Returns:
            bool [R, n], the slots that got another negative.
        """
        ...


class Static:
    """Never replaces anything."""

    bank = None

    def replace(self, rows: np.ndarray, slots_RN: np.ndarray, *, whole: bool) -> np.ndarray:
        return np.zeros_like(slots_RN)


class NextWindow:
    """The next ranks of the ranking that a query has."""

    bank = None

    def __init__(self, table: NegativeTable, *, restart: bool) -> None:
        self.table, self.restart = table, restart

    def replace(self, rows: np.ndarray, slots_RN: np.ndarray, *, whole: bool) -> np.ndarray:
        return self.table.advance(rows, slots_RN, whole=whole, restart=self.restart)


@dataclass
class Remine:
    """Rankings made anew with the model as it is now, over the corpus embedded again.

    Negatives that were given, or drawn at random where unlabelled answers may hide, have no corpus to be ranked from:
    they take the next ranks of their lists. Texts of other classes are no answers, so that classification takes part.

    Attributes:
        sets: the data sets, in the order of the table's rows.
        embed: with the model as it is at the check.
        mining, settings: the recipe's sections.
    """

    table: NegativeTable
    sets: Sequence[RetrievalDataset]
    store: TextStore
    embed: Embed
    mining: Mining
    settings: Replacement
    bank: PassageBank | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.next_window = NextWindow(self.table, restart=self.settings.on_exhausted == "restart")
        sizes = [len(data) for data in self.sets]
        self.first_rows = np.cumsum([0, *sizes[:-1]])
        self.is_ranked_Q = np.repeat([is_ranked_anew(data) for data in self.sets], sizes)

    def replace(self, rows: np.ndarray, slots_RN: np.ndarray, *, whole: bool) -> np.ndarray:
        replaced_RN = np.zeros_like(slots_RN)
        listed = ~self.is_ranked_Q[rows]
        replaced_RN[listed] = self.next_window.replace(rows[listed], slots_RN[listed], whole=whole)
        for number, (data, first) in enumerate(zip(self.sets, self.first_rows.tolist(), strict=True)):
            of_set = (rows >= first) & (rows < first + len(data))
            if of_set.any() and is_ranked_anew(data):
                ranking = self._rank(data, rows[of_set] - first)
                replaced_RN[of_set] = self.table.renew(
                    rows[of_set],
                    slots_RN[of_set],
                    ranking.ids_QK,
                    self._scores(ranking, number),
                    whole=whole,
                )
        return replaced_RN

    def _rank(self, data: RetrievalDataset, rows: np.ndarray) -> Ranking:
        query_ND, passage_MD = self._vectors(data, rows)
        n = self.table.num_negatives
        # Beyond the mined depth where the bound leaves too little: n to put in place, beside n in use.
        min_usable = max(self.mining.min_usable, 2 * n)
        ranking = rank(data, self.store, rows, query_ND, passage_MD, self.mining, min_usable=min_usable)
        return ranking.usable(self.mining.offset)

    def _scores(self, ranking: Ranking, number: int) -> np.ndarray | None:
        """Return S_0 of the negatives of data set `number`; None where it is not known."""
        backgrounds = self.table.backgrounds
        return known_scores(ranking, 0.0 if backgrounds is None else float(backgrounds.value_S[number]))

    def _vectors(self, data: RetrievalDataset, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float [R, D] of these queries and [M, D] of all passages of the data set, rows of length 1."""
        query_ND = self.embed(data.query_Q[rows], "")
        return query_ND, self.embed(data.passages, f"{data.name}: passages, embedded again")


def is_ranked_anew(data: RetrievalDataset) -> bool:
    """Tell whether `bank` and `remine` rank the passages of a data set."""
    return data.negative_source == "mined" or (data.has_labels and data.negative_source == "random")


def uses_up_a_list(data: RetrievalDataset, source: str) -> bool:
    """Tell whether the negatives of a data set are replaced by the next of a list, which ends some time.

    Args:
        source: `hard_negatives.source`.
    """
    return data.negative_source != "none" and (source == "ranking" or not is_ranked_anew(data))


@dataclass
class Bank(Remine):
    """Rankings made anew from the bank: one small matrix product instead of the corpus embedded again.

    Attributes:
        full_width: of the embeddings; the bank keeps a prefix of at most `settings.bank_width` of them.
    """

    full_width: int
    bank: PassageBank = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        mined = [data.passages for data in self.sets if is_ranked_anew(data)]
        if not mined:
            raise UserError(
                "hard_negatives.source: bank ranks mined negatives anew; expected a data set with them."
            )
        width = min(self.settings.bank_width or self.full_width, self.full_width)
        self.bank = PassageBank(passages_of(mined), width)

    def _scores(self, ranking: Ranking, number: int) -> np.ndarray | None:
        # A prefix has cosines of its own.
        return super()._scores(ranking, number) if self.bank.width == self.full_width else None

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
        width: of the embeddings.
    """
    if settings.source == "static":
        return Static()
    if settings.source == "ranking":
        return NextWindow(table, restart=settings.on_exhausted == "restart")
    if settings.source == "remine":
        return Remine(table, sets, store, embed, mining, settings)
    return Bank(table, sets, store, embed, mining, settings, width)
