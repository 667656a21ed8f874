"""Copies to a device and back: the values, and on a CPU no copy at all."""

import numpy as np
import pytest
import torch

from conan_embed.device import AsyncHostCopy, to_device


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
