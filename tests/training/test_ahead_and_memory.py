"""Planning a step while the one before still runs changes nothing; running out of memory changes only the chunks."""

import numpy as np
import pytest
import torch

from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.training import memory
from conan_embed.training.checkpoint import Progress, Provenance
from conan_embed.training.loop import TrainingLoop
from conan_embed.training.memory import Memory
from conan_embed.training.metrics import NoLog
from conan_embed.training.run_folder import RunFolder
from tests.stories.test_world import CHUNKED, DEFAULT, JOINT, Run


def loop_of(scenario, cache):
    run = Run(DEFAULT | scenario, cache)
    loop = TrainingLoop(
        folder=RunFolder(cache),
        module=run.module,
        source=run.planner,
        negatives=run.negatives,
        evaluator=None,
        loss=run.recipe.loss,
        optimizer=run.recipe.optimizer,
        training=run.recipe.training,
        evaluation=run.recipe.evaluation,
        num_steps=20,
        progress=Progress(0),
        provenance=Provenance({}, {}),
        log=NoLog(),
        began=0.0,
    )
    return run, loop


def losses_and_windows(scenario, cache):
    run, loop = loop_of(scenario, cache)
    losses, ahead = [], []
    for _ in range(20):
        losses.append(loop._step().loss)
        ahead.append(loop.ahead is not None)
    return losses, run.table.next_Q.copy(), ahead


EACH = JOINT | {"hard_negatives": JOINT["hard_negatives"] | {"rule": "each", "interval": 1, "too_easy": None}}


@pytest.mark.parametrize("scenario", [JOINT, EACH], ids=["mean", "each"])
def test_steps_planned_ahead_are_the_same_steps(tmp_path, monkeypatch, scenario):
    """A step of which a check replaced negatives is planned anew, the last plans nothing; all bits are the same."""
    losses, windows, ahead = losses_and_windows(scenario, tmp_path)
    assert (windows != 3).any()
    assert any(ahead) and not all(ahead[:-1]) and not ahead[-1]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_look_ahead", lambda self: None)
        assert losses_and_windows(scenario, tmp_path)[0] == losses
    # Keeping such a step would train on negatives that are replaced already.
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_forget_stale_step", lambda self, replaced: None)
        assert losses_and_windows(scenario, tmp_path)[0] != losses


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


def test_the_chunks_of_a_step_are_those_of_the_recipe(tmp_path):
    run = Run(DEFAULT | {"training": CHUNKED}, tmp_path)
    share = run.module.pack_share(run.store, [np.arange(len(run.store))])
    assert share.activation_checkpointing
    assert max(len(chunk.packed.token_ids_T) for chunk in share.chunks) <= CHUNKED["chunk_tokens"]
