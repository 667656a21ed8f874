"""Part of benchmarks/gpu.sh: are runs repeatable bit for bit, above all those that were killed and resumed?"""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.gpu_bench import Bench, say
from benchmarks.gpu_models import VOCABULARY, model_folder, texts

FIGURES = ("loss/retrieval", "loss/sts", "gradient_norm")
"""Of a step in metrics.jsonl, in the order in which they come about."""


@dataclass(frozen=True)
class Case:
    """A recipe of which one run is left alone and one is killed and resumed."""

    name: str
    max_length: int
    pairs: int  # graded ones of a step


CASES = [
    # From 256 tokens on the kernel of attention may add up its gradients in any order.
    Case("512 tokens, graded pairs", 512, 32),
    Case("128 tokens", 128, 0),
]


def resume(bench: Bench) -> None:
    """A run that is killed and resumed ends with the weights of one that is not; where it does not: from which step on.

    Meanwhile the parts of a step are done twice each: which of them give other bits the second time?
    """
    steps, cases = (8, CASES[:1]) if bench.small else (40, CASES)
    runs = [_Runs(bench, case, steps) for case in cases]
    killer = threading.Thread(target=_kill_at_checkpoints, args=(runs,), daemon=True)
    killer.start()
    repeat(bench)
    killer.join()
    for run in runs:
        run.resume()
    for run in runs:
        run.compare()


def _kill_at_checkpoints(runs: "list[_Runs]") -> None:
    alive = list(runs)
    while alive:
        alive = [run for run in alive if not run.kill_at_checkpoint()]
        time.sleep(0.02)


class _Runs:
    """A run that is left alone, and at the same time one that is killed at its first checkpoint."""

    def __init__(self, bench: Bench, case: Case, steps: int) -> None:
        self.case, self.steps = case, steps
        self.folder = bench.folder / "resume" / case.name.replace(",", "").replace(" ", "-")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.recipe = _write_recipe(bench, case, steps, self.folder)
        self.whole, self.killed = self.folder / "whole", self.folder / "killed"
        self.processes = {output: self._start(output) for output in (self.whole, self.killed)}
        self.killed_after: int | None = None

    def _start(self, output: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "conan_embed", "train", str(self.recipe), f"output={output}"]
        return subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr)

    def kill_at_checkpoint(self) -> bool:
        """Kill the second run if it has saved a checkpoint; return whether it has come to its end, so or otherwise."""
        run = self.processes[self.killed]
        saved = sorted(self.killed.glob("checkpoints/step-*/state.json"))
        if self.killed_after is None and saved and run.poll() is None:
            run.kill()
            run.wait()
            self.killed_after = int(saved[-1].parent.name.split("-")[1])
        return run.poll() is not None

    def resume(self) -> None:
        if self.killed_after is None:
            raise RuntimeError(f"{self.killed}: the run ended before it was killed; the log says why")
        self.processes[self.killed] = self._start(self.killed)

    def compare(self) -> None:
        from safetensors.torch import load_file

        for output, process in self.processes.items():
            if process.wait():
                raise RuntimeError(f"{output}: the run failed; the log says why")
        one, other = (
            load_file(folder / "model" / "model.safetensors") for folder in (self.whole, self.killed)
        )
        difference = max(float((one[name].float() - other[name].float()).abs().max()) for name in one)
        step, figures = first_difference(read_metrics(self.whole), read_metrics(self.killed))
        say(
            name=f"killed and resumed, {self.steps} steps, {self.case.name}",
            same_bits=difference == 0 and step is None,
            killed_after=self.killed_after,
            difference=difference,
            first_difference=None if step is None else f"in step {step}",
            differs=" and ".join(figures) or None,
        )


