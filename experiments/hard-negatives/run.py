"""What are hard negatives worth, and what negatives that stay hard? Arms x scopes of negatives x seeds, on a large pool.

    python experiments/hard-negatives/run.py --base MODEL --data DATA [--scope own] [--arms ...] [--seeds 0 1 2] [--write]

A pool of 124,000 passages of technical documentation, 4,000 training queries, 2,400 held-out ones against the whole
pool, sets of other domains beside it; a base that has seen in-batch negatives only, and nothing of this domain
(data.py, base.yaml). All arms of a scope see the same queries in the same order. Arms are
stored one by one under --output; an interrupted one resumes.
"""

import argparse
import os
import sys
from pathlib import Path

import loss_weights
import numpy as np
import polars as pl
from data import OTHER_DOMAINS, write_domain, write_fresh

sys.path.insert(0, str(Path(__file__).parents[1]))
from result_file import by_domain, options, write_result

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.comparison import Results, compare
from conan_embed.ablation.job import ArmResult
from conan_embed.ablation.run import run_arms
from conan_embed.ablation.tables import markdown
from conan_embed.errors import UserError
from conan_embed.recipes.loading import load_recipe
from conan_embed.training.run import train

HERE = Path(__file__).parent

# What a query's negatives are beside its own hard ones.
SCOPES = {
    "own": ("step.in_batch=none",),
    "paper's sum": ("step.in_batch=step_hard",),
    "data set": ("step.in_batch=dataset",),
}
SHARE = ("hard_negatives.rule=share",)
BANK = ("hard_negatives.source=bank", "hard_negatives.refresh=96")
BOUND = (  # with it the top ranks are best (arXiv 2407.15831)
    *("mining.offset=0", "mining.max_positive_ratio=0.95", "mining.subtract_background=true"),
    "mining.min_usable=40",
)
REMINE = ("hard_negatives.source=remine", "hard_negatives.interval=209", *SHARE)
V2 = (
    *("hard_negatives.source=ranking", "hard_negatives.rule=each", "hard_negatives.interval=1"),
    *("hard_negatives.decay=1.2", "hard_negatives.max_score=0.7"),
)
ARMS = {
    "in-batch only": (
        "step.num_negatives=0",
        "data.retrieval.0.negative_source=none",
        "step.in_batch=dataset",
    ),
    "static": (),
    "static, bound": BOUND,
    "ranking, v1": ("hard_negatives.source=ranking",),
    "ranking, v2": V2,
    "ranking, share": ("hard_negatives.source=ranking", *SHARE),
    "bank, share": (*BANK, *SHARE),
    "remine, share": REMINE,
    "static, guard": ("loss.ignore_above_positive=0.1",),
    "bank, share, bound": (*BANK, *SHARE, *BOUND),
    "remine, share, bound": (*REMINE, *BOUND),
    "ranking, v1, bound": ("hard_negatives.source=ranking", *BOUND),
    "ranking, v2, bound": (*V2, *BOUND),
    "bank, share, guard": (*BANK, *SHARE, "loss.ignore_above_positive=0.1"),
}
CHANGED_LOSS = {
    "static, focal": "focal=0.5",
    "static, hardness": "hardness=5",
    "static, mixing": "mixing",
}
"""Arms whose loss is not the product's (loss_weights.py)."""

EXPECTED = (
    "Written down before: without in-batch negatives `remine` and v2 at +1 to +2 nDCG@10 in domain over static, with them "
    "+0.3 to +0.8; the rule on the mean at about half of that."
)


def main() -> None:
    parser = options(__doc__, "runs/hard-negatives")
    parser.add_argument("--scope", choices=list(SCOPES), default="own")
    parser.add_argument("--arms", nargs="*", choices=[*ARMS, *CHANGED_LOSS], default=[*ARMS, *CHANGED_LOSS])
    parser.add_argument("--against", default="static", help="the arm that the others are compared with")
    parser.add_argument("--train-queries", type=int, default=4000)
    parser.add_argument("--held-out-queries", type=int, default=2400)
    parser.add_argument("--layers", type=int, default=2, help="of the base; the upper half is drawn anew")
    parser.add_argument(
        "--set-base", nargs="*", default=[], metavar="KEY=VALUE", help="other settings of the base's training"
    )
    parser.add_argument("--prepare", action="store_true", help="only write data and base")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings of all arms"
    )
    arguments = parser.parse_args()
    if arguments.against not in ["base", *arguments.arms]:  # now, not after hours
        parser.error(f"--against: found {arguments.against!r}, expected one of the arms.")
    domain = arguments.output / "domain"
    write_domain(
        arguments.data, domain, num_train=arguments.train_queries, num_held_out=arguments.held_out_queries
    )
    os.environ |= {"CONAN_DOMAIN": str(domain), "CONAN_BASE": str(make_base(arguments))}
    if arguments.prepare:
        return
    arms = [Arm("base", trained=False), *(Arm(name, ARMS.get(name, ())) for name in arguments.arms)]
    write(arguments, arms, run(arguments, arms))


