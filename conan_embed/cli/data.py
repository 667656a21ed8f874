"""Commands that make training data: pairs, filter, false-negatives."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from conan_embed.cli.app import (
    LanguageModelName,
    LanguageModelTokens,
    Overrides,
    QuestionsFrom,
    Resume,
    Sources,
    command,
)
from conan_embed.console import console

PANEL = "Data"


@command(PANEL)
def pairs(
    sources: Sources,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    model: Annotated[
        str | None, typer.Option(help="Count tokens with this model's tokenizer. Default: an estimate.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=16, help="Longest passage, in tokens.")] = 256,
    overlap: Annotated[
        int, typer.Option(min=0, help="Tokens that a passage repeats from the previous one.")
    ] = 0,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of the questions kept out of training.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides which questions are held out.")] = 0,
    questions_from: QuestionsFrom = None,
    llm: LanguageModelName = None,
    llm_tokens: LanguageModelTokens = 5_000_000,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    resume: Resume = True,
) -> None:
    """Turn documents into passages, training pairs and held-out questions; a language model is not needed.

    Writes passages.parquet, pairs.parquet, test/ and development/ (evaluation folders) and summary.json.
    """
    import os

    from conan_embed.documents.build import PairSettings, build_pairs
    from conan_embed.documents.generated import QuestionSettings

    settings = PairSettings(
        model=model,
        max_tokens=max_tokens,
        overlap=overlap,
        hold_out=hold_out,
        seed=seed,
        questions=QuestionSettings.of(questions_from, llm, llm_tokens),
        workers=workers or os.cpu_count() or 1,
    )
    result = build_pairs(sources, output, settings, resume=resume)
    console.print("\n".join([*result.lines(), f"pairs: {output / 'pairs.parquet'}"]))


@command(PANEL, "filter")
def filter_(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file (docs/filtering.md).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pairs and the report.")],
    overrides: Overrides = None,
    runner: Annotated[
        Literal["native", "ray"], typer.Option(help="This machine, or a Ray cluster.")
    ] = "native",
    resume: Resume = True,
) -> None:
    """Turn raw text pairs into clean ones, with a reason for every pair that was dropped."""
    from conan_embed.filtering.pipeline import filter_pairs
    from conan_embed.filtering.recipe import read_filter_recipe
    from conan_embed.reporting.page import report as write_report

    filter_pairs(read_filter_recipe(recipe, overrides or ()), output, runner=runner, resume=resume)
    page = write_report([output])
    console.print(f"kept pairs: {output / 'kept'}\nsummary: {output / 'summary.json'}\nreport: {page}")


@command(PANEL, "false-negatives")
def false_negatives(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON lines. Default: a file in the run.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of likely pairs to check.")] = 500,
    margin: Annotated[
        float, typer.Option(help="Report negatives scoring at most this far below their positive.")
    ] = 0.05,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Who labels them: a cross-encoder (a folder, or a name on the hub), or the URL of an "
            "OpenAI-compatible endpoint (a key is read from OPENAI_API_KEY). Default: a person."
        ),
    ] = None,
    llm: LanguageModelName = None,
    write_data: Annotated[
        Path | None,
        typer.Option(help="Folder for the data sets with what is labelled positive among their positives."),
    ] = None,
) -> None:
    """List hard negatives that score like their query's positive, for a person or a judge to label.

    Many of them are correct answers that nobody labelled. Labels in the file stay, so the same command continues after
    an interruption. How to train on the labels: docs/negatives.md.
    """
    from conan_embed.training.false_negatives import find_false_negatives

    result = find_false_negatives(
        run, output, limit=pairs, margin=margin, judge=judge, llm=llm, write_data=write_data
    )
    console.print("\n".join(result.lines()))
