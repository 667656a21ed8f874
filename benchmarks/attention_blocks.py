"""How packed attention should cut a stream into texts on a CPU: views of equal length, or a few padded blocks.

    python -m benchmarks.attention_blocks [--texts 36 576] [--write]

Forward and backward of one layer's attention over texts of skewed lengths. "Views" slices the stream into groups of
exactly equal length, without a copy or padding; the others copy the tokens into padded blocks whose lengths are rounded
up to a multiple, and back (`encoder/attention.py`, with its own list of lengths last). Cases take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.machine import write_result
from conan_embed.encoder import packing
from conan_embed.encoder.attention import packed_attention, packed_stream
from conan_embed.encoder.packing import Packed

HEADS, SIZE, TRIES = 12, 32, 5
OWN = packing.BLOCK_LENGTHS


def views(packed: Packed, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention by groups of exactly equal length, each a slice of the stream."""
    lengths = packed.lengths_N
    cuts = [0, *(np.flatnonzero(np.diff(lengths)) + 1), len(lengths)]
    outputs = []
    for first, last in pairwise(cuts):
        rows = slice(int(packed.offsets[first]), int(packed.offsets[last]))
        shape = (HEADS, last - first, int(lengths[first]), SIZE)
        q, k, v = (x[0, :, rows].reshape(shape).transpose(0, 1) for x in (query, key, value))
        outputs.append(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, HEADS, SIZE))
    return torch.cat(outputs)


def blocks(packed: Packed, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention as `encoder/attention.py` does it."""
    with packed_stream(packed):
        return packed_attention(torch.nn.Module(), query, key, value, None)[0][0]


def seconds(
    attention: Callable[..., torch.Tensor], lengths: np.ndarray, block_lengths: tuple[int, ...]
) -> float:
    packing.BLOCK_LENGTHS = block_lengths
    packed = Packed(torch.zeros(int(lengths.sum()), dtype=torch.int64), lengths)
    qkv = [torch.randn(1, HEADS, int(lengths.sum()), SIZE, requires_grad=True) for _ in range(3)]
    started = time.perf_counter()
    attention(packed, *qkv).sum().backward()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, nargs="*", default=[36, 576])
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    cases: dict[str, tuple[Callable[..., torch.Tensor], tuple[int, ...]]] = {
        "views of equal length": (views, OWN)
    }
    for multiple in (16, 32, 64):
        cases[f"blocks by multiples of {multiple}"] = (blocks, tuple(range(multiple, 513, multiple)))
    cases["blocks as they are"] = (blocks, OWN)
    lines = ["| texts | tokens | " + " | ".join(cases) + " |", "|---|---|" + "---|" * len(cases)]
    for texts in arguments.texts:
        lengths = np.sort(np.random.default_rng(0).lognormal(4.2, 0.6, texts).astype(np.int64).clip(8, 512))[
            ::-1
        ].copy()
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(TRIES):
            for name, (attention, block_lengths) in cases.items():
                found[name].append(seconds(attention, lengths, block_lengths))
        cells = [f"{1e3 * statistics.median(times):,.0f}" for times in found.values()]
        lines.append(f"| {texts} | {int(lengths.sum()):,} | {' | '.join(cells)} |")
    what = f"{HEADS} heads of {SIZE}, float32, forward and backward; milliseconds, median of {TRIES} turns."
    write_result("attention_blocks", what, lines, arguments.write)


if __name__ == "__main__":
    main()
