"""Copies to a device and back: the values, and on a CPU no copy at all; which device a process takes.

Apple's GPUs are looked at as far as a machine without one can.
"""

import numpy as np
import pytest
import torch

from conan_embed.device import AsyncHostCopy, choose_device, local_rank, search_device, to_device
from conan_embed.distributed import collectives


@pytest.mark.parametrize("values", [np.arange(6, dtype=np.int64), torch.arange(6)], ids=["numpy", "torch"])
def test_on_a_cpu_memory_is_shared(values):
    tensor = to_device(values, "cpu")
    assert tensor.tolist() == list(range(6)) and tensor.dtype == torch.int64
    values[2] = 9
    assert tensor[2] == 9


def test_results_are_read_without_their_gradient():
    tensor = torch.tensor([1.0, 2.0], requires_grad=True) * 3
    copy = AsyncHostCopy(tensor)
    np.testing.assert_array_equal(copy.numpy(), [3.0, 6.0])
    np.testing.assert_array_equal(copy.numpy(), [3.0, 6.0])


@pytest.mark.gpu
def test_a_gpu_gets_and_returns_the_same_values():
    values = np.random.default_rng(0).standard_normal(1000)
    tensor = to_device(values, "cuda")
    assert tensor.device.type == "cuda"
    np.testing.assert_array_equal(AsyncHostCopy(tensor * 2).numpy(), values * 2)


@pytest.mark.parametrize(
    ("cuda", "mps", "setting", "several", "expected"),
    [
        (False, False, None, False, "cpu"),
        (False, True, None, False, "mps"),
        (True, True, None, False, "cuda"),
        (False, True, "cpu", False, "cpu"),
        (False, True, None, True, "cpu"),  # processes exchange what is in main memory
    ],
)
def test_the_device_of_a_process(monkeypatch, cuda, mps, setting, several, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(collectives.dist, "is_initialized", lambda: True)
    for name, value in (("CONAN_EMBED_DEVICE", setting), ("WORLD_SIZE", "2" if several else None)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert collectives.start().type == expected


def test_a_process_of_several_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CONAN_EMBED_DEVICE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device() == search_device() == torch.device("cuda", 3)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 0), ({"RANK": "2"}, 2), ({"RANK": "5", "LOCAL_RANK": "1"}, 1)],
)
def test_the_rank_on_a_node_is_torchruns(monkeypatch, environment, expected):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert local_rank() == expected


def test_a_process_alone_with_a_gpu_of_its_own_is_the_main_one_of_its_node(monkeypatch):
    """Arms side by side (ablation/parallel.py) have no group, and each a GPU."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert collectives.is_local_main_process()
    assert collectives.broadcast_on_node("here") == "here"


def test_searches_run_on_the_cpu_beside_an_apple_gpu(monkeypatch):
    monkeypatch.setenv("CONAN_EMBED_DEVICE", "mps")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (choose_device().type, search_device().type) == ("mps", "cpu")


def test_apples_gpus_get_no_float64():
    class Noted(torch.Tensor):
        """Notes where it was sent, in which dtype."""

        def to(self, device):
            return self.dtype, device

    sent = to_device(torch.zeros(2, dtype=torch.float64).as_subclass(Noted), "mps")
    assert sent == (torch.float32, "mps")
