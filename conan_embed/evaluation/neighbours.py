"""What a query finds, to be read by a person: the nearest documents before and after training, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from conan_embed.evaluation import sets
from conan_embed.evaluation.cached_encoder import Embedder
from conan_embed.evaluation.discovery import LocalTask
from conan_embed.search.exact import search_vectors


@dataclass(frozen=True)
class Neighbour:
    """One document that was found: its cosine, and whether it is judged relevant."""

    text: str
    score: float
    relevant: bool


@dataclass(frozen=True)
class QueryNeighbours:
    """A query, its relevant documents, and the nearest ones."""

    query: str
    relevant: Sequence[str]
    found: Sequence[Neighbour]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "QueryNeighbours":
        return cls(value["query"], value["relevant"], [Neighbour(**hit) for hit in value["found"]])


def neighbours(model: Embedder, task: LocalTask, *, queries: int = 8, k: int = 3) -> list[QueryNeighbours]:
    """Return for some queries of a retrieval task what they find.

    Args:
        task: a task of type "retrieval".
        queries: how many, spread evenly over the task.
        k: documents for each.
    """
    data = sets.read_retrieval(task.path)
    count = min(queries, len(data.queries))
    chosen = np.unique(np.linspace(0, len(data.queries) - 1, num=count, dtype=int))
    query_QD = model.encode([data.queries[row] for row in chosen], prompt=model.prompts["query"])
    corpus_CD = model.encode(data.documents, prompt=model.prompts["passage"])
    best = search_vectors(torch.from_numpy(query_QD), torch.from_numpy(corpus_CD), min(k, len(corpus_CD)))
    scores_QK, documents_QK = (part.tolist() for part in best)
    result = []
    for row, scores, documents in zip(chosen, scores_QK, documents_QK, strict=True):
        judged = data.judged_document[(data.judged_query == row) & (data.judged_gain > 0)]
        relevant = set(judged[judged >= 0].tolist())
        hits = [
            Neighbour(data.documents[d], score, d in relevant)
            for d, score in zip(documents, scores, strict=True)
        ]
        texts = [data.documents[document] for document in sorted(relevant)]
        result.append(QueryNeighbours(data.queries[row], texts, hits))
    return result


def examples_before(name: str, before: Sequence[QueryNeighbours]) -> dict[str, Any]:
    """Return examples.json as it is until training ends: what an untrained model finds."""
    return {"corpus": name, "neighbours": [query.to_json() for query in before]}


def examples_after(
    examples: Mapping[str, Any], name: str, after: Sequence[QueryNeighbours]
) -> dict[str, Any]:
    """Put what the trained model finds beside it; queries whose hits changed come first.

    Args:
        examples: the content of examples.json, as `examples_before` or an earlier call made it.
        name: of the corpus that `after` is from. Only the same query in the same corpus is compared; others, of a
            development set that has changed since, have nothing `before`.
    """
    before: dict[str, Sequence[Mapping[str, Any]]] = {}
    if examples["corpus"] == name:
        before = {
            query["query"]: query["found" if "found" in query else "before"]
            for query in examples.get("neighbours", examples.get("queries", []))
        }
    queries = [
        {
            "query": new.query,
            "relevant": list(new.relevant),
            "before": list(before.get(new.query, [])),
            "after": new.to_json()["found"],
        }
        for new in after
    ]
    return {"corpus": name, "queries": sorted(queries, key=_has_changed, reverse=True)}


def _has_changed(query: Mapping[str, Any]) -> bool:
    before = [hit["text"] for hit in query["before"]]
    return bool(before) and before != [hit["text"] for hit in query["after"]]
