"""Dynamic hard negative mining: every `interval` steps, replace the negatives that the model has learned.

*When* a query's negatives are replaced is the paper's rule (table.py). *By what* is a choice:

- `ranking`: the next window of the ranking mined before training (the paper).
- `bank`: a ranking made anew from the bank of passage embeddings that training keeps fresh (bank.py).
- `remine`: a ranking made anew from the whole corpus, embedded again at the check: the honest upper bound.

Positive-aware bounds, the mining offset and the masking of known positives hold for all of them.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from conan_embed.errors import UserError
from conan_embed.negatives import mining
from conan_embed.negatives.bank import PassageBank, passages_of
from conan_embed.negatives.mining import Embed, Spread, alone
from conan_embed.negatives.table import NONE, Check, NegativeTable
from conan_embed.recipes.schema import Mining, Replacement
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset


@dataclass
class DynamicNegatives:
    """Watches a table of hard negatives and renews it.

    Attributes:
        settings, mining: the recipe's sections.
        sets: the data sets, in the order of the table's rows.
        embed: embeds texts with the model as it is now.
        spread: shares out the search of a ranking made anew.
        bank: for `source: bank`, else None.
    """

    settings: Replacement
    mining: Mining
    table: NegativeTable
    sets: list[RetrievalDataset]
    store: TextStore
    embed: Embed
    bank: PassageBank | None = None
    spread: Spread = alone
    _seconds_in_steps: float = 0.0

    @classmethod
    def start(
        cls,
        settings: Replacement,
        mining_settings: Mining,
        table: NegativeTable,
        sets: list[RetrievalDataset],
        store: TextStore,
        embed: Embed,
        *,
        width: int,
        fill: bool,
        spread: Spread = alone,
    ) -> "DynamicNegatives":
        """Make what the source needs; `fill`: embed all passages into a new bank (a resumed one is loaded instead)."""
        dynamic = cls(settings, mining_settings, table, sets, store, embed, spread=spread)
        if settings.source == "bank":
            mined = [data.passages for data in sets if data.negative_source == "mined"]
            if not mined:
                raise UserError(
                    "hard_negatives.source: bank ranks mined negatives anew; expected a data set with them."
                )
            dynamic.bank = PassageBank(passages_of(mined), min(settings.bank_width or width, width))
            if fill:
                dynamic.bank.write(dynamic.bank.passages, embed(dynamic.bank.passages, "filling the bank"), 0)
        return dynamic

    def checks_after(self, step: int) -> bool:
        """Tell whether negatives may be replaced after step `step` (counted from 1)."""
        return self.settings.source != "static" and step % self.settings.interval == 0

    def after_step(
        self, step: int, text_ids: np.ndarray, embedding_UD: torch.Tensor
    ) -> dict[str, Any] | None:
        """Note what step `step` (counted from 1) embedded; at a check, replace and return its figures.

        Args:
            text_ids: int64 [U], the step's unique texts.
            embedding_UD: float [U, D], their embeddings.
        """
        started = time.perf_counter()
        if self.bank is not None:
            self.bank.write(text_ids, embedding_UD, step)
            extra = self.bank.oldest(self.settings.refresh)
            if len(extra):
                self.bank.write(extra, self.embed(extra, ""), step)
        self._seconds_in_steps += time.perf_counter() - started
        if not self.checks_after(step):
            return None
        check = self._check()
        line: dict[str, Any] = {
            "step": step,
            "observed": check.observed,
            "flagged": len(check.flagged),
            "replaced": len(check.replaced),
            "exhausted": check.exhausted,
            "exhausted_share": check.exhausted / len(self.table),
            "mean_initial": _number(check.mean_initial),
            "mean_current": _number(check.mean_current),
            "mean_rank": check.mean_rank,
            "seconds": time.perf_counter() - started,
            "seconds_between": self._seconds_in_steps,
        }
        if self.bank is not None:
            line["bank_age"], line["bank_age_max"] = self.bank.age(step)
        self._seconds_in_steps = 0.0
        return line

    def _check(self) -> Check:
        settings = self.settings
        if settings.source == "ranking":
            return self.table.check(settings.decay, settings.max_score, on_exhausted=settings.on_exhausted)
        flagged = self.table.no_longer_hard(settings.decay, settings.max_score)
        renewable, rankings = self._ranked_anew(flagged)
        # Negatives that were given or drawn have no corpus to be ranked from: they go on along their lists.
        listed = flagged[~self._is_mined(flagged)]
        moves = self.table.next_windows(listed, settings.on_exhausted)
        check = self.table.report(flagged, np.sort(np.concatenate([renewable, moves[0]])))
        self.table.move(*moves)
        if len(renewable):
            self.table.replace_rankings(renewable, rankings)
        return check

    def _is_mined(self, rows: np.ndarray) -> np.ndarray:
        mined = np.repeat(
            [data.negative_source == "mined" for data in self.sets], [len(data) for data in self.sets]
        )
        return mined[rows]

    def _ranked_anew(self, flagged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the flagged queries that got a ranking with at least one whole window, and these rankings."""
        rows_parts, ranking_parts = [np.empty(0, np.int64)], []
        start = 0
        for data in self.sets:
            mine = flagged[(flagged >= start) & (flagged < start + len(data))]
            if len(mine) and data.negative_source == "mined":
                ids = self._rank(data, mine - start)
                enough = (ids != NONE).sum(axis=1) >= self.table.num_negatives
                rows_parts.append(mine[enough])
                ranking_parts.append(_padded(ids[enough], self.table.ranking_QK.shape[1]))
            start += len(data)
        rows = np.concatenate(rows_parts)
        width = self.table.ranking_QK.shape[1]
        return rows, np.concatenate([np.empty((0, width), np.int32), *ranking_parts])

    def _rank(self, data: RetrievalDataset, rows: np.ndarray) -> np.ndarray:
        query_ND = self.embed(data.query_Q[rows], "")
        if self.bank is None:
            passage_MD = self.embed(data.passages, f"{data.name}: passages, embedded again")
        else:
            passage_MD = self.bank.rows_of(data.passages).to(query_ND.device)
            query_ND = torch.nn.functional.normalize(query_ND[:, : self.bank.width], dim=1)
        ranking = mining.rank(data, self.store, rows, query_ND, passage_MD, self.mining, self.spread)
        return mining.usable(ranking, self.mining.offset)

    def state(self) -> dict[str, np.ndarray]:
        """Return the table and the bank, for a checkpoint."""
        return {**self.table.state(), **(self.bank.state() if self.bank is not None else {})}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        banked = {name: values for name, values in state.items() if name.startswith("bank_")}
        self.table.load_state({name: values for name, values in state.items() if name not in banked})
        if self.bank is not None:
            self.bank.load_state(banked)


def _padded(ids: np.ndarray, width: int) -> np.ndarray:
    ids = ids[:, :width]
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=NONE)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
