"""Peak memory and time of the streamed Matryoshka InfoNCE against the direct one, forward and backward.

    python -m benchmarks.loss_memory [--write]

Each case runs in a process of its own, so that its peak memory is its own. The direct loss is what one writes down
first: normalise every prefix, one score matrix per width, cross entropy.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from benchmarks.machine import write_result
from conan_embed.objectives.infonce import infonce
from conan_embed.objectives.relations import Relations

SHAPES = ((512, 4096), (4096, 32768))
WIDTH = 1792
WIDTHS = (256, 512, 768, 1024, 1280, 1536, 1792)
TEMPERATURE = 0.02


def direct(query: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """One score matrix per width, all kept for the backward pass."""
    target = torch.arange(len(query))
    losses = []
    for width in WIDTHS:
        q = torch.nn.functional.normalize(query[:, :width], dim=1)
        c = torch.nn.functional.normalize(candidate[:, :width], dim=1)
        losses.append(torch.nn.functional.cross_entropy(q @ c.T / TEMPERATURE, target))
    return torch.stack(losses).mean()


def streamed(query: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """Our loss: candidate i is the positive of query i, all others are negatives."""
    row = torch.arange(len(query))
    relations = Relations(
        torch.zeros(len(query), dtype=torch.long),
        torch.zeros(len(candidate), dtype=torch.long),
        row,
        row,
        torch.ones(len(query), dtype=torch.int8),
    )
    return infonce(query, candidate, relations, temperature=TEMPERATURE, widths=WIDTHS).loss


def one_case(name: str, queries: int, candidates: int) -> dict[str, float]:
    """Measure one loss in this process."""
    torch.manual_seed(0)
    query, candidate = torch.randn(queries, WIDTH), torch.randn(candidates, WIDTH)
    query.requires_grad_()
    candidate.requires_grad_()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    loss = {"direct": direct, "streamed": streamed}[name](query, candidate)
    loss.backward()
    seconds = time.perf_counter() - started
    assert query.grad is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "peak_gb": (peak - before) / 2**20,
        "loss": loss.item(),
        "gradient_norm": query.grad.norm().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    if arguments.case:
        name, queries, candidates = arguments.case
        print(json.dumps(one_case(name, int(queries), int(candidates))))
        return
    lines = [
        "| queries x candidates | loss | peak memory beyond the inputs | seconds | value | gradient norm |",
        "|---|---|---|---|---|---|",
    ]
    for queries, candidates in SHAPES:
        for name in ("direct", "streamed"):
            command = [
                sys.executable,
                "-m",
                "benchmarks.loss_memory",
                "--case",
                name,
                str(queries),
                str(candidates),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines.append(
                    f"| {queries} x {candidates} | {name} | failed: exit status {done.returncode} | | | |"
                )
                continue
            found = json.loads(done.stdout)
            lines.append(
                f"| {queries} x {candidates} | {name} | {found['peak_gb']:.2f} GB | {found['seconds']:.2f} | "
                f"{found['loss']:.5f} | {found['gradient_norm']:.5f} |"
            )
    write_result(
        "loss_memory",
        f"width {WIDTH}, {len(WIDTHS)} Matryoshka widths, float32, forward and backward",
        lines,
        arguments.write,
    )


if __name__ == "__main__":
    main()
