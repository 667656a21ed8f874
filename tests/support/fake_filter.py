"""Writes a folder as `conan-embed filter` would have left it: Chinese and English pairs, a funnel of nine stages, every
kind of reason, a teacher's scores. Everything is invented; the shape is that of filtering/summary.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

STAGES = [
    "read",
    "normalise",
    "language",
    "rules",
    "prompt_response",
    "duplicates",
    "safety",
    "decontamination",
    "teacher",
]
LEFT = {  # pairs of each category after each stage
    "web_page": [4000, 3990, 3900, 3300, 3300, 2900, 2890, 2880, 2400],
    "社交媒体": [3000, 3000, 2950, 1500, 1500, 1200, 1150, 1150, 300],
    "instruction": [2000, 2000, 2000, 1900, 1400, 1350, 1350, 1340, 1300],
    "knowledge_base": [1000] * 9,
}
HOSTILE = "</style><script>alert(1)</script>"
PAIRS = {  # id: of pairs that were kept; 7 is what a dropped one resembles
    7: ("如何在 TiDB 中查看慢查询？", "可以查询 INFORMATION_SCHEMA.SLOW_QUERY 表。"),
    8: ("pad a tensor", "torch.nn.functional.pad pads a tensor on any side."),
}
REASONS: list[tuple[str, str, str, int, int, dict[str, int], list[tuple[Any, ...]]]] = [
    # stage, reason, about, dropped, applied, categories, samples (query, positive, value, duplicate_of)
    (
        "normalise",
        "empty",
        "a side with no text once normalised",
        10,
        10,
        {"web_page": 10},
        [("图片", "", None, None)],
    ),
    (
        "language",
        "query_language",
        "the query is in a language that is not kept",
        140,
        140,
        {"web_page": 90, "社交媒体": 50},
        [("Wie fülle ich einen Tensor auf?", "Mit torch.nn.functional.pad.", None, None)],
    ),
    (
        "rules",
        "positive_tokens",
        "Han characters and words of the positive",
        2150,
        2600,
        {"社交媒体": 1450, "web_page": 700},
        [
            ("【和解坑了谁？】有消息称李家已同意撤销控诉和解。", "火上浇油！", 4.0, None),
            (HOSTILE, "[泪]", 1.0, None),
        ],
    ),
    (
        "prompt_response",
        "refusal",
        "1 where the response opens with an apology",
        500,
        520,
        {"instruction": 500},
        [("写一首诗。", "对不起，作为一个语言模型，我不能写诗。", 1.0, None)],
    ),
    (
        "duplicates",
        "near_duplicate",
        "an earlier pair has nearly the same query and positive",
        750,
        750,
        {"web_page": 400},
        [
            ("怎样在 TiDB 中查看慢查询？", "可以查询 INFORMATION_SCHEMA.SLOW_QUERY 表！", 0.91, 7),
            ("gone", "the original is gone", 0.9, 99),
        ],
    ),
    (
        "teacher",
        "teacher_score",
        "cosine of query and positive under the teacher",
        1370,
        1370,
        {"社交媒体": 850},
        [],
    ),
]


BAD_ROWS = [
    {
        "path": "data/[b]微博[/b].jsonl",
        "rows": 3,
        "reasons": {"wrong type": 2, "broken JSON": 1},
        "first": "line 7: column 'query': found the number 3, expected a string",
    },
    {"path": "data/docs.csv", "rows": 1_204, "reasons": {"not UTF-8": 1_204}, "first": "line 2: <b>0xff</b>"},
]


def write_filter(path: Path) -> Path:
    """Write the output of a filter run; return its path."""
    (path / "kept" / "news").mkdir(parents=True)
    (path / "dropped").mkdir()
    rows = [
        {"id": number, "query": query, "positive": positive} for number, (query, positive) in PAIRS.items()
    ]
    pl.DataFrame(rows).write_parquet(path / "kept" / "news" / "00000.parquet")
    total = {stage: sum(counts[n] for counts in LEFT.values()) for n, stage in enumerate(STAGES)}
    edges = np.linspace(-1, 1, 41)
    middles = (edges[:-1] + edges[1:]) / 2
    shapes = {
        name: np.exp(-((middles - centre) ** 2) / 0.02)
        for name, centre in (("web_page", 0.7), ("社交媒体", 0.3))
    }
    summary = {
        "rows": {
            "read": total["read"],
            "kept": total["teacher"],
            "dropped": total["read"] - total["teacher"],
        },
        "speed": {
            "seconds": 41.2,
            "rows_per_second": 242.7,
            "workers": 2,
            "stages": {
                stage: {"seconds": 0.5 + n, "rows_per_second": 20_000 // (n + 1)}
                for n, stage in enumerate(STAGES)
            },
        },
        "funnel": {
            "stages": STAGES,
            "total": total,
            "categories": {name: dict(zip(STAGES, counts, strict=True)) for name, counts in LEFT.items()},
        },
        "sources": {
            "weibo 微博": {
                "read": 3000,
                "kept": 300,
                "languages": {"query": {"zh": 0.97, "und": 0.03}, "positive": {"zh": 0.6, "und": 0.4}},
            },
            "docs": {
                "read": 7000,
                "kept": 4700,
                "languages": {"query": {"en": 1.0}, "positive": {"en": 1.0}},
            },
        },
        "reasons": [
            {
                "stage": stage,
                "reason": reason,
                "about": about,
                "dropped": dropped,
                "applied": applied,
                "categories": categories,
                "samples": [
                    {
                        "query": query,
                        "positive": positive,
                        "category": next(iter(categories)),
                        "source": "docs",
                        "value": value,
                        "duplicate_of": original,
                        "id": 100 + n,
                    }
                    for n, (query, positive, value, original) in enumerate(samples)
                ],
            }
            for stage, reason, about, dropped, applied, categories, samples in REASONS
        ],
        "bad_rows": BAD_ROWS,
        "duplicates": {"compared": 900, "similar": 760, "undecided": 0},
        "scores": {
            "edges": edges.round(3).tolist(),
            "minimum": 0.4,
            "categories": {name: (400 * shape).astype(int).tolist() for name, shape in shapes.items()},
        },
    }
    (path / "summary.json").write_text(json.dumps(summary, ensure_ascii=False), encoding="utf-8")
    recipe = {"sources": [{"path": "data/*.parquet"}], "teacher": {"model": "老师", "minimum": 0.4}}
    facts = {"recipe": recipe, "files": {"data/微博.parquet": [1, 2], "data/docs.parquet": [3, 4]}}
    (path / "filter.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    return path
