"""Steps over pairs that are read while they are needed (`data.stream`): weakly supervised pre-training.

Every step brings its own texts. The data sets take turns by their shares (mixture.py), each yields the pairs at its
next positions (texts/stream.py), and the step's texts are de-duplicated and tokenised, each process a part of them.
Known positives are those of the step: pairs of one step that have the same query share their positives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.mixture import RETRIEVAL, Mixture
from conan_embed.planning.plan import DatasetSize, DataSummary, StepPlan
from conan_embed.planning.queries import Queries
from conan_embed.recipes.data import Data
from conan_embed.recipes.sections import Step
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.shared_positives import with_equal_queries_merged, with_shared_positives
from conan_embed.texts.store import TextStoreBuilder, Tokenize
from conan_embed.texts.stream import PairStream
from conan_embed.texts.tasks import RetrievalDataset

_PAIRS_IN_MESSAGES = 8  # of each data set


def open_streams(data: Data) -> list[PairStream]:
    """Open every data set of a recipe as a stream.

    Raises:
        UserError: see `PairStream`.
    """
    log = collectives.is_main_process()
    return [PairStream(part, data.shuffle_window, data.on_bad_row, log=log) for part in data.retrieval]


class StreamPlanner:
    """The `StepSource` of streamed pairs.

    Args:
        streams: the data sets.
        prompts: of the model, by role (query, passage).
        tokenize: see `Tokenize`.
        settings: the recipe's `step` section.
        seed: everything random follows from it.
    """

    def __init__(
        self,
        streams: Sequence[PairStream],
        prompts: dict[str, str],
        tokenize: Tokenize,
        settings: Step,
        seed: int,
    ) -> None:
        self.streams, self.prompts, self.settings, self.seed = streams, prompts, settings, seed
        self.tokenize = tokenize_in_parts(tokenize)
        self.order = Mixture(
            [len(stream) for stream in streams],
            [stream.weight for stream in streams],
            *(seed, RETRIEVAL),
            temperature=settings.sampling_temperature,
        )

    @property
    def num_pairs(self) -> int:
        """Pairs of all data sets, known from the shards' footers."""
        return sum(len(stream) for stream in self.streams)

    def steps_for(self, epochs: float) -> int:
        """Return the number of steps of that many passes over the pairs."""
        return max(1, round(epochs * self.num_pairs / self.settings.queries))

    def summary(self) -> DataSummary:
        """Return names and sizes of the data sets."""
        return DataSummary(
            tuple(DatasetSize("retrieval", stream.name, len(stream)) for stream in self.streams)
        )

    def identity(self) -> dict[str, str]:
        """Return a hash of each data set: of which pair is at which position."""
        return {f"shards of {stream.name!r}": stream.identity() for stream in self.streams}

    def step(self, step: int, table: NegativeTable | None = None) -> StepPlan:
        """Return the plan of optimizer step `step`, counted from 0, with its texts tokenised.

        All processes must call it: each tokenises a part of the texts. There are no hard negatives, so no table.

        Raises:
            UserError: see `PairStream.take`; or none of the step's pairs can be used.
        """
        count = self.settings.queries
        parts = self._read(step)
        builder = TextStoreBuilder()
        handles = [
            (
                builder.add(part.pairs["query"], self.prompts["query"]),
                builder.add(part.lists["positive"].explode(), self.prompts["passage"]),
            )
            for part in parts
        ]
        texts, columns = builder.hold(self.tokenize)
        if len(texts.unread) and any(stream.on_bad_row == "error" for stream in self.streams):
            raise UserError(
                f"step {step + 1}: found the text {texts.unread[0]!r}, of which the tokenizer leaves nothing, expected "
                "texts that the model can read (data.on_bad_row: drop leaves them out)."
            )
        sets = [
            with_equal_queries_merged(
                part.dataset(columns[query], columns[positive]), texts.content, texts.unread_ids
            )
            for part, (query, positive) in zip(parts, handles, strict=True)
        ]
        queries = Queries(texts, sets, self.settings, self.seed)
        return StepPlan.of(
            step,
            (step + 1) * count / self.num_pairs,
            texts,
            queries.texts_of(np.arange(len(queries)), np.zeros(len(queries), np.int64)),
            None,
            description=f"positions of the step's pairs in their streams: {'; '.join(map(str, parts))}",
        )

    def _read(self, step: int) -> list["_Part"]:
        """Read the pairs of a step, a part per data set that has any."""
        count = self.settings.queries
        if self.settings.one_dataset:
            sets, visits = self.order.draw_of_one_set(step, count)
        else:
            sets, visits = self.order.draw(step * count, count)
        numbers = [int(number) for number in np.unique(sets)]
        parts = []
        for number in numbers:
            pairs = self.streams[number].take(visits[sets == number], self.seed, RETRIEVAL, number)
            parts.append(_Part(self.streams[number].name, *with_shared_positives(pairs)))
        if not any(len(part.pairs) for part in parts):
            names = ", ".join(part.name for part in parts)
            raise UserError(f"step {step + 1}: found no pair of {names} that can be used, expected {count}.")
        return [part for part in parts if len(part.pairs)]


@dataclass(frozen=True)
class _Part:
    """The pairs of a step from one data set, and the lists of positives that their queries share."""

    name: str
    pairs: pl.DataFrame
    lists: pl.DataFrame

    def dataset(self, query_Q: np.ndarray, positives: np.ndarray) -> RetrievalDataset:
        """Return the part as a data set, given the text ids of its queries and of its lists end to end."""
        return RetrievalDataset(
            self.name,
            query_Q=query_Q,
            list_Q=self.pairs["list"].to_numpy().astype(np.int64),
            positives=Ragged.of_lengths(positives, self.lists["positive"].list.len().to_numpy()),
            given=Ragged.empty(len(self.pairs)),
            passages=np.unique(positives),
            negative_source="none",
            ranking=None,
            weight=None,
        )

    def __str__(self) -> str:
        visits = " ".join(map(str, self.pairs["visit"][:_PAIRS_IN_MESSAGES]))
        return f"{self.name} {visits}{' ...' if len(self.pairs) > _PAIRS_IN_MESSAGES else ''}"


def tokenize_in_parts(tokenize: Tokenize) -> Tokenize:
    """Return a `tokenize` of which each process does a part; every process gets all tokens."""

    def tokenize_part(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        start, stop = collectives.rank_slice(len(texts))
        tokens, offsets = tokenize(texts[start:stop])
        ends = np.concatenate([[0], np.cumsum(collectives.all_gather_array(np.diff(offsets), len(texts)))])
        bounds = [collectives.slice_of(len(texts), process) for process in range(collectives.world_size())]
        counts = [int(ends[stop] - ends[start]) for start, stop in bounds]
        all_tokens = collectives.all_gather_rows(torch.from_numpy(tokens)[:, None], counts)
        return all_tokens[:, 0].numpy(), ends

    return tokenize_part if collectives.world_size() > 1 else tokenize
