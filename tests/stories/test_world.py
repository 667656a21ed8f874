"""The number of processes does not matter, nor how they share the model: losses, gradients, replaced negatives and
trained parameters agree to rounding.

Each world is started once and goes through all scenarios; a world of one process is this one, without a process group.
A run also wanders from world to world, through checkpoints of every sharding.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.distributed.tensor import DTensor

from conan_embed.distillation.bank import axes_of, make_banks
from conan_embed.distillation.teacher import BiEncoderTeacher
from conan_embed.distributed import collectives
from conan_embed.encoder.adapter import add_lora
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.embedding import embed_with
from conan_embed.negatives.table import NegativeTable
from conan_embed.planning.planner import Planner
from conan_embed.recipes.schema import Recipe
from conan_embed.recipes.sections import Lora
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStoreBuilder
from conan_embed.texts.tasks import RetrievalDataset, StsDataset, Tasks
from conan_embed.training.checkpoint import Progress, Provenance, load_checkpoint, save_checkpoint
from conan_embed.training.step import embed_step, make_ready, observe_negatives, step_loss, train_step
from conan_embed.training.train_module import TrainModule
from tests.support.many_processes import start_world
from tests.tiny_models import SENTENCES, make_tiny_model

WORLDS = (2, 3, 4)
DEFAULT = {
    "dtype": "float64",
    "widths": [],
    "num_steps": 4,
    "learning_rate": 1e-2,
    "step": {},
    "loss": {},
    "training": {},
    "hard_negatives": {"source": "static"},
    "tiny": False,
    "lora": None,
    "teacher": None,
}
# Everything at once, with hard negatives that are replaced on the way.
JOINT = {
    "num_steps": 12,
    "widths": [4, 8],
    "step": {"in_batch": "step", "num_negatives": 3},
    "hard_negatives": {
        "source": "ranking",
        "interval": 3,
        "decay": 0.9,
        "max_score": 2.0,
        "on_exhausted": "restart",
    },
}
# Small steps: a dozen large ones magnify the rounding of the first.
FLOAT32 = {"dtype": "float32", "learning_rate": 1e-3}
CHUNKED = {"chunk_tokens": 30, "activation_checkpointing": True}
SCENARIOS = {
    "hard negatives": {"step": {"sts_pairs": 0, "in_batch": "none", "num_negatives": 3}},
    "in-batch": {"step": {"sts_pairs": 0, "in_batch": "step", "num_negatives": 0, "positives": 2}},
    "same data set": {"step": {"sts_pairs": 0, "in_batch": "dataset", "num_negatives": 2}},
    "sts": {"step": {"queries": 0}},
    "joint": JOINT,
    "joint, dedicated": JOINT | {"training": {"placement": "dedicated", "sts_share": 0.4}},
    "joint, bank": JOINT | {"hard_negatives": JOINT["hard_negatives"] | {"source": "bank", "refresh": 2}},
    "joint, float32": JOINT | FLOAT32,
    "joint, small chunks": JOINT | {"num_steps": 8, "training": CHUNKED},
    "joint, spread out": JOINT | {"num_steps": 4, "loss": {"spread_out": 0.5}},
    "joint, optimizer shared": JOINT | {"training": {"sharding": "optimizer"}},
    "joint, all shared, small chunks": JOINT | {"num_steps": 8, "training": CHUNKED | {"sharding": "full"}},
    "joint, all shared, float32, bank": JOINT
    | FLOAT32
    | {
        "training": {"sharding": "full", "chunk_tokens": 60},
        "hard_negatives": JOINT["hard_negatives"] | {"source": "bank", "refresh": 2},
    },
    # v2's rule with the paper's sum: at most checks fewer queries are flagged than there are processes.
    "joint, each, remine": JOINT
    | {
        "step": {"in_batch": "step_hard", "num_negatives": 3},
        "hard_negatives": {
            **{"source": "remine", "rule": "each", "interval": 1},
            **{"decay": 0.97, "max_score": 2.0, "too_easy": -0.5},
        },
    },
    "joint, share, bank, guard": JOINT
    | {
        "step": {"in_batch": "dataset_hard", "num_negatives": 3},
        "loss": {"ignore_above_positive": 0.1},
        "hard_negatives": {"source": "bank", "rule": "share", "min_share": 0.3, "interval": 2, "refresh": 2},
    },
    "sequential": {"step": {"mixing": "sequential"}},
    # Two texts: with three processes, one has none.
    "an empty share": {"step": {"queries": 0, "sts_pairs": 2}, "tiny": True},
    "an empty share, all shared": {
        "step": {"queries": 0, "sts_pairs": 2},
        "tiny": True,
        "training": {"sharding": "full"},
    },
    # One query: with two processes, one works out no row of the loss.
    "a single query": {"step": {"queries": 1, "sts_pairs": 0, "num_negatives": 3}},
}
SCENARIOS = {name: DEFAULT | scenario for name, scenario in SCENARIOS.items()}
# What a run wanders through: three steps in each world, with this sharding.
JOURNEY = [(1, "none"), (2, "full"), (3, "optimizer"), (4, "full")]
LEG = 3


def recipe_of(scenario):
    values = {
        "model": {"base": "made here"},
        "data": {"retrieval": [{"name": "r", "path": "r"}], "sts": [{"name": "s", "path": "s"}]},
        "step": {"queries": 5, "sts_pairs": 4, **scenario["step"]},
        "loss": {"temperature": 0.05, **scenario["loss"]},
        "mining": {"offset": 0},
        "hard_negatives": scenario["hard_negatives"],
        "teacher": scenario["teacher"],
        # A large epsilon: AdamW divides by the gradient's size, and a gradient of nothing but rounding must stay one.
        "optimizer": {"learning_rate": scenario["learning_rate"], "epsilon": 1e-4},
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
            RetrievalDataset(
                f"r{number}", drawn[:, 0], np.arange(size), lists, empty, texts, "mined", None, None
            )
        )
    negatives = np.stack([generator.permutation(texts)[:6] for _ in range(14)]).astype(np.int32)
    left, right, label = generator.choice(texts, 9), generator.choice(texts, 9), generator.integers(3, size=9)
    sts = [
        StsDataset("s0", left[:5], right[:5], label[:5], None),
        StsDataset("s1", left[5:], right[5:], label[5:], None),
    ]
    if tiny:
        pair = np.array([texts[0], texts[0]]), np.array([texts[1], texts[0]])
        sts = [StsDataset("s", *pair, np.array([1.0, 0.0]), None)]
    return Tasks(store, sets, sts), NegativeTable(negatives, 3)


class Run:
    """A scenario as it stands in this process."""

    def __init__(self, scenario, cache):
        self.recipe = recipe_of(scenario)
        dtype = getattr(torch, scenario["dtype"])
        model = make_tiny_model("bert", dense_width=10, widths=scenario["widths"])
        if scenario["lora"] is not None:
            torch.manual_seed(0)
            add_lora(model, Lora(**scenario["lora"]), "made here")
        model = model.to(dtype).train()
        self.tasks, self.table = make_tasks(model, cache, tiny=scenario["tiny"])
        self.teacher = None if self.recipe.teacher is None else self._teacher(cache)
        self.store = self.tasks.store
        self.planner = Planner(self.tasks, self.recipe.step, seed=5)
        self.module = TrainModule(model, self.recipe.optimizer, self.recipe.training)
        self.embed = embed_with(model, self.store, "float32", 50)
        self.negatives = DynamicNegatives(
            self.recipe.hard_negatives,
            self.recipe.mining,
            self.table,
            self.tasks.retrieval,
            self.store,
            self.embed,
            width=model.width,
            fill=self.embed,
        )
        self.replaced = 0

    def _teacher(self, cache):
        """Another tiny model, wider than the student."""
        model = make_tiny_model("roberta", dense_width=14, seed=7)
        banks = make_banks(model, self.tasks.store, self.tasks.retrieval, Path(cache), precision="float32")
        return BiEncoderTeacher(
            *banks,
            margin=self.recipe.teacher.ignore_above_positive,
            axes_DW=axes_of(banks[1], 10, Path(cache)),
        )

    def gradients(self):
        plan = self.planner.step(0, self.table)
        model = self.module.model
        ready = make_ready(self.module, plan, self.teacher)
        embedding_UD = embed_step(self.module, ready)
        loss = step_loss(
            embedding_UD, plan, self.recipe.loss, model.widths, ready.teacher, self.recipe.teacher
        )
        loss.total.backward()
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        found = {name: whole(p.grad).clone() for name, p in trained}
        self.module.model.zero_grad()
        return found

    def step(self, number):
        plan = self.planner.step(number, self.table)
        ready = make_ready(self.module, plan, self.teacher)
        result = train_step(
            self.module,
            ready,
            self.recipe.loss,
            self.recipe.teacher,
            max_grad_norm=self.recipe.optimizer.max_grad_norm,
        )
        observe_negatives(self.table, plan, result)
        check = self.negatives.after_step(number + 1, plan.text_ids, result.embedding_UD)
        self.replaced += 0 if check is None else check.replaced
        return {key: value for key, value in asdict(result).items() if not isinstance(value, np.ndarray)}

    def parameters(self):
        return {name: whole(tensor).clone() for name, tensor in self.module.parameters().items()}


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def run_scenario(scenario, cache):
    """Return gradients of the first step, what every step says, the table and the parameters at the end."""
    run = Run(scenario, cache)
    return {
        "gradients": run.gradients(),
        "steps": [run.step(number) for number in range(scenario["num_steps"])],
        "parameters": run.parameters(),
        "table": {name: torch.from_numpy(values) for name, values in run.table.state().items()},
        "replaced": run.replaced,
        "embedded": run.embed(np.arange(len(run.store))[::-1].copy(), ""),
    }


def travel(folder, cache, world_size):
    """Go on from the world before, and leave a checkpoint for the next; return what the steps say."""
    said = []
    for leg, (size, sharding) in enumerate(JOURNEY):
        if size == world_size:
            run = Run(SCENARIOS["joint, bank"] | {"training": {"sharding": sharding}}, cache)
            if leg:
                before = folder / f"step-{leg * LEG:08d}"
                progress = load_checkpoint(before, run.module, run.negatives)
                assert progress.step == leg * LEG
            said = [run.step(leg * LEG + number) for number in range(LEG)]
            progress = Progress((leg + 1) * LEG)
            save_checkpoint(folder, run.module, run.negatives, progress, Provenance({}, {}), keep=9)
    return said


def process(world_size, folder, journey):
    """What one process of a world does."""
    collectives.start("cpu")
    rank = collectives.rank()
    assert collectives.world_size() == world_size
    cache = folder / f"cache{rank}"
    results = {name: run_scenario(scenario, cache) for name, scenario in SCENARIOS.items()}
    for sharding in ("none", "full") if world_size == 2 else ():
        training = {"precision": "bfloat16", "chunk_tokens": 60, "sharding": sharding}
        results[f"bfloat16, {sharding}"] = run_scenario(
            DEFAULT | FLOAT32 | {"training": training, "widths": [4]}, cache
        )
    results["journey"] = travel(journey, cache, world_size)
    torch.save(results, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """The folder of the checkpoints that go from world to world."""
    return tmp_path_factory.mktemp("journey")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory, journey):
    """{world size: the results of each of its processes}."""
    found = {}
    alone = tmp_path_factory.mktemp("world1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {name: run_scenario(scenario, alone) for name, scenario in SCENARIOS.items()}
    found[1] = [results | {"journey": travel(journey, alone, 1)}]
    torch.set_num_threads(threads)
    for size in WORLDS:
        folder = tmp_path_factory.mktemp(f"world{size}")
        assert start_world(size, process, size, folder, journey) == [0] * size
        found[size] = [torch.load(folder / f"{rank}.pt") for rank in range(size)]
    return found


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_any_number_of_processes_trains_alike(worlds, name, world_size):
    (expected,) = (results[name] for results in worlds[1])
    found = [results[name] for results in worlds[world_size]]
    assert_same_training(found, expected, 1e-10 if SCENARIOS[name]["dtype"] == "float64" else 1e-5)


def assert_same_training(found_by_process, expected, tolerance):
    """Compare what `run_scenario` returned on each process of a world with that of a process alone."""
    assert any(gradient.abs().max() > 1e-3 for gradient in expected["gradients"].values())
    for found in found_by_process:
        assert found["replaced"] == expected["replaced"]
        for part in ("gradients", "parameters", "table"):
            assert found[part].keys() == expected[part].keys()
            for key, value in expected[part].items():
                close = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
                if part == "table":  # float32 by nature
                    close |= {"rtol": 1e-5, "atol": 1e-6}
                torch.testing.assert_close(found[part][key], value, **close, msg=lambda m, k=key: f"{k}: {m}")
        for now, then in zip(found["steps"], expected["steps"], strict=True):
            scores = ("positive_score", "negative_score", "positive_share", "hard_share", "ignored")
            scores = (*scores, "teacher", "guarded")
            for key in ("loss", "retrieval", "sts", *scores, "gradient_norm"):
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
    for world_size in WORLDS:
        first, *others = (results[name] for results in worlds[world_size])
        for other in others:
            for part in ("gradients", "parameters"):
                assert all(torch.equal(other[part][key], value) for key, value in first[part].items())
            assert [step["loss"] for step in other["steps"]] == [step["loss"] for step in first["steps"]]


def test_sixteen_bits_are_the_same_sixteen_bits_when_all_is_shared(worlds):
    """Between worlds they are not: other texts share a chunk, and matrix products round otherwise."""
    results = worlds[2][0]
    whole, shared = results["bfloat16, none"], results["bfloat16, full"]
    for key, value in whole["parameters"].items():
        torch.testing.assert_close(shared["parameters"][key], value, rtol=1e-5, atol=1e-5)
    assert [step["loss"] for step in shared["steps"]] == pytest.approx(
        [step["loss"] for step in whole["steps"]], rel=1e-5
    )


def test_the_scenarios_are_what_they_are_called(worlds):
    (results,) = worlds[1]
    assert all(step["texts"] == 2 for step in results["an empty share"]["steps"])
    for name, result in results.items():
        if name == "journey":
            continue
        with_queries = [step["retrieval"] is not None for step in result["steps"]]
        with_pairs = [step["sts"] is not None for step in result["steps"]]
        if name.startswith("joint"):
            assert all(with_queries)
            assert all(with_pairs)
            step = result["steps"][0]
            parts = step["retrieval"] + 0.8 * step["sts"] + (step["spread"] or 0)
            assert step["loss"] == pytest.approx(parts, rel=1e-6)
            assert (step["spread"] is not None) == ("spread" in name)
            scenario = SCENARIOS[name]
            checks = scenario["num_steps"] // scenario["hard_negatives"]["interval"]
            assert 0 < result["replaced"] < checks * len(result["table"]["next_Q"])
            assert result["table"]["replacements_Q"].sum() == result["replaced"]
        if name == "sequential":
            assert any(with_queries)
            assert any(with_pairs)
            assert not any(a and b for a, b in zip(with_queries, with_pairs, strict=True))


def test_a_run_goes_on_in_another_world_with_another_sharding(worlds, journey, tmp_path):
    undisturbed = Run(SCENARIOS["joint, bank"], tmp_path)
    expected = [undisturbed.step(number)["loss"] for number in range(len(JOURNEY) * LEG)]
    for size in (1, *WORLDS):
        for results in worlds[size]:
            found = [step["loss"] for step in results["journey"]]
            assert found == pytest.approx(expected[(size - 1) * LEG : size * LEG], rel=1e-9)
    home = Run(SCENARIOS["joint, bank"], tmp_path)
    last = journey / f"step-{len(JOURNEY) * LEG:08d}"
    progress = load_checkpoint(last, home.module, home.negatives)
    for name, values in undisturbed.parameters().items():
        torch.testing.assert_close(home.parameters()[name], values, rtol=1e-10, atol=1e-10)
    for name, values in undisturbed.module.moments().items():
        torch.testing.assert_close(home.module.moments()[name], values, rtol=1e-8, atol=1e-12)
    assert home.step(progress.step)["loss"] == pytest.approx(
        undisturbed.step(progress.step)["loss"], rel=1e-9
    )
    # Every process has written its part.
    assert len(list((last / "model").iterdir())) == len(list((last / "optimizer").iterdir())) == 4
