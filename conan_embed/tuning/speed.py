"""How fast this machine encodes and trains with a model, measured on a step of the user's own texts."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from conan_embed.encoder.encode import autocast
from conan_embed.encoder.model import EmbeddingModel

_PATIENCE = 3.0  # seconds for each of the two measurements, after a warm-up, and
_CALLS = 4  # at least, as long as they take: beside other programs single calls were four times too slow


@dataclass(frozen=True)
class Speed:
    """Attributes:
    encode: tokens a second without gradient.
    train: tokens a second of whole steps.
    passage_tokens, query_tokens: tokens of a text on average, as the model reads them.
    lengths: tokens of some passages, for what a smaller bound leaves of them.
    busy: share of the processors that other programs used before the measurement.
    """

    encode: float
    train: float
    passage_tokens: float
    query_tokens: float
    lengths: tuple[int, ...] = ()
    busy: float = 0.0

    def encoding_seconds(self, passages: int, queries: int = 0) -> float:
        return (passages * self.passage_tokens + queries * self.query_tokens) / self.encode

    def step_seconds(self, queries: int, num_negatives: int, max_length: int | None = None) -> float:
        """Return the seconds of a step with one positive and `num_negatives` for each query.

        Args:
            max_length: tokens that training reads of a text, where it is less than what the model reads.
        """
        passage_tokens = self.passage_tokens
        if max_length is not None and self.lengths:
            passage_tokens = float(np.minimum(self.lengths, max_length).mean())
        return queries * (self.query_tokens + (1 + num_negatives) * passage_tokens) / self.train


def measure_speed(model: EmbeddingModel, queries: Sequence[str], passages: Sequence[str]) -> Speed:
    """Time a model on samples of the texts it will read; its weights stay as they are.

    Args:
        queries, passages: about as many as a step holds: small packs are slower than large ones.
    """
    busy = psutil.cpu_percent(interval=_PATIENCE / 6) / 100
    query_tokens = np.diff(model.tokenize([model.prompts["query"] + text for text in queries])[1])
    tokens, offsets = model.tokenize([model.prompts["passage"] + text for text in passages])
    ids = np.arange(len(passages))
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0, foreach=True)

    def encode() -> None:
        model.encode(passages, prompt=model.prompts["passage"])

    def train() -> None:
        with autocast(model.device, "bfloat16"):
            embedding_ND = trained.embed_tokens(tokens, offsets, ids)
        embedding_ND.float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Speed(
        encode=len(tokens) / _seconds(encode, model.device),
        train=len(tokens) / _seconds(train, model.device),
        passage_tokens=len(tokens) / len(passages),
        query_tokens=float(query_tokens.mean()),
        lengths=tuple(np.diff(offsets).tolist()),
        busy=busy,
    )


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Return the least seconds of a call: what else the machine does at times is no property of the model."""
    work()
    times: list[float] = []
    while len(times) < _CALLS or sum(times) < _PATIENCE:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
