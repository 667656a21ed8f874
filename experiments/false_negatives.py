"""Which replaced negatives are false negatives? Counted where every relation is known, with and without the positive-aware
bound at mining, and with a teacher's guard in the loss.

    python experiments/false_negatives.py --base MODEL --data DATA [--sources ranking bank] [--bounds 0 0.9] \\
        [--teacher MODEL --guards 0 -0.02] [--write]

The set: finetune/classification/csldcp_train.parquet, abstracts of 67 disciplines; same discipline = relevant, so every
pair of texts has a label. Half of the disciplines bring queries, one passage each that training knows as their positive,
and `--hidden` passages that it does not know of: planted false negatives. The other half bring passages that are
answers to no query. Training mines, watches and replaces as always; at the start and after every check the negatives in
use are compared with the hidden positives. After training, nDCG@10 over the whole corpus against all passages of the
query's discipline, known and hidden, tells what the false negatives did to the model: on the queries of training, and
on the abstracts of the same disciplines that training did not see, where differences have intervals over seeds and
queries. With a teacher, every arm is also trained with its guard (`teacher.ignore_above_positive`, no other loss of
it): what the guard ignores is in use but not learned. A last table shows many bounds and guards on the mined ranking
alone, which costs nothing.

Labels are complete as far as disciplines go; they say nothing of two abstracts of neighbouring disciplines about one
thing. No evaluation split is touched. Arms are kept in runs/false-negatives/ one by one, so that an interrupted table
goes on where it stopped.
"""

import argparse
import functools
import os
import shutil
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import torch
import xxhash
from result_file import kept, options, spread, write_result
from safetensors.numpy import load_file

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.metrics import ndcg_by_query
from conan_embed.evaluation.statistics import Estimate, paired_differences
from conan_embed.files import atomic_write, read_json
from conan_embed.negatives.background import background_cosine
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.rankings import NONE
from conan_embed.recipes.schema import Recipe
from conan_embed.training.run import mine, train

SOURCES = ("static", "ranking", "bank", "remine")
SWEEP = (None, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.5)
GUARDS = (0.02, 0.0, -0.01, -0.02, -0.04)
QUERIES, OTHERS = 4, 20  # queries of a discipline that asks; passages of one that does not


def make_data(arguments: argparse.Namespace) -> Path:
    """Write queries with their known positive, held-out queries, and the corpus with the discipline of every passage."""
    folder: Path = arguments.output / f"data-{arguments.hidden}"
    if (folder / "corpus.parquet").exists():
        return folder
    texts = pl.read_parquet(arguments.data / "finetune" / "classification" / "csldcp_train.parquet")
    texts = texts.unique("text", keep="none", maintain_order=True).sample(fraction=1, shuffle=True, seed=0)
    classes = texts["label"].unique().sort().sample(fraction=1, shuffle=True, seed=0).to_list()
    queries, held_out, corpus = [], [], []
    for number, label in enumerate(classes):
        members = texts.filter(pl.col("label") == label)["text"].to_list()
        if number % 2:
            corpus += [(text, label) for text in members[:OTHERS]]
            continue
        asked, known, hidden = members[:QUERIES], members[QUERIES], members[QUERIES + 1 :][: arguments.hidden]
        queries += [(text, known, label) for text in asked]
        corpus += [(text, label) for text in [known, *hidden]]
        held_out += [(text, label) for text in members[QUERIES + 1 + arguments.hidden :]]
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(queries, schema=["query", "positive", "label"], orient="row").write_parquet(
        folder / "queries.parquet"
    )
    pl.DataFrame(held_out, schema=["query", "label"], orient="row").write_parquet(folder / "held-out.parquet")
    pl.DataFrame(corpus, schema=["text", "label"], orient="row").write_parquet(folder / "corpus.parquet")
    return folder


