"""Dynamic hard negative mining: every `interval` steps, replace the negatives that the model has learned.

Which negatives those are is said by a rule (rules.py), from the scores that the table holds (table.py). By what they
are replaced is said by a source (sources.py). The check that asks the one and tells the other stands here, once. It
judges what training saw since the last check; at an interval of 1 that is what the step saw.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from conan_embed.negatives.embedding import Embed
from conan_embed.negatives.rules import make_rule, mean_scores
from conan_embed.negatives.sources import Source, is_ranked_anew, make_source, uses_up_a_list
from conan_embed.negatives.table import NegativeTable, mean
from conan_embed.recipes.sections import Mining, Replacement
from conan_embed.texts.store import TextStore
from conan_embed.texts.tasks import RetrievalDataset


@dataclass(frozen=True)
class CheckRecord:
    """What one check saw and did: a line of negatives.jsonl.

    Attributes:
        step: optimizer steps done.
        seen: queries seen since the last check.
        observed: queries seen since the last check of which S_0 and S are known.
        flagged: queries with negatives that are no longer hard; and how many negatives those are.
        replaced: queries that got new negatives; and how many took the place of others.
        filled_negatives: new negatives in slots that were empty, since a bound had left too few.
        exhausted: queries that use up a list and had nothing further in it before the check; and their share of all.
        mean_initial, mean_current: means of S_0 and S over the observed queries, before the check; None without any.
        mean_rank: mean rank of the negatives in use, from 0, before the check.
        seconds: that the check took; and that the source took in the steps since the last one.
        bank_age, bank_age_max: steps since the rows of the bank were written; None without a bank.
    """

    step: int
    seen: int
    observed: int
    flagged: int
    replaced: int
    flagged_negatives: int
    replaced_negatives: int
    exhausted: int
    exhausted_share: float
    mean_initial: float | None
    mean_current: float | None
    mean_rank: float
    filled_negatives: int = 0
    seconds: float = 0.0
    seconds_between: float = 0.0
    bank_age: float | None = None
    bank_age_max: int | None = None

    def __str__(self) -> str:
        """Return what was replaced, in one line."""
        fall = ""
        if self.mean_initial is not None and self.mean_current is not None:
            fall = f"; mean score {self.mean_initial:.2f} when put in place, {self.mean_current:.2f} now"
        filled = f", filled {self.filled_negatives:,} empty places" if self.filled_negatives else ""
        spent = f"; {self.exhausted:,} have nothing further in their ranking" if self.exhausted else ""
        return (
            f"step {self.step:,}: replaced {self.replaced_negatives:,} hard negatives of {self.replaced:,} of "
            f"{self.seen:,} queries seen{filled}{fall}{spent}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as a line of negatives.jsonl; without a bank, its keys are left out."""
        record = asdict(self)
        if self.bank_age is None:
            del record["bank_age"], record["bank_age_max"]
        return record


