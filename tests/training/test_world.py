"""The number of processes does not matter: losses, gradients and trained parameters agree to rounding.

Each world is spawned once and goes through all scenarios; a world of one process is this one, without a process group.
"""

import os
import socket
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny_models import SENTENCES, make_tiny_model

from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStoreBuilder
from conan_embed.texts.tasks import RetrievalSet, StsSet, Tasks
from conan_embed.training import processes
from conan_embed.training.plan import Planner
from conan_embed.training.rankings import embed_with
from conan_embed.training.step import embed_step, make_optimizer, step_loss, train_step

NUM_STEPS = 4
DEFAULT = {"dtype": "float64", "widths": [], "step": {}, "loss": {}, "training": {}, "tiny": False}
SCENARIOS = {
    "hard negatives": {"step": {"sts_pairs": 0, "in_batch": "none", "negatives": 3}},
    "in-batch": {"step": {"sts_pairs": 0, "in_batch": "step", "negatives": 0, "positives": 2}},
    "same data set": {"step": {"sts_pairs": 0, "in_batch": "dataset", "negatives": 2}},
    "sts": {"step": {"queries": 0}},
    "joint": {"step": {"in_batch": "step", "negatives": 3}},
    "joint, float32": {"step": {"in_batch": "step", "negatives": 3}, "widths": [4, 8], "dtype": "float32"},
    "joint, dedicated": {"step": {"negatives": 3}, "training": {"placement": "dedicated"}, "widths": [4, 8]},
    "joint, small chunks": {
        "step": {"negatives": 2},
        "training": {"chunk_tokens": 30, "recompute": True},
        "widths": [5],
    },
    "sequential": {"step": {"mixing": "sequential"}},
    # Two texts: with three processes, one has none.
    "an empty share": {"step": {"queries": 0, "sts_pairs": 2}, "tiny": True},
    # One query: with two processes, one works out no row of the loss.
    "a single query": {"step": {"queries": 1, "sts_pairs": 0, "negatives": 3}},
}
SCENARIOS = {name: DEFAULT | scenario for name, scenario in SCENARIOS.items()}


def recipe_of(scenario):
    values = {
        "model": {"base": "made here"},
        "data": {"retrieval": [{"name": "r", "path": "r"}], "sts": [{"name": "s", "path": "s"}]},
        "step": {"queries": 5, "sts_pairs": 4, **scenario["step"]},
        "loss": {"temperature": 0.05, **scenario["loss"]},
        # A large epsilon: AdamW divides by the gradient's size, and a gradient of nothing but rounding must stay one.
        "optimizer": {"learning_rate": 1e-2, "epsilon": 1e-4},
        "training": {"precision": "float32", **scenario["training"]},
    }
    return Recipe.model_validate(values)


def make_tasks(model, cache, *, tiny):
    """Two retrieval sets and two of graded pairs over a few sentences, and a table of hard negatives."""
    generator = np.random.default_rng(0)
    pieces = [text[start : start + 9] for text in SENTENCES for start in range(0, len(text), 4)]
    builder = TextStoreBuilder()
    builder.add(pl.Series(pieces), "")
    store, (all_ids,) = builder.build(Path(cache), model.tokenize, fingerprint="")
    texts = np.unique(all_ids)
    sets = []
    for number, size in enumerate((8, 6)):
        drawn = generator.choice(texts, (size, 3), replace=False)
        lists = Ragged.of_lengths(drawn[:, 1:].ravel(), np.full(size, 2))
        empty = Ragged.empty(size)
        sets.append(
            RetrievalSet(f"r{number}", drawn[:, 0], np.arange(size), lists, empty, texts, "mined", None, None)
        )
    negatives = np.stack([generator.permutation(texts)[:6] for _ in range(14)]).astype(np.int32)
    left, right, label = generator.choice(texts, 9), generator.choice(texts, 9), generator.integers(3, size=9)
    sts = [
        StsSet("s0", left[:5], right[:5], label[:5], None),
        StsSet("s1", left[5:], right[5:], label[5:], None),
    ]
    if tiny:
        pair = np.array([texts[0], texts[0]]), np.array([texts[1], texts[0]])
        sts = [StsSet("s", *pair, np.array([1.0, 0.0]), None)]
    return Tasks(store, sets, sts), NegativeTable(negatives, 3)


