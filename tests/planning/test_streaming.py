"""Streamed pairs: a step is that of the same pairs read at the start; runs resume bit for bit; processes agree."""

import json

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.objectives.relations import IGNORED, NEGATIVE, POSITIVE
from conan_embed.planning.planner import Planner
from conan_embed.planning.streaming import StreamPlanner, open_streams
from conan_embed.recipes.data import Data
from conan_embed.recipes.schema import Recipe
from conan_embed.recipes.sections import Step
from conan_embed.texts.loading import load_tasks
from conan_embed.training.run import mine, train
from tests.support.many_processes import start_world
from tests.support.small_runs import assert_same_run, interrupt_at, killed, lines
from tests.tiny_models import SENTENCES, make_tiny_model

PROMPTS = {"query": "q: ", "passage": ""}
SIZES = {"news": 30, "papers": 14}


def characters(texts):
    """A token per character."""
    flat = np.array([ord(c) for text in texts for c in text], np.int32)
    return flat, np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of two data sets with few different texts, so that steps hold equal queries and equal positives."""
    folder = tmp_path_factory.mktemp("streams")
    generator = np.random.default_rng(0)
    for name, size in SIZES.items():
        rows = {
            "query": [f"{SENTENCES[i % 5][:6]}{generator.integers(4)}" for i in range(size)],
            "positive": [
                [str(generator.choice(SENTENCES))[:8] for _ in range(i % 2 + 1)] for i in range(size)
            ],
        }
        rows["positive"][3] = [rows["query"][3]]  # an answer to itself
        (folder / name).mkdir()
        for number, part in enumerate(np.array_split(np.arange(size), 3)):
            shard = pl.DataFrame(rows)[part].to_arrow()
            pq.write_table(shard, folder / name / f"{number}.parquet", row_group_size=3)
    make_tiny_model("bert", dense_width=12, widths=(4,)).save(folder / "model")
    return folder


def streams(folder, weights=(None, None)):
    return open_streams(
        Data.model_validate(
            {
                "retrieval": [
                    {"name": name, "path": str(folder / name), "negative_source": "none", "weight": weight}
                    for name, weight in zip(SIZES, weights, strict=True)
                ],
                "stream": True,
                "shuffle_window": 8,
            }
        )
    )


def meaning(plan, texts):
    """A plan's relations between texts: {(query, candidate, group): relation}, whatever the ids and their order."""
    found = plan.retrieval
    text = lambda place: texts[plan.text_ids[place]]  # noqa: E731
    relations = found.relations.rows(0, len(found.query_Q)).numpy()
    return sorted(
        (
            text(q),
            text(c),
            int(found.relations.group_Q[i]),
            int(found.relations.group_C[j]),
            int(relations[i, j]),
        )
        for i, q in enumerate(found.query_Q.tolist())
        for j, c in enumerate(found.candidate_C.tolist())
    )


