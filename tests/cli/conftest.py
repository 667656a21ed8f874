"""A folder with a model, data and a recipe, and the command line in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conan_embed.cli import app, main


def run_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "conan_embed", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path, tiny_model):
    """A folder with a model, data and a recipe."""
    tiny_model("bert").save(tmp_path / "base")
    texts = ["Python file", "read lines", "deep model", "training data", "hard negative", "nice park"]
    rows = [{"query": f"{a} {b}?", "positive": [f"{a} {b}."]} for a in texts for b in texts]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    graded = [{"text_a": a, "text_b": b, "score": float(a == b)} for a in texts for b in texts]
    (tmp_path / "sts.jsonl").write_text("\n".join(map(json.dumps, graded)))
    (tmp_path / "eval/sts").mkdir(parents=True)
    (tmp_path / "eval/sts/Same.jsonl").write_text("\n".join(map(json.dumps, graded)))
    (tmp_path / "my.yaml").write_text(
        """
model: {base: base, widths: [16]}
data:
  retrieval: [{name: pairs, path: pairs.jsonl}]
  sts: [{name: graded, path: sts.jsonl}]
step: {queries: 4, num_negatives: 2, sts_pairs: 8}
mining: {depth: 8, offset: 2}
hard_negatives: {source: ranking, interval: 2}
training: {steps: 4, checkpoint_every: 2}
evaluation: {folder: eval, every: 2}
output: run
"""
    )
    return tmp_path


@pytest.fixture(name="command")
def command_fixture() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_command


@pytest.fixture
def here(project, monkeypatch, capsys):
    """Run a command in this process, in the project's folder; return what it printed, to both streams."""
    monkeypatch.chdir(project)

    def here(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["conan-embed", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        assert exit_.value.code == 0, printed.err
        return printed

    return here


@pytest.fixture
def calls_of(monkeypatch):
    """Run a command in this process with the function that does its work replaced; return what it was called with."""

    def calls_of(function, result, *arguments):
        calls = []

        def record(*positional, **named):
            calls.append((positional, named))
            return result

        monkeypatch.setattr(function, record)
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        (call,) = calls
        return call

    return calls_of
