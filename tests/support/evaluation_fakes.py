"""A model without a network, and a folder with one small evaluation set of each type."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

WORDS = ["猫", "狗", "鱼", "树", "音乐", "学校", "红色", "月亮"]
WORDS += ["river", "stone", "bread", "light", "doctor", "seven", "train", "paper"]


@cache
def word_vector(word: str, width: int) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(width)


class BagOfWords:
    """Vectors that are sums of fixed random vectors of the words, prompt included; remembers its calls."""

    def __init__(self, width: int = 32, keep: int | None = None) -> None:
        self.full_width, self.width = width, keep or width
        self.prompts = {"query": "ask: ", "passage": "tell: ", "sts": ""}
        self.calls: list[tuple[str, list[str]]] = []

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> NDArray[np.float32]:
        self.calls.append((prompt, list(texts)))
        rows = [sum(word_vector(word, self.full_width) for word in (prompt + text).split()) for text in texts]
        vectors = np.array(rows)[:, : self.width]
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def sentence(rng: np.random.Generator, length: int = 5) -> str:
    return " ".join(rng.choice(WORDS, size=length))


def nearby(text: str, rng: np.random.Generator) -> str:
    """A text that shares all words but one with `text`."""
    words = text.split()
    words[rng.integers(len(words))] = str(rng.choice(WORDS))
    return " ".join(words)


def small_tables(seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Tables of a small set of each type, by path without suffix."""
    rng = np.random.default_rng(seed)
    documents = [sentence(rng) for _ in range(60)]
    documents[10:14] = [documents[9]] * 4  # equal texts: ties
    queries = [nearby(documents[i], rng) for i in range(20)]
    qrels = [(f"q{i}", f"d{i}", 2) for i in range(20)] + [(f"q{i}", f"d{i + 20}", 1) for i in range(0, 20, 3)]
    pairs = [
        (text, nearby(text, rng) if i % 2 else sentence(rng), i % 2) for i, text in enumerate(documents[:40])
    ]
    labelled = [{"text": f"{word} {sentence(rng, 2)} {word}", "label": word} for word in WORDS[:4] * 40]
    return {
        "retrieval/Small/corpus": [
            {"doc_id": f"d{i}", "title": "树 stone" if i % 7 == 0 else "", "text": text}
            for i, text in enumerate(documents)
        ],
        "retrieval/Small/queries": [{"query_id": f"q{i}", "text": text} for i, text in enumerate(queries)]
        + [{"query_id": "unjudged", "text": "猫 狗"}],
        "retrieval/Small/qrels": [{"query_id": q, "doc_id": d, "score": s} for q, d, s in qrels],
        "reranking/Small": [
            {
                "query": text,
                "positive": [nearby(text, rng) for _ in range(1 + i % 3)],
                "negative": [sentence(rng) for _ in range(6)],
            }
            for i, text in enumerate(documents[:15])
        ],
        "sts/Small": [{"text_a": a, "text_b": b, "score": 2.5 * s + rng.random()} for a, b, s in pairs],
        "sts/Other": [{"text_a": a, "text_b": b, "score": 1.0 * s} for a, b, s in pairs[::-1]],
        "pair_classification/Small": [{"text_a": a, "text_b": b, "score": s} for a, b, s in pairs],
        "classification/Small/train": labelled[:120],
        "classification/Small/test": labelled[120:],
        "clustering/Small": labelled,
        "bitext/Small": [{"zh": text, "en": nearby(text, rng)} for text in dict.fromkeys(documents)],
    }


def write_tables(folder: Path, tables: dict[str, list[dict[str, Any]]], suffix: str = ".parquet") -> Path:
    for name, rows in tables.items():
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".parquet":
            pl.DataFrame(rows).write_parquet(path)
        else:
            write_lines(path, rows)
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