class DynamicNegatives:
    """Watches a table of hard negatives and renews it.

    Args:
        settings, mining: the recipe's sections.
        table: of the data sets, one under the other.
        sets: the data sets, in the order of the table's rows.
        store: their texts.
        embed: embeds texts with the model as it is now.
        width: of the embeddings.
        fill: embeds the passages of a new bank, set by set as mining does; None for a bank that is loaded (a resumed
            run) or none.
    """

    def __init__(
        self,
        settings: Replacement,
        mining: Mining,
        table: NegativeTable,
        sets: list[RetrievalDataset],
        store: TextStore,
        embed: Embed,
        *,
        width: int,
        fill: Embed | None,
    ) -> None:
        self.settings, self.table, self.sets, self.store, self.embed = settings, table, sets, store, embed
        self.source: Source = make_source(settings, mining, table, sets, store, embed, width=width)
        self.rule = make_rule(settings)
        self.replaced = np.empty(0, np.int64)  # queries that the last check gave new negatives
        sizes = [len(data) for data in sets]
        is_anew = [settings.source in ("bank", "remine") and is_ranked_anew(data) for data in sets]
        self._is_ranked_anew_Q = np.repeat(is_anew, sizes)
        self._uses_up_Q = np.repeat([uses_up_a_list(data, settings.source) for data in sets], sizes)
        self._seconds_between = 0.0
        if (bank := self.source.bank) is not None and fill is not None:
            for data in filter(is_ranked_anew, sets):
                bank.write(data.passages, fill(data.passages, f"{data.name}: filling the bank"), 0)

    def checks_after(self, step: int) -> bool:
        """Tell whether negatives may be replaced after step `step` (counted from 1)."""
        return self.settings.source != "static" and step % self.settings.interval == 0

    def after_step(
        self, step: int, text_ids: np.ndarray, embedding_UD: torch.Tensor, *, is_last: bool = False
    ) -> CheckRecord | None:
        """Note what step `step` (counted from 1) embedded; at a check, replace negatives and return its figures.

        Args:
            text_ids: int64 [U], the step's unique texts.
            embedding_UD: float [U, D], their embeddings.
            is_last: the run ends here: no step would see new negatives, and none are looked for.
        """
        started = time.perf_counter()
        self._refresh_bank(step, text_ids, embedding_UD)
        self._seconds_between += time.perf_counter() - started
        return self._check(step, started) if self.checks_after(step) and not is_last else None

    def make_up_for_check(self, step: int) -> CheckRecord | None:
        """Make the check that a run left out when it ended at `step`, now that it has been given more steps."""
        if not (self.checks_after(step) and self.table.seen_Q.any()):  # a check leaves nothing seen
            return None
        return self._check(step, time.perf_counter())

    def _refresh_bank(self, step: int, text_ids: np.ndarray, embedding_UD: torch.Tensor) -> None:
        bank = self.source.bank
        if bank is None:
            return
        bank.write(text_ids, embedding_UD, step)
        oldest = bank.oldest(self.settings.refresh)
        if len(oldest):
            bank.write(oldest, self.embed(oldest, ""), step)

    def _check(self, step: int, started: float) -> CheckRecord:
        table, rule = self.table, self.rule
        rows = table.take_seen()
        scores = table.initial_QN[rows], table.current_QN[rows]
        initial_R, current_R = mean_scores(*scores)
        observed = ~np.isnan(current_R)
        is_exhausted_Q = table.exhausted(whole=rule.whole) & self._uses_up_Q
        exhausted, rank = int(is_exhausted_Q.sum()), table.mean_rank
        learned_RN, empty_RN = rule.learned(*scores, table.share_QN[rows]), self._empty(rows)
        slots_RN = learned_RN | empty_RN
        asked = slots_RN.any(axis=1)
        replaced_RN = self.source.replace(rows[asked], slots_RN[asked], whole=rule.whole)
        filled = int((replaced_RN & empty_RN[asked]).sum())
        self.replaced = rows[asked][replaced_RN.any(axis=1)]
        age, oldest = (None, None) if self.source.bank is None else self.source.bank.age(step)
        seconds_between, self._seconds_between = self._seconds_between, 0.0
        return CheckRecord(
            step=step,
            seen=len(rows),
            observed=int(observed.sum()),
            flagged=int(learned_RN.any(axis=1).sum()),
            replaced=len(self.replaced),
            flagged_negatives=int(learned_RN.sum()),
            replaced_negatives=int(replaced_RN.sum()) - filled,
            filled_negatives=filled,
            exhausted=exhausted,
            exhausted_share=exhausted / len(table),
            mean_initial=_or_none(mean(initial_R[observed])),
            mean_current=_or_none(mean(current_R[observed])),
            mean_rank=rank,
            seconds=time.perf_counter() - started,
            seconds_between=seconds_between,
            bank_age=age,
            bank_age_max=oldest,
        )

    def _empty(self, rows: np.ndarray) -> np.ndarray:
        """Return bool [R, n], empty slots that a ranking made anew may fill: a bound had left too few when mining.

        Where all slots of a query are replaced together, it is filled if all of them are empty.
        """
        empty_RN = self.table.empty(rows) & self._is_ranked_anew_Q[rows][:, None]
        return empty_RN & empty_RN.all(axis=1, keepdims=True) if self.rule.whole else empty_RN

    def state(self) -> dict[str, np.ndarray]:
        """Return the table and the bank, for a checkpoint."""
        bank = self.source.bank
        return {**self.table.state(), **(bank.state() if bank is not None else {})}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        bank_state = {name: values for name, values in state.items() if name.startswith("bank_")}
        self.table.load_state({name: values for name, values in state.items() if name not in bank_state})
        if self.source.bank is not None:
            self.source.bank.load_state(bank_state)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