def run_scenario(scenario, cache):
    """Return gradients of the first step, what every step says, the table and the parameters at the end."""
    recipe = recipe_of(scenario)
    dtype = getattr(torch, scenario["dtype"])
    model = make_tiny_model("bert", dense_width=10, widths=scenario["widths"]).to(dtype).train()
    tasks, table = make_tasks(model, cache, tiny=scenario["tiny"])
    planner = Planner(tasks, recipe.step, seed=5)
    plan = planner.step(0, table)
    step_loss(model, embed_step(model, tasks.store, plan, recipe), plan, recipe).total.backward()
    processes.sum_gradients(model.parameters())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    optimizer = make_optimizer(model, recipe)
    said = []
    for step in range(NUM_STEPS):
        plan = planner.step(step, table)
        said.append(asdict(train_step(model, optimizer, tasks.store, plan, table, recipe)))
    embed = embed_with(model, tasks.store, "float32", 50)
    return {
        "gradients": gradients,
        "steps": said,
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "table": {name: torch.from_numpy(values) for name, values in table.state().items()},
        "embedded": embed(np.arange(len(tasks.store))[::-1].copy(), ""),
        "texts": len(plan.text_ids),
    }


def process(rank, world_size, port, folder):
    """What one process of a world does."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    processes.start("cpu")
    assert (processes.rank(), processes.world_size()) == (rank, world_size)
    results = {name: run_scenario(scenario, folder / f"cache{rank}") for name, scenario in SCENARIOS.items()}
    torch.save(results, folder / f"{rank}.pt")
    processes.stop()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """{world size: the results of each of its processes}."""
    found = {}
    alone = tmp_path_factory.mktemp("world1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found[1] = [{name: run_scenario(scenario, alone) for name, scenario in SCENARIOS.items()}]
    torch.set_num_threads(threads)
    for size in (2, 3):
        folder = tmp_path_factory.mktemp(f"world{size}")
        torch.multiprocessing.spawn(process, (size, free_port(), folder), nprocs=size)
        found[size] = [torch.load(folder / f"{rank}.pt") for rank in range(size)]
    return found


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("name", SCENARIOS)
def test_any_number_of_processes_trains_alike(worlds, name, world_size):
    (expected,) = (results[name] for results in worlds[1])
    tolerance = 1e-10 if SCENARIOS[name]["dtype"] == "float64" else 1e-5
    assert any(gradient.abs().max() > 1e-3 for gradient in expected["gradients"].values())
    for found in (results[name] for results in worlds[world_size]):
        for part in ("gradients", "parameters", "table"):
            assert found[part].keys() == expected[part].keys()
            for key, value in expected[part].items():
                close = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
                if part == "table":  # float32 by nature
                    close |= {"rtol": 1e-5, "atol": 1e-6}
                torch.testing.assert_close(found[part][key], value, **close, msg=lambda m, k=key: f"{k}: {m}")
        for now, then in zip(found["steps"], expected["steps"], strict=True):
            for key in ("loss", "retrieval", "sts", "positive_score", "negative_score", "gradient_norm"):
                assert (now[key] is None) == (then[key] is None)
                if then[key] is not None:
                    assert now[key] == pytest.approx(then[key], rel=10 * tolerance, abs=tolerance), key
            assert (now["texts"], now["tokens"]) == (then["texts"], then["tokens"])
            # Embeddings come after all layers of a trained model: ten times the rounding of its parameters.
            torch.testing.assert_close(
                now["embedding_UD"], then["embedding_UD"], rtol=10 * tolerance, atol=10 * tolerance
            )
        close = {"rtol": 0, "atol": 1e-6 if tolerance < 1e-6 else 1e-4}
        torch.testing.assert_close(found["embedded"], expected["embedded"], **close)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_processes_of_a_world_hold_the_same_bits(worlds, name):
    for world_size in (2, 3):
        first, *others = (results[name] for results in worlds[world_size])
        for other in others:
            for part in ("gradients", "parameters"):
                assert all(torch.equal(other[part][key], value) for key, value in first[part].items())
            assert [step["loss"] for step in other["steps"]] == [step["loss"] for step in first["steps"]]


def test_the_scenarios_are_what_they_are_called(worlds):
    (results,) = worlds[1]
    assert results["an empty share"]["texts"] == 2
    for name, result in results.items():
        with_queries = [step["retrieval"] is not None for step in result["steps"]]
        with_pairs = [step["sts"] is not None for step in result["steps"]]
        if name.startswith("joint"):
            assert all(with_queries)
            assert all(with_pairs)
            step = result["steps"][0]
            assert step["loss"] == pytest.approx(step["retrieval"] + 0.8 * step["sts"], rel=1e-6)
        if name == "sequential":
            assert any(with_queries)
            assert any(with_pairs)
            assert not any(a and b for a, b in zip(with_queries, with_pairs, strict=True))
    joint, dedicated = (results[name]["parameters"]["dense.weight"] for name in ("joint", "joint, dedicated"))
    assert not torch.equal(joint, dedicated)  # other widths
