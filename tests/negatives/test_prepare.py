"""The table of a run: the data sets' negatives one under the other, each from its own source."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from conan_embed.errors import UserError
from conan_embed.files import read_json
from conan_embed.negatives import prepare
from conan_embed.negatives.embedding import embed_with
from conan_embed.negatives.mining import mine
from conan_embed.negatives.prepare import first_table, identities, make_table
from conan_embed.negatives.rankings import NONE, load_ranking, save_ranking
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
    models = identities(model, tasks.retrieval)
    return make_table(tasks, embed, recipe.step, recipe.mining, models, folder, seed=0, **settings)


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
    quiet = make_tiny_model("bert")  # dropout changes no embedding
    quiet.encoder.config.hidden_dropout_prob, quiet.original_dropout = 0.3, {"hidden_dropout_prob": 0.0}
    assert np.isfinite(table_of(recipe, again, quiet, tmp_path / "quiet").initial_QN).any()
    other, prompted = make_tiny_model("bert"), make_tiny_model("bert")
    next(other.parameters()).data[0] += 0.01
    prompted.dataset_prompts["mined"] = {"query": "of this set: ", "passage": ""}
    for number, changed in enumerate((other, prompted)):
        table = table_of(recipe, again, changed, tmp_path / f"changed{number}")
        assert np.isnan(table.initial_QN).all()
        np.testing.assert_array_equal(table.ranking_QK, same.ranking_QK)


def test_rankings_of_an_interrupted_start_count_if_the_same_model_made_them(run, tmp_path, monkeypatch):
    """Weights and prompts decide, not the name of the base."""
    model, recipe, tasks, _ = run
    mined = []
    monkeypatch.setattr(prepare, "mine", lambda data, *rest: mined.append(data.name) or mine(data, *rest))
    before = table_of(recipe, tasks, model, tmp_path / "run")
    np.testing.assert_array_equal(
        table_of(recipe, tasks, model, tmp_path / "run").initial_QN, before.initial_QN
    )
    assert mined == ["mined"]
    other = make_tiny_model("bert")
    next(other.parameters()).data[:] += torch.randn(next(other.parameters()).shape)
    anew = table_of(recipe, tasks, other, tmp_path / "run")
    fresh = table_of(recipe, tasks, other, tmp_path / "fresh")
    assert mined == ["mined"] * 3
    np.testing.assert_array_equal(anew.initial_QN, fresh.initial_QN)
    assert (anew.ranking_QK != before.ranking_QK).any()
    # The start of a run is known from its folder alone, whatever the model has become.
    first = first_table(tasks, recipe.step, recipe.mining, tmp_path / "run", seed=0)
    np.testing.assert_array_equal(first.initial_QN, anew.initial_QN)
    np.testing.assert_array_equal(first.ranking_QK, anew.ranking_QK)


@pytest.mark.parametrize("relative", [False, True])
def test_the_recipes_bound_holds_for_rankings_that_were_made_without_it(run, tmp_path, relative):
    """As if they had been mined under it, as far down as they reach."""
    model, recipe, tasks, _ = run
    whole = recipe.mining.model_copy(update={"depth": 100})
    bound = {"max_positive_ratio": 0.999, "subtract_background": relative}
    tasks = Tasks(tasks.store, [tasks.retrieval[1]], [])
    table_of(recipe.model_copy(update={"mining": whole}), tasks, model, tmp_path / "made")
    given = Tasks(tasks.store, [replace(tasks.retrieval[0], ranking=str(tmp_path / "made"))], [])
    bounded = recipe.model_copy(update={"mining": whole.model_copy(update=bound)})
    table = table_of(bounded, given, model, tmp_path / "given")
    mined = table_of(bounded, tasks, model, tmp_path / "mined")
    np.testing.assert_array_equal(table.ranking_QK, mined.ranking_QK)
    np.testing.assert_array_equal(table.initial_QN, mined.initial_QN)
    free = table_of(recipe.model_copy(update={"mining": whole}), given, model, tmp_path / "free")
    assert (free.available_Q > table.available_Q).any()
    summaries = [
        read_json(tmp_path / each / "mining.json")["datasets"]["mined"] for each in ("given", "mined")
    ]
    assert summaries[0] == summaries[1]


def test_a_ranking_keeps_the_offset_that_it_was_mined_with(run, tmp_path, capsys):
    """The first ranks are left out by the recipe or by the file, not by both, one after the other."""
    model, recipe, tasks, _ = run
    data = replace(tasks.retrieval[1], given=Ragged.empty(3), ranking=str(tmp_path))
    embed = embed_with(model, tasks.store, "float32", 1000)
    ranking = mine(data, tasks.store, embed, recipe.mining)
    for of_file, of_recipe in ((0, 2), (2, 2), (5, 2), (3, 0)):
        save_ranking(tmp_path, data, tasks.store, replace(ranking, offset=of_file))
        settings = recipe.mining.model_copy(update={"offset": of_recipe})
        changed = recipe.model_copy(update={"mining": settings})
        table = table_of(changed, Tasks(tasks.store, [data], []), model, tmp_path / f"{of_file}{of_recipe}")
        expected = ranking.ids_QK[:, max(of_file, of_recipe) :]
        np.testing.assert_array_equal(table.ranking_QK[:, : expected.shape[1]], expected)
        told = "leaves out the first" in capsys.readouterr().err
        assert told == (of_file > of_recipe)


def test_a_ranking_that_is_too_short_is_not_said_to_be_the_whole_data_set(run, tmp_path, capsys):
    model, recipe, tasks, _ = run
    tasks = Tasks(tasks.store, [tasks.retrieval[1]], [])
    table_of(recipe, tasks, model, tmp_path / "made")
    given = Tasks(tasks.store, [replace(tasks.retrieval[0], ranking=str(tmp_path / "made"))], [])
    wanted = recipe.mining.model_copy(update={"depth": 12, "min_usable": 12})
    table_of(recipe.model_copy(update={"mining": wanted}), given, model, tmp_path / "given")
    told = " ".join(capsys.readouterr().err.split())
    assert "3 of 3 queries have fewer usable ranks than mining.min_usable in" in told
    assert "which is not searched deeper" in told


def test_a_bound_from_the_background_needs_one_in_the_file(run, tmp_path):
    model, recipe, tasks, _ = run
    data = replace(tasks.retrieval[1], ranking=str(tmp_path))
    ranking = mine(data, tasks.store, embed_with(model, tasks.store, "float32", 1000), recipe.mining)
    save_ranking(tmp_path, data, tasks.store, replace(ranking, background=np.nan))
    bound = recipe.mining.model_copy(update={"max_positive_ratio": 0.9, "subtract_background": True})
    with pytest.raises(UserError, match="holds no background"):
        table_of(
            recipe.model_copy(update={"mining": bound}),
            Tasks(tasks.store, [data], []),
            model,
            tmp_path / "run",
        )
