"""Commands that make a model: quickstart, train, tune, mine, recipe."""

from pathlib import Path
from typing import Annotated

import typer

from conan_embed.cli.app import (
    LanguageModelName,
    LanguageModelTokens,
    Overrides,
    QuestionsFrom,
    RecipeArgument,
    Resume,
    Sources,
    command,
    run_in_group,
)
from conan_embed.console import console, stdout

PANEL = "Train"


@command(PANEL)
def quickstart(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("runs/quickstart"),
) -> None:
    """Tune a small model on Python documentation of this machine, in minutes on two cores."""
    from conan_embed.quickstart.run import quickstart as run

    run(output, overrides)


@command(PANEL)
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Resume = True,
    allow_changes: Annotated[bool, typer.Option(help="Resume although the recipe has changed.")] = False,
) -> None:
    """Train a model; write model/, metrics and report.html into the recipe's output folder.

    On several processes: `torchrun --nproc-per-node 4 -m conan_embed train RECIPE`. The loss stays the same.
    """
    from conan_embed.recipes.loading import load_recipe
    from conan_embed.reporting.page import report as write_report
    from conan_embed.training.run import train as run

    folder = run_in_group(
        lambda: run(load_recipe(recipe, overrides), resume=resume, allow_changes=allow_changes)
    )
    if folder is not None:
        page = write_report([folder])
        console.print(f"model: {folder / 'model'}\nreport: {page}")


@command(PANEL)
def tune(
    sources: Sources,
    model: Annotated[str, typer.Option(help="The model to start from: a folder, or a name on the hub.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("runs/tune"),
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Time to spend. Default: as much as the data is worth.")
    ] = None,
    other: Annotated[
        Path | None,
        typer.Option(
            help="Evaluation sets of other domains, to see what is forgotten. Default: a built-in one."
        ),
    ] = None,
    hold_out: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="Share of the questions kept out of training.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Of training, and of which questions are held out.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe. Repeatable."),
    ] = None,
    questions_from: QuestionsFrom = None,
    llm: LanguageModelName = None,
    llm_tokens: LanguageModelTokens = 5_000_000,
    require_better: Annotated[
        bool, typer.Option("--require-better", help="Exit with status 1 unless the verdict is BETTER.")
    ] = False,
    resume: Resume = True,
) -> None:
    """Tune a model on a folder of documents, and compare it with its base on questions held out.

    Makes pairs from the documents, holds questions out, mines hard negatives, trains, compares the model with its base
    on the held-out questions, and merges the two where that keeps more of what the base knew.
    """
    import os

    from conan_embed.documents.generated import QuestionSettings
    from conan_embed.tuning.tune import TuneSettings
    from conan_embed.tuning.tune import tune as run

    settings = TuneSettings(
        model=model,
        minutes=minutes,
        other=other,
        hold_out=hold_out,
        seed=seed,
        overrides=tuple(set_ or ()),
        questions=QuestionSettings.of(questions_from, llm, llm_tokens),
        workers=os.cpu_count() or 1,
    )
    result = run(sources, output, settings, resume=resume)
    stdout.print("\n".join(result.lines()), soft_wrap=True)
    console.print(f"report: {output / 'report.html'}")
    console.print(f'search: conan-embed search "..." --model {output}')
    if require_better and result.verdict.word != "BETTER":
        raise typer.Exit(1)


@command(PANEL)
def mine(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the rankings.")],
    overrides: Overrides = None,
) -> None:
    """Mine hard negatives with the recipe's base model, for later runs.

    `train` uses them for data sets with `ranking: OUTPUT`. Without it, `train` mines by itself.
    """
    from conan_embed.recipes.loading import load_recipe
    from conan_embed.training.run import mine as run

    folder = run(load_recipe(recipe, overrides), output)
    console.print(f"rankings: {folder}\nstatistics and examples: {folder / 'mining.json'}")


@command(PANEL)
def recipe(
    name: Annotated[str | None, typer.Argument(help="The built-in recipe to print.")] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Print every key with its default and meaning.")
    ] = False,
) -> None:
    """List the built-in recipes, or print one to start from."""
    from conan_embed.recipes.show import list_keys, list_recipes, recipe_text

    typer.echo(list_keys() if keys else list_recipes() if name is None else recipe_text(name))
