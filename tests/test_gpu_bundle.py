"""benchmarks/gpu_bundle.py: what travels to a machine without a network is what was packed."""

import os
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
    check_sizes,
    checkout_size,
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


def test_what_travels_is_the_bundle_and_the_checkout_without_what_git_ignores(tmp_path, capsys):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("runs/\n")
    for name, size in {"added.py": 100, "new.py": 20, "runs/left": 4000, "bundle/packed": 5000}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    subprocess.run(["git", "add", "added.py"], cwd=tmp_path, check=True)
    assert checkout_size(tmp_path, tmp_path / "bundle") == 100 + 20 + len("runs/\n")
    check_sizes(tmp_path, {"model": 30 * 2**20, "the checkout": 31 * 2**20})
    assert "61.0 MiB  together" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"62\.0 MiB, expected less than 62"):
        check_sizes(tmp_path, {"model": 30 * 2**20, "the checkout": 32 * 2**20})


PYTHON = """#!/bin/sh
case "$*" in
    *version_info*) echo 3 12 ;;
    *gpu_bundle.py*) mkdir -p "$WORK/model" ;;
    *benchmarks.gpu*)
        echo "measured: $*; tokenizers ${TOKENIZERS_PARALLELISM-free}"
        mkdir -p "$WORK/measure"; echo '{}' > "$WORK/measure/loss.jsonl"; touch "$WORK/measure/loss.log" ;;
    *hard-negatives*)
        echo "compared; tokenizers ${TOKENIZERS_PARALLELISM-free}"
        mkdir -p "$WORK/negatives/own"; touch "$WORK/negatives/own/negatives.jsonl"; exit ${STATUS-0} ;;
esac
"""


def run_script(folder, *pieces, **environment):
    """Run benchmarks/gpu_run.sh with a Python that only says what it was asked for."""
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    (folder / "bundle").mkdir(exist_ok=True)
    (folder / "bundle" / "packages.tar.xz").touch()
    places = {name.upper(): str(folder / name) for name in ("python", "bundle", "work", "out")}
    set_here = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    command = ["sh", "benchmarks/gpu_run.sh", *pieces]
    return subprocess.run(
        command, cwd=ROOT, env=set_here | places | environment, capture_output=True, text=True
    )


def test_a_second_measurement_overwrites_nothing(tmp_path):
    for _ in range(2):
        assert run_script(tmp_path, "measure", "--only", "loss").returncode == 0
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"measure.md", "measure-2.md", "measure.jsonl", "measure-2.jsonl"} < found
    assert "--only loss; tokenizers free" in (tmp_path / "out" / "measure.md").read_text()


def test_pieces_run_one_after_the_other_and_only_the_experiment_tokenises_with_one_thread(tmp_path):
    done = run_script(tmp_path, "negatives", "measure", "--resume")
    assert done.returncode == 0, done.stderr
    compared, measured = done.stdout.splitlines()[-2:]
    assert compared == "compared; tokenizers false"
    assert measured.endswith("--resume; tokenizers free")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"negatives-own.md", "negatives-own.tar.gz", "measure.md", "measure-logs.tar.gz"} <= found


def test_a_piece_that_is_not_finished_says_so_and_the_others_still_run(tmp_path):
    done = run_script(tmp_path, "negatives", "measure", STATUS="124")
    assert done.returncode == 75
    assert not (tmp_path / "out" / "negatives-own.md").exists()
    assert (tmp_path / "out" / "measure.md").exists()


def test_unknown_pieces_and_a_missing_bundle_are_refused(tmp_path):
    done = run_script(tmp_path, "measures")
    assert (done.returncode, done.stderr.split(":")[0]) == (64, "measures")
    done = run_script(tmp_path, "measure", BUNDLE=str(tmp_path / "none"))
    assert done.returncode == 66
    assert "no bundle" in done.stderr