@dataclass(frozen=True)
class Arm:
    """A source of negatives, the bound at mining, and the margin of the teacher's guard; None: without."""

    source: str
    bound: float | None
    guard: float | None

    def __str__(self) -> str:
        bound = f"below {self.bound} of the positive" if self.bound else "no bound"
        return f"{self.source}, {bound}" + ("" if self.guard is None else f", guard {self.guard:+g}")

    def file_name(self, seed: int) -> str:
        return f"{self.source}-{self.bound}{'' if self.guard is None else f'-guard{self.guard:+g}'}-{seed}"


def above_positive(arguments: argparse.Namespace) -> np.ndarray:
    """Return the teacher's cosine of each query and passage less that of the query's known positive, [Q, M]."""
    path: Path = arguments.output / f"teacher-{arguments.hidden}.npy"
    if not path.exists():
        folder = make_data(arguments)
        queries, corpus = (
            pl.read_parquet(folder / "queries.parquet"),
            pl.read_parquet(folder / "corpus.parquet"),
        )
        teacher = EmbeddingModel.load(arguments.teacher)
        query_QD = teacher.encode(queries["query"].to_list(), prompt=teacher.prompts["query"])
        passage_MD = teacher.encode(corpus["text"].to_list(), prompt=teacher.prompts["passage"])
        column = {text: number for number, text in enumerate(corpus["text"])}
        score_QM = query_QD @ passage_MD.T
        known_Q = score_QM[np.arange(len(queries)), [column[text] for text in queries["positive"]]]
        with atomic_write(path) as aside, aside.open("wb") as file:
            np.save(file, score_QM - known_Q[:, None])
    return np.asarray(np.load(path))


def recipe(arguments: argparse.Namespace, arm: Arm, seed: int) -> Recipe:
    folder = make_data(arguments)
    guard = {"model": str(arguments.teacher), "ignore_above_positive": arm.guard}
    return Recipe.model_validate(
        {
            "teacher": None if arm.guard is None else guard,
            "model": {"base": str(arguments.base), "max_length": arguments.max_length},
            "data": {
                "retrieval": [
                    {
                        "name": "csldcp",
                        "path": str(folder / "queries.parquet"),
                        "columns": {"query": "query", "positive": "positive"},
                        "corpus": str(folder / "corpus.parquet"),
                        "corpus_columns": {"text": "text"},
                    }
                ]
            },
            "step": {
                "queries": 16,
                "num_negatives": arguments.negatives,
                "sts_pairs": 0,
                "too_few_negatives": "allow",
            },
            "mining": {
                "depth": arguments.depth,
                "offset": arguments.offset,
                "max_positive_ratio": arm.bound,
                "subtract_background": True,  # the cosines of E5 all lie high (docs/log.md)
            },
            "hard_negatives": {
                "source": arm.source,
                "interval": arguments.interval,
                "decay": arguments.decay,
                "max_score": 0.8,
                "subtract_background": True,
                "refresh": 16 if arm.source == "bank" else 0,
            },
            "optimizer": {"learning_rate": 3e-5},
            "training": {"steps": arguments.steps, "seed": seed, "checkpoint_every": 0},
            "tracking": {"tensorboard": False},
            "output": str(arguments.output / "run"),
            "cache": str(arguments.output / "cache"),
        }
    )


