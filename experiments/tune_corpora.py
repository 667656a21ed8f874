"""`tune` at default settings on folders of documents, beside BM25 and sentence-transformers' usual recipe.

    python experiments/tune_corpora.py --base MODEL --corpora FOLDER... [--dynamic] [--peer ...] [--write]

Each corpus is a folder of documents. `tune` makes pairs and held-out questions of it; sentence-transformers trains on
the same pairs: negatives mined by `mine_hard_negatives`, MultipleNegativesRankingLoss, its trainer's defaults, batches
of 16 without duplicates, one epoch. All are scored on the same held-out questions against all passages, and on the
built-in questions of other domains. Minutes of tune are those of the whole command after the pairs, scores included; of
sentence-transformers those of mining and training. `--dynamic` tunes a second time with dynamic negatives (DYNAMIC
below) and compares question by question. Each corpus and side is kept in runs/tune-corpora/, so that an
interrupted experiment resumes.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from result_file import kept, write_result

from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.evaluation.statistics import paired_differences
from conan_embed.files import read_json
from conan_embed.tuning.plan import Files
from conan_embed.tuning.result import compare_elsewhere, read_result
from conan_embed.tuning.scores import score_model
from conan_embed.tuning.tune import TuneSettings, tune

BATCH, RATE = 16, 5e-5  # sentence-transformers' examples, and its trainer's default
NEGATIVES = 3  # as many as tune uses on a CPU
DYNAMIC = ("hard_negatives.source=bank", "hard_negatives.rule=share")


def run_tune(
    arguments: argparse.Namespace, corpus: Path, output: Path, overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Tune on a corpus; return what tune.json says."""
    settings = TuneSettings(
        str(arguments.base), minutes=arguments.minutes, overrides=overrides, workers=arguments.workers
    )
    if not Files(output).result.exists():
        tune([corpus], output, settings)
    result = read_result(output).to_json()
    del result["folder"]  # where it happened to lie
    return result