def decoded(texts):
    return [
        "".join(map(chr, texts.tokens[a:b]))
        for a, b in zip(texts.offsets[:-1], texts.offsets[1:], strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(
    step=st.integers(0, 60),
    in_batch=st.sampled_from(["step", "dataset"]),
    one_dataset=st.booleans(),
    weights=st.sampled_from([(None, None), (3.0, 1.0)]),
)
def test_a_step_is_that_of_the_same_pairs_read_at_the_start(
    folder, tmp_path_factory, step, in_batch, one_dataset, weights
):
    settings = Step(
        queries=6, positives=9, num_negatives=0, sts_pairs=0, in_batch=in_batch, one_dataset=one_dataset
    )
    opened = streams(folder, weights)
    planner = StreamPlanner(opened, PROMPTS, characters, settings, 5)
    plan = planner.step(step)
    assert plan.text_ids.tolist() == list(range(len(plan.texts)))
    names = [data.name for data in planner.summary().datasets]
    sets, visits = planner.order.draw_of_one_set(step, 6) if one_dataset else planner.order.draw(6 * step, 6)
    tmp = tmp_path_factory.mktemp("step")
    data = []
    for number in np.unique(sets):
        rows = opened[number].take(visits[sets == number], 5, 0, int(number))
        rows.drop("visit").write_parquet(tmp / f"{names[number]}.parquet")
        data.append(
            {"name": names[number], "path": str(tmp / f"{names[number]}.parquet"), "negative_source": "none"}
        )
    try:
        tasks = load_tasks(
            Data.model_validate({"retrieval": data}),
            {**PROMPTS, "sts": ""},
            characters,
            fingerprint="",
            cache=tmp,
        )
    except UserError:  # the one pair of a set is a text and itself: no such set there, one query less here
        assert len(plan.retrieval.rows) < 6
        return
    queries = sum(len(found) for found in tasks.retrieval)
    reference = Planner(tasks, settings.model_copy(update={"queries": queries, "one_dataset": False}), 0)
    assert meaning(plan, decoded(plan.texts)) == meaning(reference.step(0, None), decoded(tasks.store))
    assert {relation for *_, relation in meaning(plan, decoded(plan.texts))} <= {POSITIVE, NEGATIVE, IGNORED}


def test_shares_by_weight_temperature_and_size(folder):
    def shares(weights=(None, None), **changes):
        settings = Step(queries=64, num_negatives=0, sts_pairs=0, **changes)
        planner = StreamPlanner(streams(folder, weights), PROMPTS, characters, settings, 1)
        sets, _ = planner.order.draw(0, 4096)
        return np.bincount(sets, minlength=2) / 4096

    np.testing.assert_allclose(shares(), np.array([30, 14]) / 44, atol=1e-3)
    np.testing.assert_allclose(shares((1.0, 3.0)), [0.25, 0.75], atol=1e-3)
    rooted = np.sqrt([30, 14])
    np.testing.assert_allclose(shares(sampling_temperature=2.0), rooted / rooted.sum(), atol=1e-3)
    with pytest.raises(ValueError, match="sampling_temperature: the data set 'news' has a weight"):
        recipe_of(folder, folder, step={"sampling_temperature": 2.0}, weight=1.0)


def recipe_of(folder, output, *, step=None, weight=None, **training):
    return Recipe.model_validate(
        {
            "model": {"base": str(folder / "model"), "prompts": {"query": "问："}},
            "data": {
                "retrieval": [
                    {
                        "name": name,
                        "path": str(folder / name / "*.parquet"),
                        "negative_source": "none",
                        "weight": weight,
                    }
                    for name in SIZES
                ],
                "stream": True,
                "shuffle_window": 8,
            },
            "step": {"queries": 6, "num_negatives": 0, "sts_pairs": 0, "one_dataset": True, **(step or {})},
            "optimizer": {"learning_rate": 2e-3},
            "training": {"steps": 9, "checkpoint_every": 4, "precision": "float32", **training},
            "tracking": {"tensorboard": False},
            "output": str(output),
            "cache": str(output) + "-cache",
        }
    )


def test_a_killed_run_goes_on_as_if_nothing_had_happened(folder, tmp_path, monkeypatch):
    whole = train(recipe_of(folder, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe_of(folder, tmp_path / "halted"))
    halted = train(recipe_of(folder, tmp_path / "halted"))
    assert_same_run(whole, halted)
    facts = json.loads((whole / "run.json").read_text())
    assert {data["name"]: data["rows"] for data in facts["datasets"]} == SIZES
    assert not (tmp_path / "whole-cache" / "texts").exists()  # nothing was tokenised before it was needed
    assert lines(whole, "metrics")[-1]["epoch"] == pytest.approx(9 * 6 / 44)
    EmbeddingModel.load(whole / "model")


def test_other_shards_are_refused_on_resuming(folder, tmp_path):
    recipe = recipe_of(folder, tmp_path / "run")
    train(recipe)
    more = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 12})})
    train(more, allow_changes=True)
    changed = recipe.data.model_copy(update={"shuffle_window": 5})
    longer = recipe.training.model_copy(update={"steps": 15})
    with pytest.raises(UserError, match="the data changed since: shards of"):
        train(recipe.model_copy(update={"data": changed, "training": longer}), allow_changes=True)


def test_what_streams_cannot_do(folder, tmp_path):
    for step, message in (
        ({"num_negatives": 3}, "step.num_negatives: found 3 beside data.stream, expected 0"),
        ({"sts_pairs": 2}, "step.sts_pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_of(folder, tmp_path, step=step)
    with pytest.raises(UserError, match="streamed pairs have no negatives to mine"):
        mine(recipe_of(folder, tmp_path / "run"), tmp_path / "rankings")


def _train_together(folder, output):
    train(recipe_of(folder, output))


def test_processes_tokenise_together_and_agree_with_one(folder, tmp_path):
    alone = lines(train(recipe_of(folder, tmp_path / "alone")), "metrics")
    assert start_world(2, _train_together, folder, tmp_path / "two") == [0, 0]
    together = lines(tmp_path / "two", "metrics")
    assert [line["tokens"] for line in together] == [line["tokens"] for line in alone]
    np.testing.assert_allclose(
        [line["loss"] for line in together], [line["loss"] for line in alone], rtol=1e-4
    )