class Watched:
    """Looks at the negatives in use after every check, and counts the hidden positives among them.

    Args:
        ignored_QM: what the guard ignores; None without one.
    """

    def __init__(self, folder: Path, ignored_QM: np.ndarray | None) -> None:
        corpus, queries = (
            pl.read_parquet(folder / "corpus.parquet"),
            pl.read_parquet(folder / "queries.parquet"),
        )
        self.column = {text: number for number, text in enumerate(corpus["text"])}
        self.ignored_QM = np.zeros((len(queries), len(corpus)), bool) if ignored_QM is None else ignored_QM
        self.label_of_text = dict(zip(corpus["text"], corpus["label"], strict=True))
        self.labels = queries["label"].to_list()
        self.lines: list[dict[str, Any]] = []
        self.before: np.ndarray | None = None

    def look(self, dynamic: DynamicNegatives, step: int) -> None:
        table = dynamic.table
        ids = table.in_use(np.arange(len(table)))
        texts = {
            int(text): self.label_of_text[dynamic.store.text(int(text))]
            for text in np.unique(ids[ids != NONE])
        }
        false = np.array(
            [
                [texts.get(int(text)) == label for text in row]
                for row, label in zip(ids, self.labels, strict=True)
            ]
        )
        column = {text: self.column[dynamic.store.text(text)] for text in texts}
        ignored = np.array(
            [
                [text in column and self.ignored_QM[row, column[text]] for text in of_row]
                for row, of_row in enumerate(ids.tolist())
            ]
        )
        new = ids != NONE
        if self.before is not None:
            new &= (table.replacements_Q > self.before)[:, None]
        self.before = table.replacements_Q.copy()
        self.lines.append(
            {
                "step": step,
                "in_use": int((ids != NONE).sum()),
                "in_use_false": int(false.sum()),
                "placed": int(new.sum()),
                "placed_false": int((false & new).sum()),
                "ignored": int(ignored.sum()),
                "ignored_false": int((ignored & false).sum()),
            }
        )


def scores(arguments: argparse.Namespace, model: EmbeddingModel) -> dict[str, list[float]]:
    """Return nDCG@10 over the whole corpus of each query, against every passage of its discipline."""
    folder = make_data(arguments)
    corpus = pl.read_parquet(folder / "corpus.parquet")
    passage_MD = model.encode(corpus["text"].to_list(), prompt=model.prompts["passage"])
    found = {}
    for name in ("queries", "held-out"):
        queries = pl.read_parquet(folder / f"{name}.parquet")
        query_QD = model.encode(queries["query"].to_list(), prompt=model.prompts["query"])
        relevant_QM = queries["label"].to_numpy()[:, None] == corpus["label"].to_numpy()[None, :]
        first_Q10 = torch.as_tensor(query_QD @ passage_MD.T).topk(10).indices.numpy()
        gains_Q10 = np.take_along_axis(relevant_QM, first_Q10, axis=1).astype(float)
        judged_query_J = np.nonzero(relevant_QM)[0]
        found[name] = ndcg_by_query(gains_Q10, judged_query_J, np.ones(len(judged_query_J))).round(5).tolist()
    return found


def base_scores(arguments: argparse.Namespace) -> dict[str, list[float]]:
    return scores(arguments, EmbeddingModel.load(arguments.base, max_length=arguments.max_length))


def teacher_scores(arguments: argparse.Namespace) -> dict[str, list[float]]:
    return scores(arguments, EmbeddingModel.load(arguments.teacher))


def run_arm(arguments: argparse.Namespace, arm: Arm, seed: int) -> dict[str, Any]:
    """Train one arm and look at its negatives."""
    settings = recipe(arguments, arm, seed)
    settings = settings.with_rankings(mine(settings, arguments.output / f"mining-{arm.bound}"))
    ignored_QM = None if arm.guard is None else above_positive(arguments) > arm.guard
    watched = Watched(make_data(arguments), ignored_QM)
    start, after = DynamicNegatives.__init__, DynamicNegatives.after_step

    def started(self: DynamicNegatives, *rest: Any, **named: Any) -> None:
        start(self, *rest, **named)
        watched.look(self, 0)

    def after_step(self: DynamicNegatives, step: int, *rest: Any) -> Any:
        line = after(self, step, *rest)
        if line is not None:
            watched.look(self, step)
        return line

    with (
        mock.patch.object(DynamicNegatives, "__init__", started),
        mock.patch.object(DynamicNegatives, "after_step", after_step),
    ):
        run = train(settings, resume=False)
    model = EmbeddingModel.load(run / "model", max_length=arguments.max_length)
    mined = read_json(run / "mining" / "mining.json")["datasets"]["csldcp"]
    found = {
        "checks": watched.lines,
        "ndcg": scores(arguments, model),
        "usable_per_query": mined["usable_per_query"],
        "mean_positive_score": mined["mean_positive_score"],
    }
    shutil.rmtree(run)  # model and optimizer; what is wanted of them is in the result
    return found


