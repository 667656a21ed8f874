"""Parts of benchmarks/gpu.sh about our own training: its speed, its waits for the GPU, and where the time goes."""

import sys
import time
import warnings
from statistics import median
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu_bench import Bench, say
from benchmarks.gpu_models import SIZES

if TYPE_CHECKING:
    from benchmarks.stepping import Stepping


def train(bench: Bench) -> None:
    """Steps of our trainer at 64 and 1024 queries, eager and compiled: real tokens/s, and TFLOP/s on real tokens."""
    for compiled in (False, True) if bench.cuda else (False,):
        with bench.stepping(bench.argument, bench.few, compile=compiled) as run:
            for queries in (bench.few, bench.many):
                bench.reset_peak()
                _train_case(bench, run.with_queries(queries), queries, compiled)


def _train_case(bench: Bench, run: "Stepping", queries: int, compiled: bool) -> None:
    from conan_embed.encoder.packed_encoder import compiled_graphs

    size = bench.argument
    # Of large steps one is enough: what is made once was made by the small ones.
    warm_up, least = (2, 3) if queries == bench.few else (1, 2)
    seconds: list[float] = []
    tokens, flops = [], []
    ahead = [run.make_ready(0)]

    def look_ahead() -> None:
        ahead.append(run.make_ready(len(seconds) + 1))

    began, budget = time.perf_counter(), 2.0 if bench.small else 5.0
    while len(seconds) < warm_up + least or (time.perf_counter() - began < budget and len(seconds) < 40):
        started, ready = time.perf_counter(), ahead.pop()
        result = run.step(len(seconds), ready, look_ahead)
        seconds.append(time.perf_counter() - started)
        tokens.append(result.tokens)
        flops.append(SIZES[size].training_flops(run.store.lengths(ready.plan.text_ids)))
    taken = sum(seconds[warm_up:])
    say(
        name=f"{size}, {queries} queries{', compiled' if compiled else ''}",
        who="ours",
        size=size,
        queries=queries,
        tokens_per_second=sum(tokens[warm_up:]) / taken,
        tflops=sum(flops[warm_up:]) / taken / 1e12,
        step_seconds=median(seconds[warm_up:]),
        steps=len(seconds) - warm_up,
        peak_gb=bench.peak_gb(),
        chunk_tokens=run.module.memory.chunk_tokens,
        fitting_tokens=run.module.memory.fitting_tokens,
        activation_checkpointing=ready.share.activation_checkpointing,
        graphs=compiled_graphs(),
        first_step_seconds=seconds[0],
    )


def waits(bench: Bench) -> None:
    """How often a step waits for the GPU, and where (in the log): one copy of its results is meant."""
    name = f"{bench.argument}: waits for the GPU inside a step"
    if not bench.cuda:
        say(name=name, skipped="a CPU does not wait")
        return
    with bench.stepping(bench.argument, bench.few) as run:
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
    say(name=name, value=len(found))


def profile(bench: Bench) -> None:
    """Where the time of a step goes: the kernels that take most of it, on stderr and in profile.txt."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    with bench.stepping(bench.argument, bench.few) as run:
        for number in range(2):
            run.step(number)
        with profiling(activities=activities) as profiler:
            run.step(2)
            bench.wait()
    key = "self_cuda_time_total" if bench.cuda else "self_cpu_time_total"
    shown = profiler.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60)
    (bench.folder / "profile.txt").write_text(shown, encoding="utf-8")
    print(shown, file=sys.stderr)
    say(name=f"{bench.argument}: profile of a step", value=None, note="profile.txt")
