"""Which hard negatives a run replaced, and by what: for the page.

Shapes: Q queries, n negatives of each.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.negatives.prepare import first_table
from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.tasks import Tasks
from conan_embed.training.checkpoint import saved_table
from conan_embed.training.run_folder import RunFolder
from conan_embed.training.setup import load_data

SHOWN = 6


@dataclass(frozen=True)
class Text:
    """A negative with its cosine to the query: when it was mined (None: not known), and under the trained model."""

    text: str
    mined: float | None
    trained: float


@dataclass(frozen=True)
class Replaced:
    """A query whose negatives were replaced: those that went, and those that came."""

    query: str
    positive: Text
    old: list[Text]
    new: list[Text]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Replacements:
    """Attributes:
    queries: whose negatives were replaced at least once.
    negatives: that were replaced, of those at the start.
    examples: queries whose negatives were replaced most often; of equal ones those whose first were hardest.
    """

    queries: int
    negatives: int
    examples: list[Replaced]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_replacements(recipe: Recipe, model: EmbeddingModel) -> Replacements | None:
    """Compare the negatives at the end of a run with those at its start; None for a run whose negatives stay.

    Args:
        recipe: of the finished run.
        model: as it was trained.
    """
    folder = RunFolder(recipe.output)
    checkpoint = folder.newest_checkpoint()
    if recipe.hard_negatives.source == "static" or checkpoint is None:
        return None
    if not (Path(checkpoint) / "negatives.safetensors").exists():
        return None
    tasks = load_data(recipe.data, recipe.cache, model)
    first = first_table(tasks, recipe.step, recipe.mining, folder.mining, seed=recipe.training.seed)
    last = saved_table(checkpoint, recipe.step.num_negatives)
    every = np.arange(len(first))
    old_QN, new_QN = first.in_use(every), last.in_use(every)
    gone_QN = (old_QN != NONE) & ~(old_QN[:, :, None] == new_QN[:, None, :]).any(axis=2)
    rows = np.flatnonzero(gone_QN.any(axis=1))
    examples = _examples(tasks, first, last, _furthest(rows, first, last), model)
    return Replacements(len(rows), int(gone_QN.sum()), examples)


def _furthest(rows: np.ndarray, first: NegativeTable, last: NegativeTable) -> np.ndarray:
    """Return the queries replaced most often; of equal ones those whose first negatives were hardest."""
    initial_R = np.nan_to_num(first.initial_QN[rows]).mean(axis=1)
    return rows[np.lexsort((-initial_R, -last.replacements_Q[rows]))][:SHOWN]


def _examples(
    tasks: Tasks, first: NegativeTable, last: NegativeTable, rows: np.ndarray, model: EmbeddingModel
) -> list[Replaced]:
    starts = np.cumsum([0, *map(len, tasks.retrieval)])
    examples = []
    for row in rows.tolist():
        number = int(np.searchsorted(starts, row, side="right")) - 1
        data, local_row = tasks.retrieval[number], row - int(starts[number])
        _, positives = data.positives.rows(data.list_Q[[local_row]])
        old, new = first.in_use(np.array([row]))[0], last.in_use(np.array([row]))[0]
        initial = dict(zip(old.tolist(), first.initial_QN[row].tolist(), strict=True))
        gone, came = _missing_in(new, old), _missing_in(old, new)
        ids = [int(positives[0]), *gone, *came]
        texts, query = (
            [tasks.store.text(each) for each in ids],
            tasks.store.text(int(data.query_Q[local_row])),
        )
        cosines = model.encode_document(texts) @ model.encode_query([query])[0]
        shown = [
            Text(text, _known(initial.get(each)), round(float(cosine), 3))
            for each, text, cosine in zip(ids, texts, cosines, strict=True)
        ]
        examples.append(Replaced(query, shown[0], shown[1 : 1 + len(gone)], shown[1 + len(gone) :]))
    return examples


def _missing_in(others: np.ndarray, ids: np.ndarray) -> list[int]:
    """Return the texts among `ids` that are not among `others`; an empty slot is none."""
    return [int(each) for each in ids[~np.isin(ids, others)] if each != NONE]


def _known(score: float | None) -> float | None:
    return None if score is None or np.isnan(score) else round(score, 3)
