"""Writes a run directory as training would have left it: Chinese and English texts, a few hundred steps,
checks that replace negatives, evaluations at three widths. Everything is invented; the curves have the
shapes of real ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from conan_embed.evaluation.results import summarise
from conan_embed.recipes.schema import Recipe

TASKS = {  # name: kind, metric, score before, gain
    "MedicalQA": ("retrieval", "ndcg_at_10", 0.331, 0.081),
    "TiDB 文档": ("retrieval", "ndcg_at_10", 0.512, 0.047),
    "DuReaderRobust": ("retrieval", "ndcg_at_10", 0.704, 0.033),
    "SciFact": ("retrieval", "ndcg_at_10", 0.587, -0.012),
    "STS-B 中文": ("sts", "cosine_spearman", 0.714, 0.046),
    "AFQMC": ("sts", "cosine_spearman", 0.289, 0.071),
    "句对 OCNLI": ("pair_classification", "cosine_ap", 0.655, 0.018),
}
WIDTHS = {384: 1.0, 256: 0.988, 128: 0.951, 64: 0.87}
EXAMPLES = [
    (
        "小孩发烧到三十九度怎么办？",
        [
            (
                "体温超过三十八度五时可以按体重给儿童退热药，同时多喝水、减少衣物，并观察精神状态；三天不退要就医。",
                True,
            ),
            ("成年人发烧时应当卧床休息，必要时服用退烧药。", False),
            ("三十九度的水温适合给婴儿洗澡吗？一般建议水温在三十七度到四十度之间。", False),
            ("小孩子挑食怎么办？先不要强迫，换一种做法，和家人一起吃。", False),
            ("体温计的使用方法：用前把水银柱甩到三十五度以下。", False),
            ("How to bring down a high fever in adults: rest, fluids, and an antipyretic if needed.", False),
        ],
    ),
    (
        "pad a tensor to a given length",
        [
            (
                "torch.nn.functional.pad(input, pad, mode='constant'): Pads a tensor on any side.",
                True,
            ),
            ("torch.Tensor.expand(*sizes): Returns a new view with singleton dimensions expanded.", False),
            ("str.ljust(width, fillchar=' '): Return the string left justified in that width.", False),
            ("torch.narrow(input, dim, start, length): Returns a narrowed version of the input.", False),
            (
                "textwrap.shorten(text, width): Collapse and truncate the text to fit in the given width.",
                False,
            ),
            ("itertools.islice(iterable, stop): Make an iterator that returns selected elements.", False),
        ],
    ),
    (
        "如何在 TiDB 中查看慢查询？",
        [
            (
                "可以查询 INFORMATION_SCHEMA.SLOW_QUERY 表，也可以用 pt-query-digest 分析慢日志文件。" * 6,
                True,
            ),
            ("TiDB 的事务默认使用悲观锁模式。", False),
            ("通过 EXPLAIN ANALYZE 语句可以得到查询的实际执行计划。", False),
            ("查询缓存会保存最近的结果，以加快重复的查询。", False),
            ("日志文件按天轮转，保留三十天。", False),
            ("Slow network? Check the cable first.", False),
        ],
    ),
    (
        "<script>alert('query')</script> & \"quotes\"",
        [
            ("<img src=x onerror=alert(1)> a passage that looks like markup", True),
            ("$x_1$ and \\frac", False),
        ],
    ),
]


def write_run(
    path: Path,
    *,
    dynamic: bool = True,
    num_steps: int = 300,
    interval: int = 50,
    seed: int = 0,
    gain: float = 1.0,
    data: str = "drcd.parquet",
) -> Path:
    """Write a run of that many steps, with checks of the negatives if `dynamic`; return its path.

    `data` is the file that its first data set comes from.
    """
    path.mkdir(parents=True)
    noise = np.random.default_rng(seed)
    step_T = np.arange(1, num_steps + 1)
    learned_T = 1 - np.exp(-step_T / (num_steps / 4))
    checks = list(range(interval, num_steps, interval)) if dynamic else []
    positive_T = 0.62 + 0.22 * learned_T + noise.normal(0, 0.012, num_steps)
    since_T = step_T - np.array([max((c for c in checks if c < step), default=0) for step in step_T])
    fallen_T = 1 - np.exp(-since_T / (25 if checks else 60))
    negative_T = 0.57 - 0.04 * learned_T - 0.20 * fallen_T + noise.normal(0, 0.014, num_steps)
    retrieval_T = (
        1.9 * np.exp(-step_T / (num_steps / 5))
        + 0.45
        + 0.1 * (1 - fallen_T)
        + noise.gamma(2, 0.05, num_steps)
    )
    sts_T = 2.6 - 0.5 * learned_T + noise.normal(0, 0.12, num_steps)
    tokens_T = noise.integers(14_000, 22_000, num_steps)
    speed_T = 7_800 + noise.normal(0, 350, num_steps)
    rate_T = (
        2e-5
        * np.minimum(step_T / (0.05 * num_steps), 1)
        * np.minimum(1, (num_steps - step_T + 1) / (0.95 * num_steps))
    )
    _lines(
        path / "metrics.jsonl",
        [
            {
                "step": int(step),
                "epoch": round(float(step) / 150, 3),
                "learning_rate": rate_T[i],
                "loss": retrieval_T[i] + 0.8 * sts_T[i],
                "loss/retrieval": retrieval_T[i],
                "loss/sts": sts_T[i],
                "score/positive": positive_T[i],
                "score/negative": negative_T[i],
                "texts": 352,
                "tokens": int(tokens_T[i]),
                "tokens_per_second": speed_T[i],
                "seconds": tokens_T[i] / speed_T[i],
                "gradient_norm": 1.5 + 4 * np.exp(-step / 30) + noise.gamma(2, 0.1),
            }
            for i, step in enumerate(step_T)
        ],
    )
    _lines(
        path / "evaluation.jsonl",
        [_evaluation(step, num_steps, gain) for step in range(0, num_steps + 1, num_steps // 6)],
    )
    _lines(
        path / "negatives.jsonl",
        [
            {
                "step": step,
                "observed": 2000,
                "replaced": int(700 + 500 * np.sin(number * 1.3)),
                "exhausted": 2 * step,
                "exhausted_share": 2 * step / 50 / num_steps,
                "mean_initial": 0.57 - 0.06 * step / num_steps,
                "mean_current": 0.37 + 0.03 * step / num_steps,
                "mean_rank": 13.5 + 3.1 * number,
                "bank_age": 40 + 3 * number,
                "bank_age_max": min(step, 110),
                "seconds": 0.4 + 0.02 * number,
                "seconds_between": 2.1,
            }
            for number, step in enumerate(checks)
        ],
    )
    source = "bank" if dynamic else "static"
    negatives = {"source": source, "interval": interval}
    first, *others = RECIPE["data"]["retrieval"]
    sets = RECIPE["data"] | {"retrieval": [first | {"path": data}, *others]}
    recipe = Recipe.model_validate(
        RECIPE | {"data": sets, "hard_negatives": negatives, "training": {"seed": seed}}
    )
    (path / "recipe.yaml").write_text(recipe.as_yaml(), "utf-8")
    facts = {
        "started": "2026-11-23T17:40:12+00:00",
        "finished": "2026-11-23T17:53:41+00:00",
        "seconds": 809.0,
        "command": f"conan-embed train small-zh-en.yaml hard_negatives.source={source} training.seed={seed}",
        "steps": num_steps,
        "device": "2 cores",
        "parameters": 20_861_440,
        "width": 384,
        "datasets": [
            {"task": "retrieval", "name": "drcd_dev", "rows": 3524},
            {"task": "retrieval", "name": "法律条文", "rows": 1526},
            {"task": "sts", "name": "stsb_zh", "rows": 4704},
        ],
        "versions": {"conan-embed": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
        "matmul_peak_tokens_per_second": 35_400.0,
    }
    _json(path / "run.json", facts)
    _json(path / "mining" / "mining.json", MINING)
    _lines(
        path / "hard_negatives.jsonl", [line for n, each in enumerate(EXAMPLES) for line in _hard(n, *each)]
    )
    _json(
        path / "examples.json",
        {"corpus": "the development passages", "queries": [_example(*e) for e in EXAMPLES]},
    )
    return path


RECIPE: dict[str, Any] = {
    "model": {
        "base": "/models/e5-small-zh-en-4",
        "pooling": "mean",
        "widths": [256, 128, 64],
        "max_length": 192,
    },
    "data": {
        "retrieval": [
            {"name": "drcd_dev", "path": "drcd.parquet"},
            {"name": "法律条文", "path": "law.parquet"},
        ],
        "sts": [{"name": "stsb_zh", "path": "stsb.jsonl"}],
    },
    "step": {"queries": 32, "num_negatives": 7, "sts_pairs": 64},
}
MINING = {
    "datasets": {
        name: {
            "queries": queries,
            "passages": passages,
            "mean_positive_score": 0.712,
            "mean_negative_score": 0.538,
            "ranks": 210,
            "negatives_above_positive": 0.0123,
            "usable_per_query": 199.4,
            "bounded_out": 918,
            "examples": [
                {
                    "query": query,
                    "positives": [text for text, relevant in texts if relevant],
                    "positive_score": 0.72,
                    "negatives": [
                        {"text": text, "score": 0.61 - 0.03 * rank, "rank": 10 + rank}
                        for rank, (text, relevant) in enumerate(texts)
                        if not relevant
                    ],
                }
                for query, texts in EXAMPLES
            ],
        }
        for name, queries, passages in (("drcd_dev", 3524, 1000), ("法律条文", 1526, 12168))
    }
}


def _evaluation(step: int, num_steps: int, gain: float) -> dict[str, Any]:
    learned = gain * (1 - np.exp(-3 * step / num_steps)) / (1 - np.exp(-3))
    results = {}
    for name, (kind, metric, before, rise) in TASKS.items():
        values = {str(width): (before + rise * learned) * factor for width, factor in WIDTHS.items()}
        results[f"{kind}/{name}"] = {
            "main_score": values["384"],
            "metric": metric,
            "rows": 1000,
            "widths": values,
        }
    summary = summarise({key: result["main_score"] for key, result in results.items()})
    return {"step": step, "results": results, "summary": summary}


def _example(query: str, texts: list[tuple[str, bool]]) -> dict[str, Any]:
    before = [*texts[1:4], texts[0], *texts[4:]]
    return {
        "query": query,
        "relevant": [text for text, relevant in texts if relevant],
        "before": [{"text": t, "score": 0.71 - 0.02 * i, "relevant": r} for i, (t, r) in enumerate(before)],
        "after": [{"text": t, "score": 0.83 - 0.06 * i, "relevant": r} for i, (t, r) in enumerate(texts)],
    }


def _hard(number: int, query: str, texts: list[tuple[str, bool]]) -> list[dict[str, Any]]:
    """The negatives of a query with their scores; those of the first query look like answers."""
    first = number == 0
    return [
        {
            "data_set": "法律条文" if number % 2 else "drcd_dev",
            "query": query,
            "positive": texts[0][0],
            "negative": text,
            "positive_score": 0.71,
            "negative_score": (0.7 if first else 0.5) - 0.01 * n,
            "mined_positive_score": None if number == 1 else 0.82,
            "mined_negative_score": None if number == 1 else 0.79,
            "rank": None if number == 1 else 10 + n,
            "in_use": True,
            "suspect": first,
            "label": "",
        }
        for n, (text, _) in enumerate(texts[1:])
    ]


def _lines(path: Path, records: list[dict[str, Any]]) -> None:
    if records:
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