def result_of(arguments: argparse.Namespace, arm: Arm, seed: int) -> dict[str, Any]:
    """Return the result of an arm, which is trained where there is none yet."""
    name = arm.file_name(seed)
    train_it = functools.partial(run_arm, arguments, arm, seed)
    found: dict[str, Any] = kept(arguments.output / f"{name}.json", train_it, name)
    return found


def shares(found: list[dict[str, Any]]) -> list[str]:
    """The cells of an arm: false among the negatives of the start, of all replacements, in use at the end, and learned
    at the end; what the guard ignores then; nDCG."""
    starts, placed, ends, learned, ignored = [], [], [], [], []
    for result in found:
        first, *checks = result["checks"]
        starts.append(first["in_use_false"] / first["in_use"])
        total = sum(check["placed"] for check in checks)
        placed.append((sum(check["placed_false"] for check in checks), total))
        last = result["checks"][-1]
        ends.append(last["in_use_false"] / last["in_use"])
        num_ignored, ignored_false = last.get("ignored", 0), last.get("ignored_false", 0)
        learned.append((last["in_use_false"] - ignored_false) / max(1, last["in_use"] - num_ignored))
        ignored.append(num_ignored / last["in_use"])
    false, total = sum(pair[0] for pair in placed), sum(pair[1] for pair in placed)
    ndcg = [[100 * mean(result["ndcg"][name]) for result in found] for name in ("queries", "held-out")]
    return [
        f"{mean(result['usable_per_query'] for result in found):.0f}",
        f"{100 * mean(starts):.1f} %",
        f"{false} of {total:,} ({100 * false / total:.1f} %)" if total else "none replaced",
        f"{100 * mean(ends):.1f} %",
        f"{100 * mean(learned):.1f} %",
        f"{100 * mean(ignored):.1f} %",
        *map(spread, ndcg),
    ]


def differences(results: dict[Arm, list[dict[str, Any]]]) -> dict[tuple[Arm, Arm], Estimate]:
    """Return how far arms lie above others of their source on the held-out queries.

    Each is compared with the one without bound and guard, and each with a guard also with the one that has a bound alone.
    """
    found = {}
    for source in dict.fromkeys(arm.source for arm in results):
        arms = [arm for arm in results if arm.source == source]
        items_ASI = np.array([[result["ndcg"]["held-out"] for result in results[arm]] for arm in arms])
        plain = [arm for arm in arms if arm.bound is None and arm.guard is None]
        bounded = [arm for arm in arms if arm.bound is not None and arm.guard is None]
        for against in plain + bounded:
            estimates = paired_differences({"csldcp": items_ASI}, arms.index(against))["csldcp"]
            for arm, estimate in zip(arms, estimates, strict=True):
                if arm not in plain + bounded if against in bounded else arm != against:
                    found[arm, against] = estimate
    return found


def difference_lines(found: dict[tuple[Arm, Arm], Estimate]) -> list[str]:
    lines = ["| arm | against | nDCG@10, held-out queries |", "|---|---|---|"]
    for (arm, against), estimate in found.items():
        value, low, high = (100 * each for each in (estimate.value, estimate.low, estimate.high))
        clear = ", clear" if estimate.clear else ""
        lines.append(f"| {arm} | {against} | {value:+.2f} ({low:+.2f} to {high:+.2f}{clear}) |")
    return lines


