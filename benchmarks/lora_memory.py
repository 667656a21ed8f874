"""Memory of a whole model in training beside an adapter's, and beside an adapter's on a base in 4 bits.

    python -m benchmarks.lora_memory [--model FOLDER] [--write]

Two steps, each case in a process of its own. At the second update, when activations are gone: bytes of weights,
gradients and AdamW's moments, and resident memory beyond that before the model was loaded; then a checkpoint. Beside
each stands what docs/how-to/lora.md calculates with: 4 bytes a weight (4.13 bits packed), 12 more for each trained one.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.machine import write_result

CASES = {"whole model": None, "LoRA, rank 16": {"rank": 16}, "the same on 4 bits": {"rank": 16, "bits": 4}}


@dataclass
class Measured:
    """Megabytes of parameters, of gradients with moments, and of a checkpoint; as they are, and calculated."""

    trained: int
    weights: float
    training: float
    checkpoint: float
    resident: float
    calculated_weights: float
    calculated_training: float


def resident() -> float:
    """Return this process's resident memory in MB, after freed pages were given back."""
    from conan_embed.malloc import trim

    trim()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def rows() -> pl.DataFrame:
    """Return rows of made-up words: their meaning does not matter here."""
    generator = np.random.default_rng(0)
    texts = [" ".join(f"word{n}" for n in generator.integers(0, 500, 12)) for _ in range(64)]
    return pl.DataFrame({"query": texts[:16], "positive": [[t] for t in texts[16:32]]}).with_columns(
        negative=pl.Series([texts[32 + i : 34 + i] for i in range(16)])
    )


def case(model: str, lora: dict[str, int] | None) -> Measured:
    import torch

    from benchmarks.stepping import stepping
    from conan_embed.encoder.four_bit import Linear4bit
    from conan_embed.training.checkpoint import Progress, Provenance, save_checkpoint

    before, at_update = resident(), {}
    with stepping(
        model, rows(), queries=8, negatives=2, max_length=64, precision="float32", lora=lora
    ) as ready:
        parameters = list(ready.module.model.parameters())
        packed = [m for m in ready.module.model.modules() if isinstance(m, Linear4bit)]

        def note(*_: object) -> None:
            at_update["gradients"] = sum(p.grad.nbytes for p in parameters if p.grad is not None)
            at_update["resident"] = resident() - before

        ready.module.optimizer.register_step_pre_hook(note)
        ready.step(0)
        ready.step(1)
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        moments = sum(tensor.nbytes for tensor in ready.module.moments().values())
        scales = sum(
            t.nbytes for m in packed for t in vars(m.quant_state).values() if isinstance(t, torch.Tensor)
        )
        scales += sum(m.quant_state.state2.absmax.nbytes for m in packed)
        in_4_bits = sum(m.in_features * m.out_features for m in packed)
        others = sum(p.numel() for p in parameters) - sum(m.weight.numel() for m in packed)
        with tempfile.TemporaryDirectory() as folder:
            path = save_checkpoint(Path(folder), ready.module, None, Progress(2), Provenance({}, {}), keep=1)
            checkpoint = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Measured(
        trained,
        (sum(p.nbytes for p in parameters) + scales) / 1e6,
        (at_update["gradients"] + moments) / 1e6,
        checkpoint / 1e6,
        at_update["resident"],
        (4 * others + 4.127 / 8 * in_4_bits) / 1e6,
        12 * trained / 1e6,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="default: the quickstart's MiniLM")
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    name = "The quickstart's MiniLM" if arguments.model is None else Path(arguments.model).name
    if arguments.model is None:
        from conan_embed.quickstart.run import bundled_model

        arguments.model = str(bundled_model())
    if arguments.case is not None:
        print(json.dumps(asdict(case(arguments.model, CASES[arguments.case]))))
        return
    lines = [
        "| MB | trained parameters | weights, calculated | measured | gradients and AdamW, calculated | measured | a checkpoint | resident |"
    ]
    lines.append("|---" * 8 + "|")
    for label, lora in CASES.items():
        if lora and "bits" in lora and importlib.util.find_spec("bitsandbytes") is None:
            print("bitsandbytes is not installed: 4 bits left out", file=sys.stderr)
            continue
        command = [
            sys.executable,
            "-m",
            "benchmarks.lora_memory",
            "--case",
            label,
            "--model",
            arguments.model,
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = Measured(**json.loads(done.stdout.strip().splitlines()[-1]))
        lines.append(
            f"| {label} | {found.trained:,} | {found.calculated_weights:.1f} | {found.weights:.1f} | "
            f"{found.calculated_training:.1f} | {found.training:.1f} | {found.checkpoint:.1f} | {found.resident:.0f} |"
        )
    what = f"{name}, 8 queries x (1 positive + 2 negatives) of 12 words a step, float32."
    write_result("lora_memory", what, lines, arguments.write)


if __name__ == "__main__":
    main()
