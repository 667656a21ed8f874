"""Shipped recipes start where one positive ranks last, so that a bound leaves its query no negative."""

import json

import numpy as np
import pytest
import torch

from conan_embed.negatives.prepare import make_table
from conan_embed.planning.planner import check_enough_negatives
from conan_embed.recipes.data import Data, RetrievalData
from conan_embed.recipes.loading import load_recipe, shipped_recipes
from conan_embed.texts.loading import load_tasks
from tests.support.planned_tasks import tokenize

NUM_QUERIES, WIDTH = 60, 8
PROMPTS = {"query": "", "passage": "", "sts": ""}


def embed_with_one_opposite_positive(store):
    """Random directions; the first query's positive points the other way."""

    def embedding(text):
        kind, number = text.split()
        number = int(number)
        if (kind, number) == ("answer", 0):
            return -embedding("question 0")
        seed = [number, kind == "question"]
        vector = np.random.default_rng(seed).normal(size=WIDTH)
        near = 2 * embedding(f"question {number}") if kind == "answer" else 0
        vector = vector / np.linalg.norm(vector) + near
        return vector / np.linalg.norm(vector)

    def embed(text_ids, description):
        rows = [embedding(store.text(int(text))) for text in text_ids]
        return torch.tensor(np.array(rows), dtype=torch.float32)

    return embed


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_positive_that_ranks_last_does_not_stop_a_run_after_mining(name, tmp_path):
    recipe = load_recipe(name)
    rows = [{"query": f"question {i}", "positive": f"answer {i}"} for i in range(NUM_QUERIES)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Data(retrieval=[RetrievalData(name="pairs", path=str(tmp_path / "pairs.jsonl"))])
    tasks = load_tasks(data, PROMPTS, tokenize, fingerprint="", cache=tmp_path / "cache")
    table = make_table(
        tasks,
        embed_with_one_opposite_positive(tasks.store),
        recipe.step,
        recipe.mining,
        ["a model"],
        tmp_path / "mining",
        seed=0,
        subtract_background=recipe.hard_negatives.subtract_background,
    )
    if not recipe.step.num_negatives:
        assert table is None
        return
    assert table is not None
    check_enough_negatives(tasks.retrieval, table, recipe.step)
    is_bounded = recipe.mining.max_positive_ratio is not None
    assert (table.available_Q[0] == 0) == is_bounded
    assert np.median(table.available_Q) >= recipe.step.num_negatives
