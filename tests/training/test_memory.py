"""What a step needs is what the allocator counts; what it may take is what the machine, or its container, has left.

Running out of memory changes the chunks of a step and nothing else.
"""

import contextlib

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from conan_embed.distributed import collectives
from conan_embed.encoder.encode import TOKEN_BUDGET, autocast
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.recipes.sections import Optimizer, Training
from conan_embed.training import memory
from conan_embed.training.memory import (
    Memory,
    activation_bytes_per_token,
    free_main_memory,
    measure_fitting_tokens,
)
from conan_embed.training.step import make_ready
from conan_embed.training.train_module import PackedShare, TrainModule
from tests.stories.test_world import CHUNKED, DEFAULT, JOINT, Run
from tests.support.many_processes import start_world
from tests.tiny_models import FAMILIES, make_tiny_model


def allocated_per_token(model, precision, few, many):
    """The reference: bytes that the CPU's allocator still holds after a forward pass, by torch's profiler."""

    def held_after(texts):
        offsets = np.arange(texts + 1) * model.max_length
        with torch.profiler.profile(profile_memory=True) as profile, autocast(model.device, precision):
            embeddings = model.embed_tokens(np.zeros(offsets[-1], np.int32), offsets, np.arange(texts))
        assert embeddings.requires_grad
        return sum(event.self_cpu_memory_usage for event in profile.key_averages())

    return (held_after(many) - held_after(few)) / ((many - few) * model.max_length)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_bytes_are_those_of_the_allocator(family, precision):
    model = make_tiny_model(family, pooling="mean").train()
    expected = allocated_per_token(model, precision, 8, 24)
    assert activation_bytes_per_token(model, precision) == pytest.approx(expected, rel=0.1)


def test_the_probe_leaves_the_random_numbers_and_the_mode_alone():
    model = make_tiny_model("bert").eval()
    before = torch.get_rng_state()
    activation_bytes_per_token(model, "float32")
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())


def test_tokens_that_fit(monkeypatch):
    model = make_tiny_model("bert")
    held = 4 * sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(memory, "activation_bytes_per_token", lambda *_: 1000.0)
    monkeypatch.setattr(memory, "free_main_memory", lambda: 5_000_000 * 1000 + 5 * held)
    assert measure_fitting_tokens(model, "float32") == pytest.approx(4_000_000 + held / 1000, abs=1)
    monkeypatch.setattr(collectives, "node_size", lambda: 2)
    assert measure_fitting_tokens(model, "float32") == pytest.approx(2_000_000 - held / 1000, abs=1)


def _measure_in_a_world(sharding, file):
    """Write what is set aside for gradients and moments, and what this process then holds of them, in bytes."""
    collectives.start("cpu")
    memory.activation_bytes_per_token = lambda *_: 1.0
    memory.free_main_memory = lambda: 2 * 10**9  # of both
    model = make_tiny_model("bert")
    module = TrainModule(model, Optimizer(), Training(sharding=sharding, precision="float32"))
    counted = memory._USED * 10**9 - measure_fitting_tokens(model, "float32", sharding)
    ids = np.arange(4) + 4 * collectives.rank()
    chunks = list(model.pack(np.arange(64, dtype=np.int32), np.arange(17) * 4, ids, token_budget=64))
    module.embed_share(PackedShare(chunks, False, 1, 64)).square().sum().backward()
    module.optimizer.step()
    local = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in model.parameters()]
    moments = [m.to_local() if isinstance(m, DTensor) else m for m in module.moments().values()]
    held = sum(tensor.nbytes for tensor in (*local, *moments))
    file.with_suffix(f".{collectives.rank()}").write_text(f"{counted} {held}")


@pytest.mark.parametrize("sharding", ["none", "optimizer", "full"])
def test_a_process_sets_aside_the_gradients_and_moments_that_it_will_hold(tmp_path, sharding):
    assert start_world(2, _measure_in_a_world, sharding, tmp_path / "bytes") == [0, 0]
    pairs = [tuple(map(float, (tmp_path / f"bytes.{rank}").read_text().split())) for rank in range(2)]
    for counted, held in pairs:  # parameters are shared out whole, or row by row: not quite evenly
        assert counted == pytest.approx(held, rel=0.1)
    whole = 3 * sum(parameter.nbytes for parameter in make_tiny_model("bert").parameters())
    share = {"none": 1.0, "optimizer": 2 / 3, "full": 0.5}[sharding]
    assert sum(counted for counted, _ in pairs) / 2 == pytest.approx(share * whole, rel=0.05)


