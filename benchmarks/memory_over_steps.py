"""The memory of a run from step to step, with and without giving freed pages back.

    python -m benchmarks.memory_over_steps [--steps 24] [--write]

Packed steps of real texts with the quickstart's MiniLM: every step has another number of tokens, so its buffers have
other sizes. Each case runs in a process of its own; the figure is the resident memory after the step.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import write_result

CASES = {"as it is": 0, "trimmed every 10 steps (training)": 10, "trimmed every step": 1}
QUERIES, NEGATIVES = 8, 3


def resident() -> float:
    """Return this process's resident memory in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def case(trim_every: int, steps: int) -> list[float]:
    """Return the resident memory after each step."""
    from benchmarks.stepping import stepping
    from benchmarks.texts import triples
    from conan_embed.malloc import trim
    from conan_embed.quickstart.run import bundled_model

    found = []
    with stepping(bundled_model(), triples(512, NEGATIVES), queries=QUERIES, negatives=NEGATIVES) as ready:
        for step in range(steps):
            ready.step(step)
            if trim_every and (step + 1) % trim_every == 0:
                trim()
            found.append(resident())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(case(arguments.case, arguments.steps)))
        return
    shown = sorted({0, arguments.steps // 4, arguments.steps // 2, arguments.steps - 1})
    lines = ["| | " + " | ".join(f"step {step + 1}" for step in shown) + " |", "|---|" + "---|" * len(shown)]
    for name, trim_every in CASES.items():
        command = [
            sys.executable,
            "-m",
            "benchmarks.memory_over_steps",
            "--case",
            str(trim_every),
            "--steps",
            str(arguments.steps),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory = json.loads(done.stdout.strip().splitlines()[-1])
        lines.append(f"| {name} | " + " | ".join(f"{memory[step]:.2f}" for step in shown) + " |")
    what = f"{QUERIES} queries x (1 positive + {NEGATIVES} negatives) a step; resident memory in GB after the step."
    write_result("memory_over_steps", what, lines, arguments.write)


if __name__ == "__main__":
    main()