def train_peer(arguments: argparse.Namespace, run: Path, output: Path) -> dict[str, Any]:
    """Train with sentence-transformers on the pairs of a tuning run; return its seconds, and how many rows it saw."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers
    from sentence_transformers.util import mine_hard_negatives

    files = Files(run)
    pairs = pl.read_parquet(files.pairs / "pairs.parquet", columns=["query", "positive"]).unique(
        maintain_order=True
    )
    # With one thread, the processor's time: what the clock says where no other program runs.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    model = SentenceTransformer(str(arguments.base), device="cpu")
    rows = Dataset.from_dict({"anchor": pairs["query"].to_list(), "positive": pairs["positive"].to_list()})
    triples = mine_hard_negatives(
        rows, model, num_negatives=NEGATIVES, batch_size=32, output_format="n-tuple", verbose=False
    )
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            str(output / "trainer"),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            warmup_ratio=0.1,
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=triples,
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    seconds = clock() - started
    model.save(str(output / "model"))
    return {"seconds": seconds, "triples": len(triples)}


def score_peer(run: Path, output: Path) -> dict[str, Any]:
    """Score what sentence-transformers trained as the tuning run was; compare it with base and tuned model."""
    files = Files(run)
    [test] = sorted((files.pairs / "test" / "retrieval").iterdir())
    model = CachedEncoder(EmbeddingModel.load(output / "model").to(collectives.start()))
    scores = score_model(output / "scores", run.name, model, test, files.other / "test")
    elsewhere = compare_elsewhere(read_json(files.scores / "base-elsewhere.json"), scores.elsewhere)
    return {
        "ndcg": float(np.mean(scores.items)),
        "difference": difference(ndcg(files.scores / "base.parquet"), scores.items),
        "tune_above": difference(scores.items, ndcg(files.scores / "tuned.parquet")),
        "elsewhere": [elsewhere.tuned - elsewhere.base, elsewhere.low, elsewhere.high],
    }


def difference(first: list[float], second: list[float]) -> list[float]:
    """Return by how much the second is better than the first, and the interval over questions."""
    estimate = paired_differences(
        {"retrieval": np.array([first, second], np.float64)[:, None, :]}, 0, seed=0
    )["retrieval"][1]
    return [estimate.value, estimate.low, estimate.high]


def ndcg(scores: Path) -> list[float]:
    """Return the score of each question, in the order of the set."""
    return pl.read_parquet(scores)["ndcg_at_10"].to_list()


def run_dynamic(arguments: argparse.Namespace, corpus: Path, run: Path, output: Path) -> dict[str, Any]:
    """Tune with dynamic negatives; return tune.json, and the difference to the run at default settings."""
    result = run_tune(arguments, corpus, output, DYNAMIC)
    default, dynamic = (pl.read_parquet(Files(each).scores / "tuned.parquet") for each in (run, output))
    assert default["query"].equals(dynamic["query"]), corpus
    scores = default["ndcg_at_10"].to_list(), dynamic["ndcg_at_10"].to_list()
    return {**result, "difference_to_default": difference(*scores)}


def row_of(
    name: str, ours: dict[str, Any], dynamic: dict[str, Any] | None, peer: dict[str, Any] | None
) -> dict[str, str | None]:
    """Return the row of a corpus, by column; None where nothing was measured."""
    verdict, elsewhere = ours["verdict"], ours["elsewhere"]
    low, high = 100 * verdict["low"], 100 * verdict["high"]
    return {
        "corpus": name,
        "questions": str(verdict["questions"]),
        "BM25": f"{100 * ours['bm25']:.1f}",
        "base": f"{100 * verdict['base']:.1f}",
        "tune (interval of the gain)": f"{100 * verdict['tuned']:.1f} ({low:+.1f} to {high:+.1f})",
        "verdict": verdict["word"],
        "dynamic negatives, against tune": dynamic and _text(dynamic["difference_to_default"]),
        "sentence-transformers": peer and f"{100 * peer['ndcg']:.1f}",
        "tune above it": peer and _text(peer["tune_above"]),
        "elsewhere, tune": _text(
            [elsewhere["tuned"] - elsewhere["base"], elsewhere["low"], elsewhere["high"]]
        ),
        "elsewhere, s-t": peer and _text(peer["elsewhere"]),
        "minutes, tune": f"{sum(ours['seconds'].values()) / 60:.1f}",
        "minutes, s-t": peer and f"{peer['seconds'] / 60:.1f}",
    }


def table_lines(rows: list[dict[str, str | None]]) -> list[str]:
    """Return the lines of a table, without the columns in which nothing was measured."""
    columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    cells = [columns, ["---"] * len(columns), *([row[column] or "–" for column in columns] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in cells]


def _text(difference: list[float]) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * value for value in difference))


def share_lines(runs: list[Path]) -> list[str]:
    """Return a table: the share of the softmax on hard negatives in the first and the last tenth of the steps."""
    lines = ["| share of the softmax on hard negatives, % | first tenth | last tenth |", "|---|---|---|"]
    for run in runs:
        share_S = 100 * pl.read_ndjson(Files(run).training / "metrics.jsonl")["share/hard"].to_numpy()
        tenth = max(1, len(share_S) // 10)
        lines.append(f"| {run.name} | {share_S[:tenth].mean():.1f} | {share_S[-tenth:].mean():.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="the model to start from")
    parser.add_argument("--corpora", type=Path, nargs="+", required=True, help="folders of documents")
    parser.add_argument("--minutes", type=float, help="of tune, for each corpus; else what it finds right")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/tune-corpora"), help="where results are kept"
    )
    parser.add_argument("--dynamic", action="store_true", help="tune with dynamic negatives, too")
    parser.add_argument(
        "--peer",
        nargs="*",
        metavar="CORPUS",
        help="where sentence-transformers is trained, too; else everywhere",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    rows = []
    raw: dict[str, Any] = {}
    for corpus in arguments.corpora:
        run, peer = arguments.output / corpus.name, arguments.output / f"{corpus.name}-peer"
        ours = run_tune(arguments, corpus, run)
        raw[corpus.name] = {"tune": ours}
        dynamic = theirs = None
        if arguments.dynamic:
            dynamic = run_dynamic(arguments, corpus, run, arguments.output / f"{corpus.name}-dynamic")
            raw[corpus.name]["dynamic"] = dynamic
        if arguments.peer is None or corpus.name in arguments.peer:
            theirs = kept(
                peer / "result.json",
                lambda run=run, peer=peer: train_peer(arguments, run, peer),  # type: ignore[misc]
                f"{corpus.name}: sentence-transformers",
            )
            theirs = {**theirs, **score_peer(run, peer)}
            raw[corpus.name]["sentence-transformers"] = theirs
        rows.append(row_of(corpus.name, ours, dynamic, theirs))
    what = (
        f"nDCG@10 on held-out questions, in points of 100; base {arguments.base.name}; {BATCH} pairs a batch in "
        "sentence-transformers (s-t). Intervals over questions; one seed."
    )
    runs = [arguments.output / corpus.name for corpus in arguments.corpora]
    lines = [*table_lines(rows), "", *share_lines(runs), ""]
    write_result("tune on folders of documents", what, lines, raw, arguments.write)


if __name__ == "__main__":
    main()