def run(arguments: argparse.Namespace, arms: list[Arm]) -> Results:
    """Run arms with the product's loss side by side, then those of each changed loss."""
    results = dict[str, list[ArmResult]]()
    for change in ("", *CHANGED_LOSS.values()):
        chosen = [arm for arm in arms if CHANGED_LOSS.get(arm.name, "") == change]
        if not chosen:
            continue
        loss_weights.install(change)
        of_arms = run_arms(
            HERE / "fine-tuning.yaml",
            [*SCOPES[arguments.scope], f"cache={arguments.output / 'cache'}", *arguments.set],
            chosen,
            arguments.seeds,
            arguments.output / folder(arguments.scope),
            jobs=arguments.jobs,
        )
        results |= {arm.name: list(of_arm) for arm, of_arm in zip(chosen, of_arms, strict=True)}
    return [results[arm.name] for arm in arms]


def folder(scope: str) -> str:
    return scope.replace(" ", "-").replace("'", "")


def make_base(arguments: argparse.Namespace) -> Path:
    """Return the base model: a few layers, trained with in-batch negatives only, on other domains."""
    fresh = arguments.output / f"fresh-{arguments.layers}"
    write_fresh(arguments.base, fresh, arguments.layers)
    output = arguments.output / "base"
    if not (output / "model").exists():
        os.environ |= {"CONAN_BASE": str(fresh), "CONAN_DATA": str(arguments.data)}
        settings = [f"output={output}", f"cache={arguments.output / 'cache'}", *arguments.set_base]
        train(load_recipe(HERE / "base.yaml", settings))
    return output / "model"


def write(arguments: argparse.Namespace, arms: list[Arm], results: Results) -> None:
    against = next(number for number, arm in enumerate(arms) if arm.name == arguments.against)
    title = f"Hard negatives, scope {arguments.scope}"
    comparison = compare(arms, arguments.seeds, by_domain(results, OTHER_DOMAINS), against, title)
    what = (
        f"{arguments.layers} layers of {arguments.base.name}, the upper half drawn anew, trained with in-batch negatives "
        "on other domains; "
        f"scope of negatives: {arguments.scope}; {arguments.train_queries:,} training queries, "
        f"{arguments.held_out_queries:,} held out against the whole pool; other domains: {', '.join(OTHER_DOMAINS)}. "
        f"{len(arms) - 2} comparisons with {arguments.against!r} on {1 + len(OTHER_DOMAINS)} sets and their mean. {EXPECTED}"
    )
    write_result(
        title,
        what,
        [*markdown(comparison).splitlines(), *share_lines(arguments, arms)],
        comparison.to_json(),
        arguments.write,
        name=f"hard-negatives-{folder(arguments.scope)}",
    )


def share_lines(arguments: argparse.Namespace, arms: list[Arm]) -> list[str]:
    """Return a table: how much of the loss's softmax falls on a query's own hard negatives, by fifths of the run."""
    lines = [
        "Share of the softmax that falls on a query's own hard negatives, in per cent, by fifths of the run; "
        "mean over seeds:",
        "",
        "| arm | first | second | third | fourth | last |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        files = [
            arguments.output / folder(arguments.scope) / arm.folder / f"seed-{seed}/metrics.jsonl"
            for seed in arguments.seeds
        ]
        if arm.trained:
            share_SI = np.array([pl.read_ndjson(file)["share/hard"].to_numpy() for file in files])
            fifths = np.array_split(100 * share_SI.mean(axis=0), 5)
            lines.append(f"| {arm.name} | " + " | ".join(f"{fifth.mean():.1f}" for fifth in fifths) + " |")
    return [*lines, ""]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
