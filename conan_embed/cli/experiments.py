"""Commands that train a recipe several times to compare settings: ablate, sweep."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from conan_embed.cli.app import Overrides, RecipeArgument, command, run_in_group
from conan_embed.console import stdout

if TYPE_CHECKING:
    from conan_embed.ablation.comparison import Comparison

PANEL = "Compare settings"

Seeds = Annotated[str, typer.Option(help="Train each arm once with each of these seeds.")]
Jobs = Annotated[int, typer.Option(min=1, help="Arms trained at a time, each in its own process.")]
ArmsOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="Default: the recipe's output with -arms appended.")
]
Against = Annotated[str | None, typer.Option(help="Arm to compare the others with. Default: the first.")]


@command(PANEL)
def ablate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    seeds: Seeds = "0,1,2",
    equal: Annotated[
        Literal["examples", "updates"],
        typer.Option(help="What joint and one-task arms have equally many of."),
    ] = "examples",
    against: Against = None,
    jobs: Jobs = 1,
    output: ArmsOutput = None,
) -> None:
    """Run the paper's ablation (table 4) on a recipe: base, vanilla, CBB, DHNM, and both.

    Run the same command again to continue after an interruption. The arms: docs/experiments.md.
    """
    from conan_embed.ablation.experiment import ablate as run
    from conan_embed.ablation.experiment import parse_seeds

    _print(
        lambda: run(
            recipe,
            overrides or [],
            seeds=parse_seeds(seeds),
            output=output,
            equal=equal,
            against=against,
            jobs=jobs,
        )
    )


@command(PANEL)
def sweep(
    recipe: RecipeArgument,
    settings: Annotated[
        list[str],
        typer.Argument(metavar="KEY=V1,V2", help="Values to try. Keys joined by + change together."),
    ],
    one_at_a_time: Annotated[
        bool, typer.Option("--one-at-a-time", help="Vary one key at a time, around the first values.")
    ] = False,
    seeds: Seeds = "0,1,2",
    against: Against = None,
    jobs: Jobs = 1,
    output: ArmsOutput = None,
) -> None:
    """Train a recipe with every combination of values: `hard_negatives.decay=1.05,1.15 loss.beta=0.4,0.8`.

    Keys that change together: `step.queries+step.sts_pairs=20+16,12+48`. A key with one value holds for all arms.
    """
    from conan_embed.ablation.experiment import parse_seeds
    from conan_embed.ablation.experiment import sweep as run

    _print(
        lambda: run(
            recipe,
            settings,
            seeds=parse_seeds(seeds),
            output=output,
            one_at_a_time=one_at_a_time,
            against=against,
            jobs=jobs,
        )
    )


def _print(compare: Callable[[], "Comparison"]) -> None:
    from conan_embed.ablation.tables import table

    comparison = run_in_group(compare)
    if comparison is not None:
        stdout.print(table(comparison))
