"""The number of processes does not matter, nor how they share the model, to an adapter or under a teacher."""

import pytest
import torch

from conan_embed.distributed import collectives
from tests.stories.test_world import DEFAULT, FLOAT32, JOINT, assert_same_training, run_scenario
from tests.support.many_processes import start_world

pytest.importorskip("peft")
WORLDS = (2, 3)
SHORT = JOINT | {"num_steps": 6}
LORA = SHORT | {
    "lora": {"rank": 3},
    "hard_negatives": JOINT["hard_negatives"] | {"source": "bank", "refresh": 2},
}
TEACHER = {
    **{"model": "made here", "kl": 0.7, "margin_mse": 0.5, "embedding": 0.9, "contrastive": 0.8},
    **{"temperature": 0.1, "teacher_temperature": 0.2, "ignore_above_positive": -0.05},
}
TAUGHT = SHORT | {"teacher": TEACHER}
SCENARIOS = {
    "adapter": LORA,
    "adapter, optimizer shared": LORA | {"training": {"sharding": "optimizer"}},
    "adapter, all shared": LORA | {"training": {"sharding": "full"}},
    "adapter with dora, all shared": LORA
    | {"lora": {"rank": 2, "dora": True}, "training": {"sharding": "full"}},
    "teacher": TAUGHT,
    "teacher, all shared": TAUGHT | {"training": {"sharding": "full"}},
    "teacher, bank, float32": TAUGHT | FLOAT32 | {"hard_negatives": LORA["hard_negatives"]},
}
SCENARIOS = {name: DEFAULT | scenario for name, scenario in SCENARIOS.items()}


def process(world_size, folder):
    """What one process of a world does."""
    collectives.start("cpu")
    assert collectives.world_size() == world_size
    cache = folder / "cache"  # as the processes of one node share it
    results = {name: run_scenario(scenario, cache) for name, scenario in SCENARIOS.items()}
    torch.save(results, folder / f"{collectives.rank()}.pt")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """{world size: the results of each of its processes}."""
    alone = tmp_path_factory.mktemp("world1")
    found = {1: [{name: run_scenario(scenario, alone) for name, scenario in SCENARIOS.items()}]}
    for size in WORLDS:
        folder = tmp_path_factory.mktemp(f"world{size}")
        assert start_world(size, process, size, folder, limit=300) == [0] * size
        found[size] = [torch.load(folder / f"{rank}.pt") for rank in range(size)]
    return found


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_any_number_of_processes_trains_alike(worlds, name, world_size):
    (expected,) = (results[name] for results in worlds[1])
    found = [results[name] for results in worlds[world_size]]
    assert_same_training(found, expected, 1e-10 if SCENARIOS[name]["dtype"] == "float64" else 1e-5)


def test_the_scenarios_are_what_they_are_called(worlds):
    (results,) = worlds[1]
    for name, result in results.items():
        assert result["replaced"] > 0, name
        adapted = all("lora_" in weight or weight.startswith("dense.") for weight in result["parameters"])
        assert adapted == name.startswith("adapter")
        taught = [step["teacher"] for step in result["steps"]]
        assert all(value > 0 for value in taught) if name.startswith("teacher") else taught == [None] * 6
        guarded = [step["guarded"] for step in result["steps"]]
        assert not name.startswith("teacher") or max(guarded) > 0
