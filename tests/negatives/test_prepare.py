"""The table of a run: the data sets' negatives one under the other, each from its own source."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from conan_embed.negatives.embedding import embed_with
from conan_embed.negatives.mining import mine
from conan_embed.negatives.prepare import make_table
from conan_embed.negatives.rankings import NONE, load_ranking
from conan_embed.planning.planner import Planner
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStoreBuilder
from conan_embed.texts.tasks import RetrievalDataset, Tasks
from conan_embed.training.step import make_ready, observe_negatives, train_step
from conan_embed.training.train_module import TrainModule
from tests.tiny_models import make_tiny_model


@pytest.fixture
def run(tmp_path):
    """A model, a recipe and four data sets of three queries each, one for every source of negatives."""
    model = make_tiny_model("bert")
    builder = TextStoreBuilder()
    builder.add(pl.Series([f"天 {letter}" for letter in "ado"]), "")
    builder.add(pl.Series([f"file {one} {two} 内存" for one in "adelno" for two in "adeln"]), "")
    store, (queries, passages) = builder.build(tmp_path / "cache", model.tokenize, fingerprint="")
    given = [[passages[20], passages[21], passages[20]], [], [passages[22]]]
    sets = [
        RetrievalDataset(
            source,
            queries,
            np.arange(3),
            Ragged.of_lengths(passages[:3], np.ones(3, np.int64)),
            Ragged.of_lengths(np.array([text for row in given for text in row]), np.array([3, 0, 1])),
            np.unique(passages),
            source,
            None,
            None,
        )
        for source in ("given", "mined", "none", "random")
    ]
    values = {
        "model": {"base": "made here"},
        "data": {"retrieval": [{"name": "x", "path": "x"}]},
        "step": {"num_negatives": 4, "sts_pairs": 0},
        "mining": {"depth": 8, "offset": 2, "precision": "float32"},
        "training": {"precision": "float32"},
    }
    return model, Recipe.model_validate(values), Tasks(store, sets, []), passages


def table_of(recipe, tasks, model, folder, **settings):
    embed = embed_with(model, tasks.store, "float32", 1000)
    return make_table(tasks, embed, recipe.step, recipe.mining, recipe.model, folder, seed=0, **settings)


def test_each_source_in_its_rows(run, tmp_path):
    model, recipe, tasks, passages = run
    table = table_of(recipe, tasks, model, tmp_path / "mining")
    rows = [[text for text in row if text != NONE] for row in table.ranking_QK.tolist()]
    given = [[passages[20], passages[21]], [], [passages[22]]]
    assert rows[0:3] == given

    mined = load_ranking(tmp_path / "mining", tasks.retrieval[1], tasks.store)
    embed = embed_with(model, tasks.store, "float32", 1000)
    np.testing.assert_array_equal(
        mined.ids_QK, mine(tasks.retrieval[1], tasks.store, embed, recipe.mining).ids_QK
    )
    for i in range(3):  # the file's own first, then ranks from the offset on, none twice
        later = [text for text in mined.ids_QK[i, 2:].tolist() if text != NONE and text not in given[i]]
        assert rows[3 + i] == given[i] + later

    assert rows[6:9] == [[], [], []]
    assert [len(row) for row in rows[9:12]] == [8, 8, 8]
    for i, row in enumerate(rows[9:12]):
        assert len(set(row)) == 8
        assert passages[i] not in row


def test_no_table_where_no_step_holds_hard_negatives(run, tmp_path):
    model, recipe, tasks, _ = run
    for step in ({"num_negatives": 0, "sts_pairs": 0}, {"queries": 0, "sts_pairs": 0}):
        changed = recipe.model_copy(update={"step": recipe.step.model_copy(update=step)})
        assert table_of(changed, tasks, model, tmp_path / "mining") is None
    assert not (tmp_path / "mining").exists()


@pytest.mark.parametrize("relative", [False, True])
def test_the_scores_of_mining_are_what_the_first_step_sees(run, tmp_path, relative):
    """S_0 of the first window: the same model on the same texts; nothing has to be trained for it."""
    model, recipe, tasks, _ = run
    tasks = Tasks(tasks.store, [tasks.retrieval[1]], [])  # mined; the file gave two of its queries negatives
    table = table_of(recipe, tasks, model, tmp_path / "mining", subtract_background=relative)
    known = table.initial_QN.copy()
    given = tasks.retrieval[0].given.lengths.clip(max=2)
    assert np.isnan(known).sum(axis=1).tolist() == given.tolist()
    mined = load_ranking(tmp_path / "mining", tasks.retrieval[0], tasks.store)
    if relative:  # a sample of this data set is the whole of it: three queries with one positive each
        in_use, rows = table.in_use(np.arange(3)), np.arange(3)
        data = tasks.retrieval[0]
        vectors = embed_with(model, tasks.store, "float32", 1000)(np.arange(len(tasks.store)), "").numpy()
        background = np.mean([vectors[q] @ vectors[p] for q in data.query_Q for p in data.positives.values])
        for row, slot in zip(*np.nonzero(~np.isnan(known)), strict=True):
            rank = mined.ids_QK[row].tolist().index(in_use[row, slot])
            expected = (mined.scores_QK[rows[row], rank] - background) / (1 - background)
            assert known[row, slot] == pytest.approx(expected, abs=1e-5)
        return
    step = recipe.step.model_copy(update={"queries": 3})
    recipe = recipe.model_copy(update={"step": step})
    plan = Planner(tasks, step, 0).step(0, table)
    module = TrainModule(model.train(), recipe.optimizer, recipe.training)
    result = train_step(module, make_ready(module, plan), recipe.loss, max_grad_norm=1.0)
    observe_negatives(table, plan, result)
    seen = ~np.isnan(known)
    assert seen.sum() > 6
    np.testing.assert_allclose(table.current_QN[seen], known[seen], atol=1e-6)


def test_scores_of_another_model_are_no_first_scores(run, tmp_path):
    model, recipe, tasks, _ = run
    tasks = Tasks(tasks.store, [tasks.retrieval[1]], [])
    table_of(recipe, tasks, model, tmp_path / "made")
    again = Tasks(tasks.store, [replace(tasks.retrieval[0], ranking=str(tmp_path / "made"))], [])
    same = table_of(recipe, again, model, tmp_path / "same")
    assert np.isfinite(same.initial_QN).any()
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": "another"})})
    assert np.isnan(table_of(other, again, model, tmp_path / "other").initial_QN).all()