def test_the_limit_of_a_container_counts(tmp_path):
    whole = free_main_memory(tmp_path)  # no such groups
    assert whole > 1 << 20
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 200000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_main_memory(tmp_path) > whole / 2
    (tmp_path / "memory.max").write_text("1000000\n")
    assert free_main_memory(tmp_path) == 500_000
    (tmp_path / "memory.max").write_text("400000\n")
    assert free_main_memory(tmp_path) == 0
    older = tmp_path / "older" / "memory"
    older.mkdir(parents=True)
    (older / "memory.usage_in_bytes").write_text("700000\n")
    (older / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 100000\n")
    (older / "memory.limit_in_bytes").write_text("800000\n")
    assert free_main_memory(tmp_path / "older") == 200_000


def test_a_step_that_does_not_fit_computes_activations_again_and_keeps_its_numbers(tmp_path):
    def first_losses(fitting):
        run = Run(DEFAULT | JOINT, tmp_path)
        run.module.memory.fit(fitting)
        ready = make_ready(run.module, run.planner.step(0, run.table))
        recomputed = ready.share.activation_checkpointing
        return recomputed, [run.step(number)["loss"] for number in range(3)]

    enough, expected = first_losses(10**6)
    too_little, found = first_losses(100)
    assert (enough, too_little) == (False, True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture
def small_memory(monkeypatch):
    """A model that fits `limit` tokens at once, with activations or without."""

    def limited(limit, kept):
        original = EmbeddingModel.forward
        held = {"tokens": 0}

        def forward(self, packed):
            tokens = packed.token_ids_T.numel()
            held["tokens"] += tokens
            if tokens > limit or (held["tokens"] > kept and not packed_again(self)):
                held["tokens"] = 0
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return original(self, packed)

        def packed_again(_):
            return memory_now["of"].activation_checkpointing is True

        memory_now = {}
        monkeypatch.setattr(EmbeddingModel, "forward", forward)
        monkeypatch.setattr(memory, "_SMALLEST", 16)
        return memory_now

    return limited


def test_out_of_memory_halves_the_chunk_and_the_numbers_stay(tmp_path, small_memory, capsys):
    plain = Run(DEFAULT, tmp_path)
    expected = [plain.step(number)["loss"] for number in range(3)]
    run = Run(DEFAULT, tmp_path)
    small_memory(limit=40, kept=60)["of"] = run.module.memory
    run.module.memory.chunk_tokens = 300
    found = [run.step(number)["loss"] for number in range(3)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert run.module.memory.activation_checkpointing is True
    assert run.module.memory.chunk_tokens == 37
    for name, parameter in run.parameters().items():
        torch.testing.assert_close(parameter, plain.parameters()[name], rtol=1e-7, atol=1e-9)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("out of memory") == 4  # once for every change, all in the first step
    assert "step 2" not in said


def test_memory_that_never_suffices_is_the_users_to_know(tmp_path, small_memory):
    run = Run(DEFAULT, tmp_path)
    small_memory(limit=1, kept=1)["of"] = run.module.memory
    with pytest.raises(UserError, match=r"step 1: CUDA out of memory.*smaller step or model"):
        run.step(0)


def test_of_several_processes_none_goes_on_alone(tmp_path, small_memory, monkeypatch):
    run = Run(DEFAULT, tmp_path)
    small_memory(limit=1, kept=1)["of"] = run.module.memory
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(collectives, "all_gather_rows", lambda rows, counts: rows)
    with pytest.raises(UserError, match=r"training.chunk_tokens \(it was 16,384\)"):
        run.step(0)


def test_activations_are_computed_again_where_they_do_not_fit():
    measured = Memory()
    assert not measured.checkpoints_activations(10**9)
    measured.fit(5000)
    assert measured.chunk_tokens == 5000
    assert [measured.checkpoints_activations(tokens) for tokens in (5000, 5001)] == [False, True]
    assert not Memory(activation_checkpointing=False, fitting_tokens=1).checkpoints_activations(10)
    assert Memory(activation_checkpointing=True).checkpoints_activations(1)


def test_chunks_that_the_recipe_asks_for_stay_and_others_are_told(capsys):
    given = Memory.of(Training(chunk_tokens=4000), torch.device("cpu"))
    given.fit(300)
    assert given.chunk_tokens == 4000 and given.checkpoints_activations(301)
    Memory.of(Training(), torch.device("cpu")).fit(10**6)
    assert capsys.readouterr().err == ""
    chosen = Memory.of(Training(), torch.device("cpu"))
    chosen.fit(300)
    assert chosen.chunk_tokens == 300
    assert "chunks have at most 300 tokens" in " ".join(capsys.readouterr().err.split())


def test_a_resumed_run_keeps_its_chunks_while_they_fit_into_the_reserve(capsys):
    def chosen(fitting, before):
        memory = Memory.of(Training(), torch.device("cpu"))
        memory.fit(fitting, before=before)
        return memory.chunk_tokens

    first = chosen(3000, None)
    assert [chosen(fitting, first) for fitting in (10**6, 3001, 2999, 2400)] == [first] * 4
    assert chosen(2399, first) == 2399  # another machine, or one that is busy
    assert chosen(100, 128) == 128  # after out-of-memory errors
    given = Memory.of(Training(chunk_tokens=500), torch.device("cpu"))
    given.fit(10**6, before=first)
    assert given.chunk_tokens == 500


def test_chunks_are_larger_on_a_gpu_unless_told():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert Memory.of(Training(), gpu).chunk_tokens > Memory.of(Training(), cpu).chunk_tokens
    assert [Memory.of(Training(chunk_tokens=500), device).chunk_tokens for device in (gpu, cpu)] == [500, 500]


@pytest.mark.parametrize("max_length", [16, 512, 8192])
def test_bytes_on_a_gpu_are_those_of_tokens_and_once_those_of_a_chunk(monkeypatch, max_length):
    """Whatever is needed once (copies of weights, workspaces) is not counted for every token."""
    model = make_tiny_model("bert").eval()
    monkeypatch.setattr(model, "max_length", max_length)
    modes = []

    def peak(model, precision, texts, length):
        assert length <= max_length and texts * length <= 4096
        modes.append(model.training)
        return 7_000_000 + 300 * texts * length

    monkeypatch.setattr(memory, "_peak", peak)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    found = memory._peak_per_token(model, "bfloat16")
    assert found == pytest.approx(300 + 7_000_000 / TOKEN_BUDGET)
    assert all(modes) and not model.training


def test_the_chunks_of_a_step_are_those_of_the_recipe(tmp_path):
    run = Run(DEFAULT | {"training": CHUNKED}, tmp_path)
    share = run.module.pack_share(run.store, [np.arange(len(run.store))])
    assert share.activation_checkpointing
    assert max(len(chunk.packed.token_ids_T) for chunk in share.chunks) <= CHUNKED["chunk_tokens"]
