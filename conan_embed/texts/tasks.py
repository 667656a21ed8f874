"""The tasks of a run as arrays of text ids.

- retrieval: a query, its positives, perhaps negatives, and the passages to mine negatives from;
- classification, turned into retrieval (section 2.2 of the paper): same class positive, other class negative;
- STS: two texts and a score.

`loading.load_tasks` makes them from files.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from conan_embed.texts.known_positives import KnownPassages, KnownPositives
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStore


@dataclass(frozen=True)
class RetrievalDataset:
    """One data set of queries; Q queries, L lists of positives.

    Attributes:
        query_Q: text id of each query.
        list_Q: which list of `positives` is the query's own (all members of its class, for classification).
        positives: L lists of text ids, all of them passages.
        given: the file's own negatives, Q lists of text ids (known positives taken out).
        passages: text ids to mine negatives from, ascending, one for each content.
        negative_source: where hard negatives come from: mined, given, random or none.
        ranking: folder with rankings made before, or None.
        weight: share of the queries of a step, or None for by size.
        has_labels: classes as positives: no other passage can be an answer that nobody labelled.
        elsewhere_E, elsewhere_list_E, elsewhere: queries of other data sets that are also queries of this one, which of
            the lists answers each there, and these lists (`with_answers_elsewhere`).
        scored_query_X, scored_passage_X, score_X: text ids and scores (float64) of graded pairs; None without any.
    """

    name: str
    query_Q: np.ndarray
    list_Q: np.ndarray
    positives: Ragged
    given: Ragged
    passages: np.ndarray
    negative_source: str
    ranking: str | None
    weight: float | None
    has_labels: bool = False
    elsewhere_E: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    elsewhere_list_E: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    elsewhere: Ragged = field(default_factory=lambda: Ragged.empty(0))
    scored_query_X: np.ndarray | None = None
    scored_passage_X: np.ndarray | None = None
    score_X: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.query_Q)

    @cached_property
    def _known(self) -> dict[str, Any]:
        return {}  # no field: it is not among what is written to a file, or copied by `replace`

    def known_positives(self, store: TextStore) -> KnownPositives:
        """Return what answers each query, here or in another data set: all positives of its lists, and its own text.

        The answer is kept: what it has looked up serves every search over the data set.
        """
        known = self._known.get("texts")
        if known is None or known.content is not store.content:
            known = KnownPositives(
                np.concatenate([self.query_Q, self.elsewhere_E]),
                np.concatenate([self.list_Q, self.elsewhere_list_E + len(self.positives)]),
                Ragged.joined([self.positives, self.elsewhere]),
                store.content,
            )
            self._known["texts"] = known
        return known

    def known_passages(self, store: TextStore) -> KnownPassages:
        """Return `known_positives` as positions among the passages."""
        known = self.known_positives(store)
        among = self._known.get("passages")
        if among is None or among.known is not known:
            among = self._known["passages"] = known.among(self.passages)
        return among


@dataclass(frozen=True)
class StsDataset:
    """One data set of graded pairs; P pairs."""

    name: str
    left_P: np.ndarray
    right_P: np.ndarray
    score_P: np.ndarray
    weight: float | None

    def __len__(self) -> int:
        return len(self.left_P)


@dataclass(frozen=True)
class Tasks:
    """All data sets of a run, over one text store."""

    store: TextStore
    retrieval: list[RetrievalDataset]
    sts: list[StsDataset]
