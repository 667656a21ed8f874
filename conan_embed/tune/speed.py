"""How fast this machine encodes and trains with a model, measured in a few seconds on the user's own texts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from conan_embed.encoder.encode import autocast
from conan_embed.encoder.model import EmbeddingModel

_PATIENCE = 3.0  # seconds for each of the two measurements, after a warm-up
_OPTIMIZER = 1.15  # what a step takes beyond forward and backward: optimizer, losses, planning


@dataclass(frozen=True)
class Speed:
    """Attributes:
    encode: tokens a second without gradient.
    train: tokens a second of whole steps.
    passage_tokens, query_tokens: tokens of a text on average, as the model reads them.
    """

    encode: float
    train: float
    passage_tokens: float
    query_tokens: float

    def encoding_seconds(self, passages: int, queries: int = 0) -> float:
        return (passages * self.passage_tokens + queries * self.query_tokens) / self.encode

    def step_seconds(self, queries: int, num_negatives: int) -> float:
        """Return the seconds of a step with one positive and `num_negatives` for each query."""
        tokens = queries * (self.query_tokens + (1 + num_negatives) * self.passage_tokens)
        return tokens / self.train


def measure_speed(model: EmbeddingModel, queries: Sequence[str], passages: Sequence[str]) -> Speed:
    """Time a model on samples of the texts it will read; its weights stay as they are."""
    query_tokens = np.diff(model.tokenize([model.prompts["query"] + text for text in queries])[1])
    tokens, offsets = model.tokenize([model.prompts["passage"] + text for text in passages])
    ids = np.arange(len(passages))

    def encode() -> None:
        with torch.inference_mode():
            model.embed_tokens(tokens, offsets, ids)

    def train() -> None:
        model.embed_tokens(tokens, offsets, ids).sum().backward()
        model.zero_grad(set_to_none=True)

    num_tokens = len(tokens)
    with autocast(model.device, "bfloat16"):
        return Speed(
            encode=num_tokens / _seconds(encode, model.device),
            train=num_tokens / _seconds(train, model.device) / _OPTIMIZER,
            passage_tokens=num_tokens / len(passages),
            query_tokens=float(query_tokens.mean()),
        )


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Return the median seconds of one call."""
    work()
    times: list[float] = []
    while not times or sum(times) < _PATIENCE:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
