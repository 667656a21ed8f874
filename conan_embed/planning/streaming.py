"""Steps over pairs that are read while they are needed (`data.stream`): weakly supervised pre-training.

The same contract as plan.py: `planner.step(s)` is a pure function of the seed and s, so to resume is to go on counting.
What differs is that a step brings its own texts. The data sets take turns by their shares (mixture.py), each gives the
pairs at its next positions (texts/stream.py), and the step's texts are de-duplicated and tokenised, each process a part
of them. Known positives are those of the step: pairs of one step that have the same query share their positives.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.mixture import RETRIEVAL, Mixture
from conan_embed.planning.plan import StepPlan
from conan_embed.planning.queries import Queries
from conan_embed.recipes.schema import Data, Step
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStoreBuilder, Tokenize
from conan_embed.texts.stream import PairStream
from conan_embed.texts.tasks import RetrievalDataset, with_equal_queries_merged, with_shared_positives

_NAMED = 8  # pairs of each data set that a message about a step names


def open_streams(data: Data) -> list[PairStream]:
    """Look at the shards of every data set of a recipe.

    Raises:
        UserError: see `PairStream`.
    """
    log = collectives.is_main_process()
    return [PairStream(part, data.shuffle_window, data.on_bad_row, log=log) for part in data.retrieval]


class StreamPlanner:
    """Plans the steps of a run over streamed pairs.

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
        self.tokenize = tokenized_together(tokenize)
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
        """Return how many steps hold that often as many pairs as there are."""
        return max(1, round(epochs * self.num_pairs / self.settings.queries))

    def facts(self) -> dict[str, Any]:
        """What run.json says of the data."""
        return {"datasets": [{"task": "retrieval", "name": s.name, "rows": len(s)} for s in self.streams]}

    def identity(self) -> str:
        """Return a hash of which pair is at which position: a checkpoint of other shards is refused."""
        return " ".join(stream.identity() for stream in self.streams)

    def step(self, step: int, table: NegativeTable | None = None) -> StepPlan:
        """Return the plan of optimizer step `step`, counted from 0, with its texts tokenised.

        All processes must call it: each tokenises a part of the texts. There are no hard negatives, so no table.

        Raises:
            UserError: see `PairStream.take`; or none of the step's pairs can be used.
        """
        count = self.settings.queries
        if self.settings.one_dataset:
            sets, visits = self.order.draw_of_one_set(step, count)
        else:
            sets, visits = self.order.draw(step * count, count)
        builder = TextStoreBuilder()
        parts = []
        for number in np.unique(sets):
            pairs = self.streams[number].take(visits[sets == number], self.seed, RETRIEVAL, int(number))
            pairs, lists = with_shared_positives(pairs)
            if len(pairs):
                query = builder.add(pairs["query"], self.prompts["query"])
                positive = builder.add(lists["positive"].explode(), self.prompts["passage"])
                parts.append((self.streams[number].name, pairs, lists, query, positive))
        if not parts:
            names = ", ".join(self.streams[number].name for number in np.unique(sets))
            raise UserError(f"step {step + 1}: found no pair of {names} that can be used, expected {count}.")
        texts, columns = builder.hold(self.tokenize)
        if len(texts.unread) and any(stream.on_bad_row == "error" for stream in self.streams):
            raise UserError(
                f"step {step + 1}: found the text {texts.unread[0]!r}, of which the tokenizer leaves nothing, expected "
                "texts that the model can read (data.on_bad_row: drop leaves them out)."
            )
        datasets = [
            RetrievalDataset(
                name,
                query_Q=columns[query],
                list_Q=pairs["list"].to_numpy().astype(np.int64),
                positives=Ragged.of_lengths(columns[positive], lists["positive"].list.len().to_numpy()),
                given=Ragged.empty(len(pairs)),
                passages=np.unique(columns[positive]),
                negative_source="none",
                ranking=None,
                weight=None,
            )
            for name, pairs, lists, query, positive in parts
        ]
        merged = [with_equal_queries_merged(d, texts.content, texts.unread_ids) for d in datasets]
        queries = Queries(texts, merged, self.settings, self.seed)
        places = "; ".join(
            f"{name} {' '.join(map(str, pairs['visit'][:_NAMED]))}{' ...' if len(pairs) > _NAMED else ''}"
            for name, pairs, *_ in parts
        )
        return StepPlan.of(
            step,
            (step + 1) * count / self.num_pairs,
            texts,
            queries.plan(np.arange(len(queries)), step),
            None,
            named=f"positions of the step's pairs in their streams: {places}",
        )


def tokenized_together(tokenize: Tokenize) -> Tokenize:
    """Return `tokenize` with the texts shared out over the processes; every process gets all tokens."""

    def shared(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        start, stop = collectives.rank_slice(len(texts))
        tokens, offsets = tokenize(texts[start:stop])
        ends = np.concatenate([[0], np.cumsum(collectives.all_gather_array(np.diff(offsets), len(texts)))])
        bounds = [collectives.slice_of(len(texts), process) for process in range(collectives.world_size())]
        counts = [int(ends[stop] - ends[start]) for start, stop in bounds]
        gathered = collectives.all_gather_rows(torch.from_numpy(tokens)[:, None], counts)
        return gathered[:, 0].numpy(), ends

    return shared if collectives.world_size() > 1 else tokenize