def sweep(arguments: argparse.Namespace) -> list[str]:
    """Return lines of a table: the first window of the mined ranking under many bounds, without training."""
    folder = make_data(arguments)
    queries, corpus = pl.read_parquet(folder / "queries.parquet"), pl.read_parquet(folder / "corpus.parquet")
    mined = mine(recipe(arguments, Arm("static", None, None), 0), arguments.output / "mining-None")
    found = load_file(mined / "csldcp.safetensors")  # texts are named by their hash
    label = {
        xxhash.xxh3_64_intdigest(text.encode()): of for text, of in corpus.select("text", "label").iter_rows()
    }
    own = {
        xxhash.xxh3_64_intdigest(text.encode()): of
        for text, of in queries.select("query", "label").iter_rows()
    }
    passage_M = np.array([label[int(text)] for text in found["passages"]])
    query_Q = np.array([own[int(text)] for text in found["queries"]])
    false_QK = passage_M[found["places"]] == query_Q[:, None]
    lines = [
        "| bound | queries with enough negatives | false, offset 0 | false, offset 10 |",
        "|---" * 4 + "|",
    ]
    model = EmbeddingModel.load(arguments.base, max_length=arguments.max_length)
    embedded = (
        model.encode(texts.to_list(), prompt=model.prompts[role])
        for texts, role in ((queries["query"], "query"), (corpus["text"], "passage"))
    )
    background = background_cosine(*map(torch.as_tensor, embedded)).item()
    above_Q = found["positive"] - background
    kept_by = {
        f"{bound or 'none'}": found["scores"] - background
        < (np.inf if bound is None else bound * above_Q[:, None])
        for bound in SWEEP
    }
    if arguments.teacher is not None:
        hash_Q = [xxhash.xxh3_64_intdigest(text.encode()) for text in queries["query"]]
        row = {key: number for number, key in enumerate(hash_Q)}
        column = {
            xxhash.xxh3_64_intdigest(text.encode()): number for number, text in enumerate(corpus["text"])
        }
        row_Q = np.array([row[int(text)] for text in found["queries"]])
        column_M = np.array([column[int(text)] for text in found["passages"]])
        above_QK = above_positive(arguments)[row_Q[:, None], column_M[found["places"]]]
        kept_by |= {f"guard {margin:+g}": above_QK <= margin for margin in GUARDS}
    for bound, kept_QK in kept_by.items():
        rank_QK = np.cumsum(kept_QK, axis=1) - 1
        cells = []
        for offset in (0, 10):
            used_QK = kept_QK & (rank_QK >= offset) & (rank_QK < offset + arguments.negatives)
            cells.append(f"{100 * false_QK[used_QK].mean():.1f} %" if used_QK.any() else "none left")
        enough = (kept_QK.sum(axis=1) >= 10 + arguments.negatives).mean()
        lines.append(f"| {bound} | {100 * enough:.0f} % | {' | '.join(cells)} |")
    return lines


def guard_lines(arguments: argparse.Namespace, results: dict[Arm, list[dict[str, Any]]]) -> list[str]:
    """Return what the guard ignores at the start: passages in general, and answers among the negatives in use."""
    if arguments.teacher is None:
        return []
    above_Q = 100 * (above_positive(arguments) > 0).mean(axis=1)
    half, tenth = np.quantile(above_Q, [0.5, 0.9])
    lines = [
        f"The teacher scores {half:.1f} % of all passages above the labelled positive for the median query, at least "
        f"{tenth:.1f} % for a tenth of them."
    ]
    for arm, found in results.items():
        if arm.guard is not None:
            first = found[0]["checks"][0]
            share = 100 * first["ignored_false"] / max(1, first["ignored"])
            lines.append(
                f"{arm}: at the start {first['ignored']} of {first['in_use']} negatives are ignored, "
                f"{first['ignored_false']} ({share:.1f} %) of them answers."
            )
    return ["  \n".join(lines)]


