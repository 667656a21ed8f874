"""Published averages on C-MTEB, to stand beside ours: not measured here.

From the Conan-embedding paper (arXiv 2408.15710, the table of results and table 4): means over the sets of each type,
and over all 35 sets. Pair classification was ranked by average precision then; mteb ranks it by accuracy today.
"""

C_MTEB = "C-MTEB"
"""The paper's 35 sets: `MTEB(cmn, v1)` and four more, which that benchmark of mteb does not have."""

BENCHMARKS = (C_MTEB, "MTEB(cmn, v1)", "C-MTEB(cmn, v1)")
"""Benchmarks beside which the rows are shown."""

COLUMNS = {
    "classification": "Cls",
    "clustering": "Clust",
    "pair_classification": "PairCls",
    "reranking": "Rerank",
    "retrieval": "Retr",
    "sts": "STS",
}
"""The six types of C-MTEB and their short names, in the order of the rows' numbers."""

NUM_SETS = 35

ROWS: dict[str, tuple[float, tuple[float, ...]]] = {
    "gte-Qwen2-7B-instruct": (72.05, (75.09, 66.06, 87.48, 68.92, 76.03, 65.33)),
    "xiaobu-embedding-v2": (72.43, (74.67, 65.17, 91.87, 72.58, 76.50, 64.53)),
    "Conan-embedding": (72.62, (75.03, 66.33, 91.66, 72.76, 76.67, 64.18)),
    "  pre-training only": (62.9, (60.4, 62.7, 87.3, 70.4, 63.2, 55.2)),
    "  InfoNCE + CoSENT": (68.8, (71.4, 62.0, 89.9, 67.0, 72.4, 61.3)),
}
"""Model: average over the sets, and over the sets of each type in the order of COLUMNS; in per cent."""
