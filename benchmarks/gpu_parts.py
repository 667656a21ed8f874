"""The parts of benchmarks/gpu.sh; each prints one JSON object a line as soon as it knows something.

    python -m benchmarks.gpu_parts PART [ARGUMENT] [--device cuda|cpu] [--small] [--folder FOLDER]

Times are medians over repetitions after a warm-up, between two synchronisations. Inputs are random,
never zeros. Nothing here changes the card's settings.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_bench import Bench, say
from benchmarks.gpu_correct import checkpointing, correct, world
from benchmarks.gpu_models import MAX_LENGTH, SIZES, model_folder, texts
from benchmarks.gpu_peers import peers
from benchmarks.gpu_resume import resume
from benchmarks.gpu_train import profile, train, waits


def ceilings(bench: Bench) -> None:
    """The two numbers that bound everything: bytes copied, and bfloat16 products."""
    size = 1 << (22 if bench.small else 30)
    source = torch.randn(size, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds(lambda: target.copy_(source))
    say(name="copy, GB/s read and written", value=2 * 4 * size / seconds / 1e9)
    n = 512 if bench.small else 8192
    left, right = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = bench.seconds(lambda: left @ right)
    say(name="bf16 product, TFLOP/s", key="ceiling", value=2 * n**3 / seconds / 1e12)


def loss(bench: Bench) -> None:
    """The streamed Matryoshka loss, forward and backward: time, and memory, which must not grow with the candidates."""
    from conan_embed.objectives.infonce import infonce
    from conan_embed.objectives.relations import Relations

    width = 64 if bench.small else 1792
    widths = tuple(round(width * part) for part in (1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1))
    for queries, candidates in (
        ((64, 128),) if bench.small else ((1024, 8192), (4096, 32_768), (4096, 131_072))
    ):
        query = torch.randn(queries, width, device=bench.device, requires_grad=True)
        candidate = torch.randn(candidates, width, device=bench.device, requires_grad=True)
        place = torch.arange(queries)
        relations = Relations(
            torch.zeros(queries, dtype=torch.long),
            torch.zeros(candidates, dtype=torch.long),
            place,
            place,
            torch.ones(queries, dtype=torch.int8),
        )

        def work(q: torch.Tensor = query, c: torch.Tensor = candidate, r: Relations = relations) -> None:
            infonce(q, c, r, temperature=0.02, widths=widths).loss.backward()

        work()
        query.grad = candidate.grad = None
        bench.reset_peak()
        held = torch.cuda.memory_allocated() if bench.cuda else 0
        work()
        peak = bench.peak_gb()
        gradients = 2 * 4 * width * (queries + candidates) / 1e9  # ours, and those of the leaves
        seconds = bench.seconds(work, limit=1.0)
        say(
            name=f"loss {queries:,} x {candidates:,} x {width}, 7 widths",
            milliseconds=1e3 * seconds,
            tflops=3 * 2 * queries * candidates * width / seconds / 1e12,
            scores_gb=None if peak is None else peak - held / 1e9 - gradients,
            score_matrices_gb=4 * len(widths) * queries * candidates / 1e9,
        )


def encode(bench: Bench) -> None:
    """Encoding texts to normalised embeddings in main memory, tokenising included and not."""
    from conan_embed.encoder.encode import autocast
    from conan_embed.encoder.model import EmbeddingModel

    size = bench.argument
    model = (
        EmbeddingModel.load(model_folder(size, bench.folder), max_length=MAX_LENGTH).to(bench.device).eval()
    )
    passages = texts(64 if bench.small else 20_000, 100, seed=2)
    model.encode(passages[:64])
    started = time.perf_counter()
    tokens, offsets = model.tokenize(passages)
    tokenising = time.perf_counter() - started
    started = time.perf_counter()
    with torch.inference_mode(), autocast(bench.device, "bfloat16"):
        model.embed_tokens(tokens, offsets, np.arange(len(passages))).cpu()
    seconds = time.perf_counter() - started
    say(
        name=f"{size}: encoding, passages/s (median 100 tokens)",
        value=len(passages) / seconds,
        with_tokenising=len(passages) / (seconds + tokenising),
        tflops=SIZES[size].training_flops(np.diff(offsets)) / 3 / seconds / 1e12,
        peak_gb=bench.peak_gb(),
    )


def search(bench: Bench) -> None:
    """Exact search: one million rows of 1024, bfloat16 products and float32 rescoring, with its recall."""
    from conan_embed.search.exact import top_k

    rows_, width, queries = (20_000, 64, 64) if bench.small else (1_000_000, 1024, 16_384)
    generator = torch.Generator(bench.device).manual_seed(0)
    corpus = torch.randn(rows_, width, device=bench.device, generator=generator, dtype=torch.bfloat16)
    query = torch.randn(queries, width, device=bench.device, generator=generator)
    bench.reset_peak()
    seconds = bench.seconds(lambda: top_k(query, corpus, 100, precision="bfloat16"), limit=4.0, most=5)
    _, found = top_k(query[:64], corpus, 100, precision="bfloat16")
    _, exact = top_k(query[:64], corpus, 100)
    hits = (found[:, :, None] == exact[:, None, :]).any(2).float().mean().item()
    say(
        name=f"search {queries:,} in {rows_:,} x {width}, top 100, queries/s",
        value=queries / seconds,
        tflops=2 * queries * rows_ * width / seconds / 1e12,
        recall=hits,
        peak_gb=bench.peak_gb(),
    )


PARTS = {
    part.__name__: part
    for part in (
        ceilings,
        correct,
        checkpointing,
        world,
        resume,
        train,
        waits,
        profile,
        peers,
        loss,
        encode,
        search,
    )
}


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "argument", nargs="?", default="bert-base", help="a model size, where the part has one"
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="sizes for a test of the script itself")
    parser.add_argument("--folder", type=Path, help="where models and rows are made; else a temporary one")
    arguments = parser.parse_args()
    with _folder(arguments.folder) as folder:
        arguments.folder = folder
        PARTS[arguments.part](Bench(arguments))


if __name__ == "__main__":
    main()
