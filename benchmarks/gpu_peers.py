"""Part of benchmarks/gpu.sh: sentence-transformers on the same rows."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.gpu_bench import Bench, say
from benchmarks.gpu_models import MAX_LENGTH, NEGATIVES, SIZES, model_folder

MINI_BATCH = 64  # texts of the cached loss
Features = dict[str, Any]


def peers(bench: Bench) -> None:
    """sentence-transformers on the same rows: padded (SDPA), and without padding where flash attention is installed.

    Their trainer's work without its loader: features are tokenised and padded while the clock stands.
    """
    size = bench.argument
    if find_spec("sentence_transformers") is None:
        say(name=f"{size}, sentence-transformers", skipped="sentence-transformers is not installed")
        return
    for attention in ("sdpa", "flash_attention_2"):
        if attention == "flash_attention_2" and (find_spec("flash_attn") is None or not bench.cuda):
            say(name=f"{size}, sentence-transformers unpadded", skipped="flash-attn is not installed")
            continue
        peer = _load(bench, attention)
        for queries in (bench.few, bench.many):
            measure(bench, peer, queries)


@dataclass
class Peer:
    """A model of theirs in training, and the columns of its rows."""

    model: Any  # SentenceTransformer
    optimizer: torch.optim.Optimizer
    columns: list[list[str]]
    attention: str

    def features(self, first: int, count: int) -> tuple[list[Features], np.ndarray]:
        """Return `count` rows as their loss takes them, and the lengths of their texts in tokens."""
        prepare = getattr(self.model, "preprocess", None) or self.model.tokenize
        texts = [column[first : first + count] for column in self.columns]
        lengths = [len(ids) for column in texts for ids in self.model.tokenizer(column)["input_ids"]]
        return [prepare(column) for column in texts], np.array(lengths)


def _load(bench: Bench, attention: str) -> Peer:
    from sentence_transformers import SentenceTransformer

    half = {"torch_dtype": torch.bfloat16} if attention == "flash_attention_2" else {}
    model = SentenceTransformer(
        str(model_folder(bench.argument, bench.folder)),
        device=str(bench.device),
        model_kwargs={"attn_implementation": attention, **half},
    )
    model.max_seq_length = MAX_LENGTH
    model.train()
    forward_in_bfloat16(model, bench.device)
    table = pl.read_parquet(bench.rows())
    columns = [table["query"].to_list(), table["positive"].list.first().to_list()]
    columns += [table["negative"].list.get(number).to_list() for number in range(NEGATIVES)]
    return Peer(model, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True), columns, attention)


def forward_in_bfloat16(model: torch.nn.Module, device: torch.device) -> None:
    """Let every forward pass of the model run under autocast and return float32, as their trainer does it.

    Their cached loss embeds once more from a hook of the backward pass, which a context around the loss does not reach.
    """
    forward: Callable[..., Features] = model.forward

    @functools.wraps(forward)
    def in_bfloat16(*arguments: Any, **settings: Any) -> Features:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            features = forward(*arguments, **settings)
        return {key: _float32(value) for key, value in features.items()}

    model.forward = in_bfloat16


def _float32(value: Any) -> Any:
    return value.float() if torch.is_tensor(value) and value.dtype == torch.bfloat16 else value


def measure(bench: Bench, peer: Peer, queries: int) -> None:
    """Time their steps of so many queries: with the plain loss where its activations fit, else with the cached one."""
    if queries == bench.few:
        try:
            _say(bench, peer, queries, _steps(bench, peer, "plain", queries))
            return
        except torch.OutOfMemoryError:
            peer.optimizer.zero_grad(set_to_none=True)
    # Outside of the handler: the error holds on to the tensors of the pass that failed.
    _say(bench, peer, queries, _steps(bench, peer, "cached", queries), cached=True)


@dataclass(frozen=True)
class Steps:
    """Rows of a measured step, and seconds and text lengths of each."""

    rows: int
    seconds: list[float]
    lengths: list[np.ndarray]


def _steps(bench: Bench, peer: Peer, loss: str, queries: int) -> Steps:
    """Make steps for some seconds, after one to warm up.

    A step with the cached loss takes as long as its mini-batches, one after the other: of many queries four
    mini-batches a column tell as much, and one is enough to warm up.
    """
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss

    mini_batch = min(MINI_BATCH, bench.few)
    if loss == "cached":
        compute: Any = CachedMultipleNegativesRankingLoss(peer.model, mini_batch_size=mini_batch)
    else:
        compute = MultipleNegativesRankingLoss(peer.model)
    rows = min(queries, 4 * mini_batch) if loss == "cached" else queries
    bench.reset_peak()
    _step(bench, peer, compute, peer.features(0, min(rows, mini_batch))[0])
    steps = Steps(rows, [], [])
    while len(steps.seconds) < 2 or (sum(steps.seconds) < 6 and len(steps.seconds) < 16):
        features, lengths = peer.features(len(steps.seconds) * rows % bench.many, rows)
        steps.seconds.append(_step(bench, peer, compute, features))
        steps.lengths.append(lengths)
    return steps


def _step(bench: Bench, peer: Peer, compute: Any, features: list[Features]) -> float:
    bench.wait()
    started = time.perf_counter()
    compute([_on(each, bench.device) for each in features], None).backward()
    torch.nn.utils.clip_grad_norm_(peer.model.parameters(), 1.0)
    peer.optimizer.step()
    peer.optimizer.zero_grad(set_to_none=True)
    bench.wait()
    return time.perf_counter() - started


def _on(features: Features, device: torch.device) -> Features:
    return {key: value.to(device) if torch.is_tensor(value) else value for key, value in features.items()}


def _say(bench: Bench, peer: Peer, queries: int, steps: Steps, *, cached: bool = False) -> None:
    size, taken = bench.argument, sum(steps.seconds)
    notes = [f"cached loss, mini-batches of {min(MINI_BATCH, bench.few)}"] if cached else []
    if cached and queries == bench.few:
        notes[0] += " (the plain one is out of memory)"
    notes += [f"measured on {steps.rows} rows a step"] if steps.rows != queries else []
    say(
        name=f"{size}, {queries} queries, sentence-transformers {'padded' if peer.attention == 'sdpa' else 'unpadded'}",
        who=peer.attention,
        size=size,
        queries=queries,
        tokens_per_second=sum(int(each.sum()) for each in steps.lengths) / taken,
        tflops=sum(SIZES[size].training_flops(each) for each in steps.lengths) / taken / 1e12,
        step_seconds=median(steps.seconds),
        steps=len(steps.seconds),
        peak_gb=bench.peak_gb(),
        note="; ".join(notes),
    )
