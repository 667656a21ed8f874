"""Weights: safetensors only, whole and complete."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.folders import refused


def test_pickled_weights_are_refused(saved):
    _, folder = saved
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    refused(folder, "safetensors")


def test_a_pickled_dense_layer_is_refused(saved):
    _, folder = saved
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), folder / "2_Dense" / "pytorch_model.bin")
    weights.unlink()
    refused(folder, "pickled pytorch_model.bin", "safetensors only")


@pytest.mark.parametrize("file", ["model.safetensors", "2_Dense/model.safetensors"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"\xff" * 8 + data[8:], lambda data: b""]
)
def test_broken_safetensors_are_refused(saved, file, damage):
    _, folder = saved
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    refused(folder)


def test_missing_weights_are_refused_and_not_drawn_at_random(saved):
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "1 tensors are missing", "encoder.layer.1.output.dense.weight")
