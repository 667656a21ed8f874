"""benchmarks/gpu_bundle.py: what travels to a machine without a network is what was packed."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from benchmarks.gpu_bundle import (
    MAX_TOKENS,
    ROOT,
    _cut_file,
    _from_8_bits,
    _pack_model,
    _to_8_bits,
    _write_tar,
    unpack,
)
from conan_embed.encoder.model import EmbeddingModel
from tests.tiny_models import SENTENCES, make_tiny_model


def test_matrices_travel_in_8_bits_and_everything_else_as_it_is(tmp_path):
    generator = np.random.default_rng(0)
    tensors = {
        "matrix": generator.normal(size=(5, 64)).astype(np.float32),
        "narrow": generator.normal(size=(5, 7)).astype(np.float32),
        "bias": generator.normal(size=64).astype(np.float32),
        "zeros": np.zeros((2, 32), np.float32),
    }
    np.savez(tmp_path / "w.npz", **dict(_to_8_bits(tensors)))
    with np.load(tmp_path / "w.npz") as packed:
        found = dict(_from_8_bits(packed))
    assert found.keys() == tensors.keys()
    for name in ("narrow", "bias", "zeros"):
        np.testing.assert_array_equal(found[name], tensors[name])
    # Half a level of the block's scale, and the scale's own rounding.
    largest = np.abs(tensors["matrix"]).reshape(5, 2, 32).max(axis=2, keepdims=True)
    error = np.abs(found["matrix"] - tensors["matrix"]).reshape(5, 2, 32)
    assert (error <= largest * (0.5 / 127 + 2**-10)).all()


def test_an_unpacked_model_embeds_nearly_as_the_packed_one(tmp_path):
    model = make_tiny_model("bert")
    model.save(tmp_path / "base")
    (tmp_path / "bundle").mkdir()
    _pack_model(tmp_path / "base", tmp_path / "bundle" / "model.tar.xz")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "module.py").write_text("VALUE = 3\n")
    _write_tar(tmp_path / "bundle" / "packages.tar.xz", tmp_path / "site")
    unpack(tmp_path / "bundle", tmp_path / "work")
    assert (tmp_path / "work" / "packages" / "module.py").read_text() == "VALUE = 3\n"
    again = EmbeddingModel.load(tmp_path / "work" / "model")
    texts = list(SENTENCES)[:8]
    one, other = (each.encode(texts, precision="float32") for each in (model, again))
    assert (one * other).sum(axis=1).min() > 0.995


def test_a_cut_text_has_the_same_first_tokens(tmp_path):
    model = make_tiny_model("bert")
    tokenizer = model.tokenizer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    texts = [" ".join(SENTENCES), SENTENCES[0], ""]
    pl.DataFrame({"query": texts, "positive": texts[::-1], "other": [1, 2, 3]}).write_parquet(
        tmp_path / "in.parquet"
    )
    _cut_file(tmp_path / "in.parquet", tmp_path / "out" / "cut.parquet", tokenizer, None)
    cut = pl.read_parquet(tmp_path / "out" / "cut.parquet")
    assert cut.columns == ["query", "positive"]
    assert len(cut["query"][0]) < len(texts[0])
    for before, after in zip(texts, cut["query"], strict=True):
        assert tokenizer.encode(after).ids == tokenizer.encode(before).ids


def test_its_command_line_needs_nothing_that_is_carried():
    code = """
import runpy, sys
sys.modules.update(dict.fromkeys(["polars", "conan_embed", "pydantic", "omegaconf"]))
sys.argv = ["gpu_bundle", "--help"]
runpy.run_path("benchmarks/gpu_bundle.py", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "unpack" in done.stdout


@pytest.mark.parametrize("script", ["benchmarks/gpu_run.sh", "benchmarks/gpu.sh", "experiments/gpu.sh"])
def test_the_scripts_are_shell(script):
    subprocess.run(["sh", "-n", script], cwd=ROOT, check=True)
