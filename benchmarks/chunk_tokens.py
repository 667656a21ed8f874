"""What the size of a packed chunk costs on a CPU: seconds per thousand tokens of a layer's simplest operations.

    python -m benchmarks.chunk_tokens [--hidden 384] [--write]

Buffers above 32 MB are mapped anew for every use (the C library's largest threshold) and zeroed page by page by the
kernel. That is why `EmbeddingModel.embed_tokens` keeps to 4,096 tokens where nothing has to be remembered for a
backward pass. The best of several tries each, sizes in turn.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import gelu, linear

from benchmarks.machine import write_result

SIZES = (1024, 2048, 4096, 8192, 16_384)
TRIES = 9


def best(action: Callable[[], object]) -> float:
    """Return the least seconds of an action."""
    action()
    found = float("inf")
    for _ in range(TRIES):
        started = time.perf_counter()
        action()
        found = min(found, time.perf_counter() - started)
    return found


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hidden", type=int, default=384, help="of the model; the inner width is four times that"
    )
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    hidden, inner = arguments.hidden, 4 * arguments.hidden
    weight, bias = torch.randn(inner, hidden).bfloat16(), torch.randn(inner).bfloat16()
    lines = ["| tokens of a chunk | product, ms | GELU, ms | copy to float32, ms |", "|---|---|---|---|"]
    for tokens in SIZES:
        narrow, wide = torch.randn(tokens, hidden).bfloat16(), torch.randn(tokens, inner).bfloat16()
        costs = [best(partial(linear, narrow, weight, bias)), best(partial(gelu, wide)), best(wide.float)]
        lines.append(f"| {tokens:,} | " + " | ".join(f"{1e6 * cost / tokens:.2f}" for cost in costs) + " |")
    what = f"Hidden width {hidden}, inner width {inner}, bfloat16; milliseconds per thousand tokens."
    write_result("chunk_tokens", what, lines, arguments.write)


if __name__ == "__main__":
    main()
