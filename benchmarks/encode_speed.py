"""Encoding speed in passages per second, against sentence-transformers' `encode` on the same texts.

    python -m benchmarks.encode_speed [--model FOLDER] [--passages 20000] [--write]

Texts are passages of the Python documentation of this machine, tokenising included. Ours, theirs in bfloat16 and theirs
as it comes (float32) take turns on slices of the texts, so that a busy machine hurts all alike; ours also without
keeping its buffers (`conan_embed.malloc`), and without blocked weights (`conan_embed.encoder.prepacked_weights`). The ceiling is the
bfloat16 matrix product alone at the model's shapes: what an encoder would reach that did nothing else.
"""

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.machine import write_result
from benchmarks.texts import passages
from conan_embed import malloc
from conan_embed.encoder import model as encoder_model
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.quickstart.run import bundled_model
from conan_embed.training.roofline import matmul_peak_tokens_per_second

MAX_LENGTH = 256
SLICES = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(bundled_model()))
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    texts = passages(arguments.passages)
    ours = EmbeddingModel.load(arguments.model, max_length=MAX_LENGTH)
    default, half = (SentenceTransformer(arguments.model, device="cpu") for _ in range(2))
    half.to(torch.bfloat16)
    for model in (default, half):
        model.max_seq_length = MAX_LENGTH

    def without(owner: Any, name: str) -> Callable[[list[str]], np.ndarray]:
        def encode(part: list[str]) -> np.ndarray:
            with mock.patch.object(owner, name, return_value=contextlib.nullcontext()):
                return ours.encode(part)

        return encode

    encoders = {
        "ours": ours.encode,
        "ours, buffers mapped anew": without(malloc, "kept"),
        "ours, weights laid out anew": without(encoder_model, "prepacked_weights"),
        "sentence-transformers, bfloat16": lambda part: half.encode(part, batch_size=32),
        "sentence-transformers, default": lambda part: default.encode(part, batch_size=32),
    }
    for encode in encoders.values():
        encode(texts[:64])
    tokens = len(ours.tokenize(texts)[0])
    ceiling = 0.0
    seconds = dict.fromkeys(encoders, 0.0)
    worst = 0.0
    for part in np.array_split(np.array(texts, dtype=object), SLICES):
        results = {}
        for name, encode in encoders.items():
            started = time.perf_counter()
            results[name] = encode(part.tolist())
            seconds[name] += time.perf_counter() - started
        # The floor of a training step is three times that of a forward pass.
        ceiling = max(ceiling, 3 * matmul_peak_tokens_per_second(ours, "bfloat16"))
        exact = results["sentence-transformers, default"]
        worst = max(worst, float(1 - (results["ours"] * exact).sum(axis=1).min()))
    seconds["matrix products alone, bfloat16"] = tokens / ceiling
    lines = ["| encoder | passages/s | ours is | of the ceiling |", "|---|---|---|---|"]
    for name, value in seconds.items():
        share = tokens / ceiling / value
        lines.append(f"| {name} | {len(texts) / value:,.0f} | {value / seconds['ours']:.2f}x | {share:.0%} |")
    lines += ["", f"Largest 1 - cosine between ours (bfloat16 products) and their float32: {worst:.1e}."]
    what = (
        f"{len(texts):,} passages of the Python documentation, {tokens:,} tokens, at most {MAX_LENGTH} each."
    )
    write_result("encode_speed", what, lines, arguments.write)


if __name__ == "__main__":
    main()
