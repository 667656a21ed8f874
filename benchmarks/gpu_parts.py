"""The parts of benchmarks/gpu.sh; each prints one JSON object a line as soon as it knows something.

    python -m benchmarks.gpu_parts PART [ARGUMENT] [--device cuda|cpu] [--small] [--folder FOLDER]

Times are medians over repetitions after a warm-up, by CUDA events or between two synchronisations. Inputs are random,
never zeros. Nothing here changes the card's settings.
"""

import argparse
import contextlib
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.gpu_models import MAX_LENGTH, NEGATIVES, SIZES, model_folder, rows, texts

if TYPE_CHECKING:
    from benchmarks.stepping import Stepping


class Bench:
    """Where and how large."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.small: bool = arguments.small
        self.folder: Path = arguments.folder
        self.argument: str = arguments.argument
        self.cuda = self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], *, limit: float = 2.0, most: int = 30) -> float:
        """Return the median seconds of `work`, after two calls to warm up."""
        for _ in range(2):
            work()
        self.wait()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < limit and len(times) < most):
            started = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - started)
        return median(times)

    def reset_peak(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 1e9 if self.cuda else None


def say(**facts: Any) -> None:
    """Print one result."""
    print(json.dumps(facts), flush=True)


# --------------------------------------------------------------------------------------------------- ceilings


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


# ------------------------------------------------------------------------------------------------ correctness


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


def correct(bench: Bench) -> None:
    """Loss and gradient of packed bfloat16 against float32 in padded batches of transformers' own attention."""
    from conan_embed.encoder.encode import autocast
    from conan_embed.objectives.infonce import infonce
    from conan_embed.objectives.relations import Relations
    from tests.tiny_models import FAMILIES, VOCABULARY, make_tiny_model

    generator = np.random.default_rng()
    lengths = generator.integers(1, 100, 48)
    tokens = generator.integers(5, VOCABULARY, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    zero, place = torch.zeros(16, dtype=torch.long), torch.arange(16)
    relations = Relations(zero, zero.repeat(2), place, place, torch.ones(16, dtype=torch.int8))

    def gradients(model: torch.nn.Module, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = infonce(embedding[:16], embedding[16:], relations, temperature=0.5, widths=(16, 64)).loss
        model.zero_grad()
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    for compiled in (False, True) if bench.cuda else (False,):
        for family in ("bert", "modernbert") if compiled else FAMILIES:
            model = make_tiny_model(family, hidden=64).to(bench.device)
            expected = gradients(model, _padded(model, tokens, offsets, bench.device))
            if compiled:
                model.compile_layers()
            with autocast(bench.device, "bfloat16"):
                embedding = model.embed_tokens(tokens, offsets, np.arange(48), token_budget=1000)
            found = gradients(model, embedding)
            loss, gradient = (_relative(a, b) for a, b in zip(found, expected, strict=True))
            name = f"{family}, packed bf16{' compiled' if compiled else ''} against padded float32"
            say(name=name, loss=loss, gradient=gradient, ok=loss < 0.02 and gradient < 0.1)


def _padded(model: Any, tokens: np.ndarray, offsets: np.ndarray, device: torch.device) -> torch.Tensor:
    import copy

    encoder = model.encoder
    own = encoder.config._attn_implementation
    encoder.set_attn_implementation("sdpa")
    batch = [torch.from_numpy(part.astype(np.int64)) for part in np.split(tokens, offsets[1:-1])]
    ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=encoder.config.pad_token_id)
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(np.diff(offsets))[:, None]
    ids, mask = ids.to(device), mask.to(device)
    hidden = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    encoder.set_attn_implementation(copy.copy(own))
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def world(bench: Bench) -> None:
    """Steps of the joint loss with replaced negatives, in a process group of one (NCCL on a GPU) and without any.

    Also how long a check of a million queries' negatives takes, every hundred steps or so.
    """
    from conan_embed.distributed import collectives
    from conan_embed.negatives.rules import make_rule
    from conan_embed.negatives.table import NegativeTable
    from conan_embed.recipes.schema import Replacement
    from conan_embed.training.train_module import _summing
    from tests.stories import test_world

    def losses(grouped: bool) -> tuple[list[float], int]:
        scenario = test_world.DEFAULT | test_world.JOINT | {"dtype": "float32", "num_steps": 12}
        with tempfile.TemporaryDirectory() as cache:
            run = test_world.Run(scenario, cache)
            run.module.model.to(bench.device)
            if grouped:
                run.module._embed_share = _summing(run.module._embed_share)
            found = [run.step(number)["loss"] for number in range(12)]
            return found, run.replaced

    alone, replaced = losses(False)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    collectives.start(bench.device.type)
    # A world of one skips its collectives; here they are the point.
    collectives.all_gather_rows = lambda local, counts: collectives._AllGatherRows.apply(local, list(counts))
    collectives.all_reduce_sum = lambda tensor: (torch.distributed.all_reduce(tensor), tensor)[1]
    grouped, _ = losses(True)
    collectives.stop()
    difference = max(abs(a - b) for a, b in zip(alone, grouped, strict=True))
    say(
        name=f"joint loss and dynamic negatives, {'NCCL' if bench.cuda else 'gloo'}, one process",
        difference=difference,
        replaced=replaced,
        ok=difference < 1e-3 and replaced > 0,
    )
    queries = 10_000 if bench.small else 1_000_000
    generator = np.random.default_rng(0)
    rule = make_rule(Replacement(source="ranking"))
    table = NegativeTable(generator.integers(0, 10**6, (queries, 100), dtype=np.int32), 7)
    table.observe(np.arange(queries), generator.random((queries, 7), np.float32))
    table.observe(np.arange(queries), generator.random((queries, 7), np.float32))
    started = time.perf_counter()
    learned = rule.learned(table.initial_QN, table.current_QN, table.share_QN)
    milliseconds = 1e3 * (time.perf_counter() - started)
    say(
        name=f"rule over {queries:,} queries, ms",
        value=milliseconds,
        replaced=int(learned.any(axis=-1).sum()),
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# ----------------------------------------------------------------------------------------------------- resuming


def resume(bench: Bench) -> None:
    """A run that is killed and resumed ends with the weights of one that is not: bit for bit, and how far if not."""
    from safetensors.torch import load_file

    steps = 8 if bench.small else 200
    recipe = _write_recipe(bench, steps)
    whole, killed = bench.folder / "whole", bench.folder / "killed"
    for output in (whole, killed):
        shutil.rmtree(output, ignore_errors=True)
    _train_run(recipe, whole)
    run = _start_run(recipe, killed)
    while not list(killed.glob("checkpoints/step-*")) and run.poll() is None:
        time.sleep(0.02)
    run.kill()
    run.wait()
    done = not (killed / "model").exists()
    _train_run(recipe, killed)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (whole, killed))
    difference = max(float((first[name].float() - second[name].float()).abs().max()) for name in first)
    say(
        name=f"killed at a checkpoint and resumed, {steps} steps, bits equal",
        difference=difference,
        ok=done and difference == 0,
    )


def _write_recipe(bench: Bench, steps: int) -> Path:
    data = bench.folder / "resume.parquet"
    rows(16 if bench.small else 1024).write_parquet(data)
    recipe = {
        "model": {
            "base": str(model_folder("tiny" if bench.small else "minilm", bench.folder)),
            "max_length": 128,
        },
        "data": {"retrieval": [{"name": "rows", "path": str(data), "negative_source": "given"}]},
        "step": {"queries": 8 if bench.small else 64, "num_negatives": 3, "sts_pairs": 0},
        "hard_negatives": {"source": "ranking", "interval": 3},
        "training": {"steps": steps, "checkpoint_every": steps // 4},
        "evaluation": {"folder": None},
        "tracking": {"tensorboard": False},
        "cache": str(bench.folder / "cache"),
    }
    path = bench.folder / "resume.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def _start_run(recipe: Path, output: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "conan_embed", "train", str(recipe), f"output={output}"]
    return subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr)


def _train_run(recipe: Path, output: Path) -> None:
    if _start_run(recipe, output).wait():
        raise RuntimeError(f"{output}: the run failed; the log says why")


# ---------------------------------------------------------------------------------------------------- training


def _stepping(
    bench: Bench, size: str, count: int, queries: int, **training: Any
) -> AbstractContextManager["Stepping"]:
    from benchmarks.stepping import stepping

    return stepping(
        model_folder(size, bench.folder),
        rows(count),
        queries=queries,
        negatives=NEGATIVES,
        max_length=MAX_LENGTH,
        device=bench.device,
        **training,
    )


def train(bench: Bench) -> None:
    """Steps of our trainer at 64 and 1024 queries, eager and compiled: real tokens/s, and TFLOP/s on real tokens."""

    size, largest = bench.argument, 8 if bench.small else 1024
    for compiled in (False, True) if bench.cuda else (False,):
        for queries in (largest // 16 or 4, largest):
            bench.reset_peak()
            _train_case(bench, size, largest, queries, compiled)
    if bench.cuda:
        say(name=f"{size}: waits for the GPU inside a step", value=_waits(bench, size))


def _train_case(bench: Bench, size: str, count: int, queries: int, compiled: bool) -> None:
    from conan_embed.encoder.packed_encoder import compiled_graphs

    with _stepping(bench, size, count, queries, compile=compiled) as run:
        seconds: list[float] = []
        tokens, flops = [], []
        ahead = [run.make_ready(0)]

        def look_ahead() -> None:
            ahead.append(run.make_ready(len(seconds) + 1))

        began, budget = time.perf_counter(), 2.0 if bench.small else 5.0
        while len(seconds) < 5 or (time.perf_counter() - began < budget and len(seconds) < 40):
            started, ready = time.perf_counter(), ahead.pop()
            result = run.step(len(seconds), ready, look_ahead)
            seconds.append(time.perf_counter() - started)
            tokens.append(result.tokens)
            flops.append(SIZES[size].training_flops(run.store.lengths(ready.plan.text_ids)))
            if len(seconds) > 3 and time.perf_counter() - began > 12:
                break
        taken = sum(seconds[2:])  # the first two warm up, and compile
        say(
            name=f"{size}, {queries} queries{', compiled' if compiled else ''}",
            who="ours",
            size=size,
            queries=queries,
            tokens_per_second=sum(tokens[2:]) / taken,
            tflops=sum(flops[2:]) / taken / 1e12,
            step_seconds=median(seconds[2:]),
            peak_gb=bench.peak_gb(),
            chunk_tokens=run.module.memory.chunk_tokens,
            fitting_tokens=run.module.memory.fitting_tokens,
            activation_checkpointing=ready.share.activation_checkpointing,
            graphs=compiled_graphs(),
            first_step_seconds=seconds[0],
        )


def _waits(bench: Bench, size: str) -> int:
    with _stepping(bench, size, 1024, 64) as run:
        for number in range(2):
            run.step(number)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run.step(2)
        torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchroniz" in str(w.message)]
    for warning in found[:8]:
        print(f"  waits at {warning.filename}:{warning.lineno}", file=sys.stderr)
    return len(found)


def profile(bench: Bench) -> None:
    """Where the time of a step goes: the ten kernels that take most of it, on stderr and in profile.txt."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    size, largest = bench.argument, 8 if bench.small else 1024
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    with _stepping(bench, size, largest, largest // 16 or 4) as run:
        for number in range(2):
            run.step(number)
        with profiling(activities=activities) as profiler:
            run.step(2)
            bench.wait()
    key = "self_cuda_time_total" if bench.cuda else "self_cpu_time_total"
    shown = profiler.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60)
    (bench.folder / "profile.txt").write_text(shown, encoding="utf-8")
    print(shown, file=sys.stderr)
    say(name=f"{size}: profile of a step", value=None, note=str(bench.folder / "profile.txt"))


# ------------------------------------------------------------------------------------------------------- peers


def peers(bench: Bench) -> None:
    """sentence-transformers on the same rows: padded (SDPA), and without padding where flash attention is installed.

    Their trainer's work without its loader: features are tokenised and padded before the clock starts.
    """
    from importlib.util import find_spec

    size = bench.argument
    if find_spec("sentence_transformers") is None:
        say(name=f"{size}, sentence-transformers", skipped="sentence-transformers is not installed")
        return
    for attention in ("sdpa", "flash_attention_2"):
        if attention == "flash_attention_2" and (find_spec("flash_attn") is None or not bench.cuda):
            say(name=f"{size}, sentence-transformers unpadded", skipped="flash-attn is not installed")
            continue
        _peer(bench, size, attention)


def _peer(bench: Bench, size: str, attention: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    largest = 8 if bench.small else 1024
    table = rows(largest)
    columns = [table["query"].to_list(), table["positive"].list.first().to_list()]
    columns += [table["negative"].list.get(number).to_list() for number in range(NEGATIVES)]
    half = {"torch_dtype": torch.bfloat16} if attention == "flash_attention_2" else {}
    path = str(model_folder(size, bench.folder))
    model = SentenceTransformer(
        path, device=str(bench.device), model_kwargs={"attn_implementation": attention, **half}
    )
    model.max_seq_length = MAX_LENGTH
    prepare = getattr(model, "preprocess", None) or model.tokenize
    lengths = np.array([len(ids) for column in columns for ids in model.tokenizer(column)["input_ids"]])
    lengths = lengths.reshape(len(columns), largest)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    for queries in (largest // 16 or 4, largest):
        bench.reset_peak()
        # Nine texts of 1024 rows at once do not fit: their cached loss is what one uses there.
        large = queries > 64
        loss = (
            CachedMultipleNegativesRankingLoss(model, mini_batch_size=64)
            if large
            else MultipleNegativesRankingLoss(model)
        )
        model.train()
        batches = [
            [prepare(column[start : start + queries]) for column in columns]
            for start in range(0, largest, queries)
        ]
        done = []
        for number in range(1 + (3 if large else min(16, len(batches)))):
            if number == 1:  # the first warms up
                bench.wait()
                started = time.perf_counter()
            place = number % len(batches)
            with torch.autocast(bench.device.type, dtype=torch.bfloat16):
                value = loss([_on(features, bench.device) for features in batches[place]], None)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bench.wait()
            if number:
                done.append(lengths[:, place * queries : (place + 1) * queries].ravel())
                if time.perf_counter() - started > 8:
                    break
        taken = time.perf_counter() - started
        say(
            name=f"{size}, {queries} queries, sentence-transformers {'padded' if attention == 'sdpa' else 'unpadded'}",
            who=attention,
            size=size,
            queries=queries,
            tokens_per_second=sum(int(part.sum()) for part in done) / taken,
            tflops=sum(SIZES[size].training_flops(part) for part in done) / taken / 1e12,
            step_seconds=taken / len(done),
            peak_gb=bench.peak_gb(),
        )


def _on(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if torch.is_tensor(value) else value for key, value in features.items()}


# --------------------------------------------------------------------------------------- loss, encoding, search


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
    for part in (ceilings, correct, world, resume, train, profile, peers, loss, encode, search)
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