def main() -> None:
    parser = options(__doc__, "runs/false-negatives", seeds=[0])
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--negatives", type=int, default=2)
    parser.add_argument(
        "--hidden", type=int, default=12, help="relevant passages of each query that nobody labelled"
    )
    parser.add_argument("--offset", type=int, default=10, help="first ranks never used")
    parser.add_argument("--depth", type=int, default=500, help="ranks looked at, before the bound")
    parser.add_argument("--interval", type=int, default=9)
    parser.add_argument("--decay", type=float, default=1.15)
    parser.add_argument("--max-length", type=int, default=48)
    parser.add_argument("--sources", nargs="*", default=list(SOURCES), choices=SOURCES)
    parser.add_argument(
        "--bounds", type=float, nargs="*", default=[0, 0.9], help="mining.max_positive_ratio; 0: none"
    )
    parser.add_argument(
        "--teacher", type=Path, help="a bi-encoder; without it there are no arms with a guard"
    )
    parser.add_argument(
        "--guards", type=float, nargs="*", default=[0.0], help="teacher.ignore_above_positive"
    )
    arguments = parser.parse_args()
    os.nice(10)
    untrained = {
        "base model": kept(arguments.output / "base.json", lambda: base_scores(arguments), "base model")
    }
    if arguments.teacher is not None:
        untrained["teacher"] = kept(
            arguments.output / "teacher.json", lambda: teacher_scores(arguments), "teacher"
        )
    guards = [None] if arguments.teacher is None else [None, *arguments.guards]
    arms = [Arm(*each) for each in product(arguments.sources, [b or None for b in arguments.bounds], guards)]
    by_seed = [[result_of(arguments, arm, seed) for arm in arms] for seed in arguments.seeds]
    results = {arm: [of_seed[number] for of_seed in by_seed] for number, arm in enumerate(arms)}
    head = (
        "| source, bound, guard | usable ranks | false at the start | false among replacements | false in use at the end | "
        "false among those learned then | ignored then | nDCG@10, trained queries | held-out queries |"
    )
    lines = [head, "|---" * 9 + "|"]
    for name, found in untrained.items():
        ndcg = " | ".join(f"{100 * mean(found[queries]):.2f}" for queries in ("queries", "held-out"))
        lines.append(f"| {name}, untrained | | | | | | | {ndcg} |")
    lines += [f"| {arm} | {' | '.join(shares(found))} |" for arm, found in results.items()]
    compared = differences(results)
    folder = make_data(arguments)
    passages = len(pl.read_parquet(folder / "corpus.parquet"))
    taught = f", teacher {arguments.teacher.name}" if arguments.teacher else ""
    what = (
        f"{arguments.base.name}{taught}; {len(untrained['base model']['queries'])} queries, {len(untrained['base model']['held-out']):,} held out, {passages:,} "
        f"passages, {arguments.hidden} hidden positives of each query "
        f"({100 * arguments.hidden / passages:.1f} % of the corpus); {arguments.steps} steps of 16 queries x (1 positive + "
        f"{arguments.negatives} negatives), depth {arguments.depth}, offset {arguments.offset}, check every {arguments.interval} steps, decay "
        f"{arguments.decay}, ceiling 0.8, bound and scores relative to the background; seeds {', '.join(map(str, arguments.seeds))}. "
        f"± is the standard deviation over seeds."
    )
    told = f"Differences with 95 % intervals over seeds and queries; {len(compared)} comparisons:"
    swept = "Before training, the first window of the mined ranking under other bounds, and without what the guard ignores:"
    write_result(
        "False negatives among hard ones",
        what,
        [
            *lines,
            "",
            told,
            "",
            *difference_lines(compared),
            "",
            swept,
            "",
            *sweep(arguments),
            "",
            *guard_lines(arguments, results),
        ],
        {
            "untrained": {
                name: {queries: mean(values) for queries, values in found.items()}
                for name, found in untrained.items()
            },
            "arms": {str(arm): [without_items(result) for result in found] for arm, found in results.items()},
            "differences": {
                f"{arm} against {against}": asdict(estimate) for (arm, against), estimate in compared.items()
            },
        },
        arguments.write,
    )


def without_items(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "ndcg": {name: mean(values) for name, values in result["ndcg"].items()}}


if __name__ == "__main__":
    main()
