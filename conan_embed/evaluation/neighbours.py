"""What a query finds, to be read by a person: the nearest documents before and after training, side by side.

Encoding a corpus is the cost of an evaluation, so `Remembering` keeps the vectors of one model state: the evaluation
and the examples after it share one pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from conan_embed.evaluation import sets
from conan_embed.evaluation.local import Embedder
from conan_embed.evaluation.sets import LocalTask
from conan_embed.search.exact import top_k


class Remembering:
    """A model that encodes each (prompt, text) once. For one state of its weights."""

    def __init__(self, model: Embedder) -> None:
        self._model = model
        self._place: dict[tuple[str, str], int] = {}
        self._rows: list[NDArray[np.float32]] = []

    @property
    def prompts(self) -> Mapping[str, str]:
        return self._model.prompts

    @property
    def width(self) -> int:
        return self._model.width

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> NDArray[np.float32]:
        """As `Embedder.encode`."""
        new = [text for text in dict.fromkeys(texts) if (prompt, text) not in self._place]
        if new:
            rows = self._model.encode(new, prompt=prompt)
            start = len(self._place)
            self._place.update({(prompt, text): start + number for number, text in enumerate(new)})
            self._rows = [np.concatenate([*self._rows, rows])]
        if not self._rows:
            return np.empty((0, self.width), np.float32)
        return self._rows[0][[self._place[prompt, text] for text in texts]]


def neighbours(model: Embedder, task: LocalTask, *, queries: int = 8, k: int = 3) -> list[dict[str, Any]]:
    """Return for some queries of a retrieval task what they find.

    Args:
        task: a task of type "retrieval".
        queries: how many, spread evenly over the task.
        k: documents for each.

    Returns:
        per query a dictionary with `query`, `relevant` (texts) and `found`: [{"text", "score", "relevant"}].
    """
    data = sets.read_retrieval(task.path, None)
    chosen = np.unique(np.linspace(0, len(data.queries) - 1, num=min(queries, len(data.queries)), dtype=int))
    query_QD = torch.from_numpy(
        model.encode([data.queries[row] for row in chosen], prompt=model.prompts["query"])
    )
    corpus_CD = torch.from_numpy(model.encode(data.documents, prompt=model.prompts["passage"]))
    scores, places = (part.numpy() for part in top_k(query_QD, corpus_CD, min(k, len(corpus_CD))))
    result = []
    for number, row in enumerate(chosen):
        relevant = set(data.judged_document[(data.judged_query == row) & (data.judged_gain > 0)].tolist())
        found = [
            {"text": data.documents[place], "score": float(score), "relevant": int(place) in relevant}
            for score, place in zip(scores[number], places[number], strict=True)
        ]
        texts = [data.documents[place] for place in sorted(relevant)]
        result.append({"query": data.queries[row], "relevant": texts, "found": found})
    return result


def before_and_after(name: str, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the neighbours of two model states, as examples.json has it; queries whose hits changed come first."""
    queries = [
        {"query": old["query"], "relevant": old["relevant"], "before": old["found"], "after": new["found"]}
        for old, new in zip(before, after, strict=True)
    ]

    def changed(query: dict[str, Any]) -> bool:
        return [hit["text"] for hit in query["before"]] != [hit["text"] for hit in query["after"]]

    return {"corpus": name, "queries": sorted(queries, key=changed, reverse=True)}