def read_metrics(run: Path) -> dict[int, dict[str, Any]]:
    """Return the lines of metrics.jsonl by step; of a step that was done again, the later one."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["step"]: line for line in map(json.loads, lines)}


def first_difference(
    one: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]
) -> tuple[int | None, list[str]]:
    """Return the first step whose figures differ, and which of FIGURES do; (None, []) where none does."""
    for step in sorted(one.keys() | other.keys()):
        lines = one.get(step, {}), other.get(step, {})
        if figures := [name for name in FIGURES if lines[0].get(name) != lines[1].get(name)]:
            return step, figures
    return None, []


def _write_recipe(bench: Bench, case: Case, steps: int, folder: Path) -> Path:
    data: dict[str, Any] = {
        "retrieval": [{"name": "rows", "path": str(bench.rows()), "negative_source": "given"}]
    }
    if case.pairs:
        pairs = folder / "pairs.parquet"
        left, right = (texts(8 * case.pairs, 100, seed=seed) for seed in (3, 4))
        score = np.random.default_rng(0).integers(0, 6, len(left)).astype(float)
        pl.DataFrame({"text_a": left, "text_b": right, "score": score}).write_parquet(pairs)
        data["sts"] = [{"name": "pairs", "path": str(pairs)}]
    base = model_folder("tiny" if bench.small else "minilm", bench.folder)
    recipe = {
        "model": {"base": str(base), "max_length": case.max_length},
        "data": data,
        "step": {"queries": bench.few, "num_negatives": 3, "sts_pairs": case.pairs},
        "hard_negatives": {"source": "ranking", "interval": 3},
        "training": {"steps": steps, "checkpoint_every": steps // 4},
        "evaluation": {"folder": None},
        "tracking": {"tensorboard": False},
        "cache": str(bench.folder / "cache"),
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------- the parts of a step


def repeat(bench: Bench) -> None:
    """Do each part of a step several times with the same numbers, and tell which results have other bits then."""
    for max_length in (128, 512):
        _say_repeated(f"encoder, texts up to {max_length} tokens", _encoder(bench, max_length))
    _say_repeated("rows taken from the step's embeddings", _taken_rows(bench))
    _say_repeated("InfoNCE", _infonce(bench))
    _say_repeated("CoSENT", _cosent(bench))


def _say_repeated(name: str, work: Callable[[], dict[str, torch.Tensor]], times: int = 4) -> None:
    first, *others = [work() for _ in range(times)]
    changed = [part for part in first if not all(torch.equal(first[part], other[part]) for other in others)]
    say(name=f"done {times} times: {name}", same_bits=not changed, differs=" and ".join(changed) or None)


def _encoder(bench: Bench, max_length: int) -> Callable[[], dict[str, torch.Tensor]]:
    from conan_embed.encoder.encode import autocast
    from conan_embed.encoder.model import EmbeddingModel

    size = "tiny" if bench.small else "minilm"
    model = EmbeddingModel.load(model_folder(size, bench.folder), max_length=max_length).to(bench.device)
    generator = np.random.default_rng(0)
    count = 4 if bench.small else 128
    lengths = generator.integers(max_length // 2, max_length + 1, count)
    tokens = generator.integers(5, VOCABULARY, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def work() -> dict[str, torch.Tensor]:
        model.zero_grad()
        with autocast(bench.device, "bfloat16"):
            embedding = model.embed_tokens(tokens, offsets, np.arange(count))
        embedding.square().sum().sqrt().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return {"embeddings": embedding.detach(), "gradient": torch.cat(gradients)}

    return work


def _leaves(bench: Bench, *counts: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(count, 384, generator=generator).to(bench.device).requires_grad_() for count in counts
    ]


def _with_gradients(
    leaves: list[torch.Tensor], compute: Callable[[], torch.Tensor]
) -> Callable[[], dict[str, torch.Tensor]]:
    def work() -> dict[str, torch.Tensor]:
        value = compute()
        gradients = torch.autograd.grad(value, leaves)
        return {"value": value.detach(), "gradient": torch.cat(gradients)}

    return work


def _taken_rows(bench: Bench) -> Callable[[], dict[str, torch.Tensor]]:
    leaves = _leaves(bench, 256)
    drawn = torch.randint(256, (2048,), generator=torch.Generator().manual_seed(0)).to(bench.device)
    return _with_gradients(leaves, lambda: leaves[0].index_select(0, drawn).square().sum().sqrt())


def _infonce(bench: Bench) -> Callable[[], dict[str, torch.Tensor]]:
    from conan_embed.objectives.infonce import infonce
    from conan_embed.objectives.relations import Relations

    query, candidate = leaves = _leaves(bench, 64, 512)
    relations = Relations.one_positive(64, negatives_per_query=7)
    return _with_gradients(leaves, lambda: infonce(query, candidate, relations, temperature=0.05).loss)


def _cosent(bench: Bench) -> Callable[[], dict[str, torch.Tensor]]:
    from conan_embed.objectives.cosent import cosent_of_pairs

    left, right = leaves = _leaves(bench, 256, 256)
    label = torch.randint(6, (256,), generator=torch.Generator().manual_seed(0)).float()
    group = torch.zeros(256, dtype=torch.int64)
    settings = {"temperature": 0.05, "widths": [384]}
    return _with_gradients(leaves, lambda: cosent_of_pairs(left, right, label, group, **settings)[0])
