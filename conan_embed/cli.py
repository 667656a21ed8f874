"""The command line: one function a command, no logic of its own.

Heavy imports stand inside the commands, so that `--help` answers at once.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.text import Text

from conan_embed.console import console, stdout
from conan_embed.distributed import failures
from conan_embed.errors import UserError
from conan_embed.files import disk_error

Command = TypeVar("Command", bound=Callable[..., None])

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Train text-embedding models whose negatives stay hard.

    **New here?** `conan-embed quickstart` trains a search engine for the Python documentation on this machine.

    **Your own data:** `conan-embed recipe small > my.yaml`, fill in your files, then `conan-embed train my.yaml`.

    Any setting of a recipe can be given on the command line: `conan-embed train my.yaml optimizer.learning_rate=2e-5`.
    """,
)


def command(name: str | None = None) -> Callable[[Command], Command]:
    """Make a function a command; `~` in its paths is the home directory, also where no shell has expanded it."""

    def expand(value: Any) -> Any:
        if isinstance(value, list):
            return [expand(each) for each in value]
        return value.expanduser() if isinstance(value, Path) else value

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            function(**{key: expand(value) for key, value in arguments.items()})

        app.command(name)(run)
        return function

    return register


RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a built-in recipe.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that override the recipe's.")
]
Resume = Annotated[bool, typer.Option(help="Continue an interrupted run, if there is one.")]


@command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Resume = True,
    allow_changes: Annotated[bool, typer.Option(help="Resume although the recipe has changed.")] = False,
) -> None:
    """Train a model; write model/, metrics and report.html into the recipe's output folder.

    On several processes: `torchrun --nproc-per-node 4 -m conan_embed train RECIPE`. The loss stays the same.
    """
    from conan_embed.distributed import collectives
    from conan_embed.recipes.loading import load_recipe
    from conan_embed.reporting.page import report as write_report
    from conan_embed.training.run import train as run

    collectives.start()  # first of all, so that a mistake in the recipe is reported once, not by every process
    folder = run(load_recipe(recipe, overrides), resume=resume, allow_changes=allow_changes)
    if collectives.is_main_process():
        page = write_report([folder])
        console.print(f"model: {folder / 'model'}\nreport: {page}")
    collectives.stop()


@command()
def mine(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the rankings.")],
    overrides: Overrides = None,
) -> None:
    """Mine hard negatives with the recipe's base model, for later runs.

    `train` uses them where a data set says `ranking: OUTPUT`. Without it, `train` mines by itself.
    """
    from conan_embed.recipes.loading import load_recipe
    from conan_embed.training.run import mine as run

    folder = run(load_recipe(recipe, overrides), output)
    console.print(f"rankings: {folder}\nstatistics and examples: {folder / 'mining.json'}")


@command()
def pairs(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders and files: Markdown, HTML, reST, text, PDF, Word, tables of texts or pairs.",
        ),
    ],
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
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")] = None,
    resume: Resume = True,
) -> None:
    """Turn documents into passages, training pairs and held-out questions, without a language model.

    Writes passages.parquet, pairs.parquet, test/ and development/ (evaluation folders) and summary.json.
    """
    import os

    from conan_embed.documents.build import PairSettings, build_pairs

    settings = PairSettings(
        model=model,
        max_tokens=max_tokens,
        overlap=overlap,
        hold_out=hold_out,
        seed=seed,
        workers=workers or os.cpu_count() or 1,
    )
    result = build_pairs(sources, output, settings, resume=resume)
    console.print("\n".join([*result.lines(), f"pairs: {output / 'pairs.parquet'}"]))


@command()
def tune(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="folders and files of documents, or tables of pairs"),
    ],
    model: Annotated[str, typer.Option(help="the model to start from: a folder, or a hub name")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the run")] = Path("runs/tune"),
    minutes: Annotated[
        float | None, typer.Option(min=0, help="time for training and scoring; else what the data is worth")
    ] = None,
    other: Annotated[
        Path | None,
        typer.Option(help="evaluation sets of other domains, to see what is forgotten; else a built-in one"),
    ] = None,
    hold_out: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="share of the questions that are never trained on")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="of what is held out, and of training")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of the recipe; repeat")
    ] = None,
    require_better: Annotated[
        bool, typer.Option("--require-better", help="exit with status 1 unless the verdict is BETTER")
    ] = False,
) -> None:
    """Tune a model on a folder of documents: a model that searches them better, and the proof.

    Pairs are made from the documents, questions are held out, hard negatives are mined, the model is trained, compared
    with its base on the held-out questions, and merged with it where that keeps more of what it knew.
    """
    import os

    from conan_embed.tune.tune import TuneSettings
    from conan_embed.tune.tune import tune as run

    settings = TuneSettings(
        model=model,
        minutes=minutes,
        other=other,
        hold_out=hold_out,
        seed=seed,
        overrides=tuple(set_ or ()),
        workers=os.cpu_count() or 1,
    )
    result = run(sources, output, settings)
    stdout.print("\n".join(result.lines()), soft_wrap=True)
    console.print(f'search: conan-embed search "..." --model {output}')
    if require_better and result.verdict.word != "BETTER":
        raise typer.Exit(1)


@command()
def merge(
    first: Annotated[str, typer.Argument(help="a model folder, or a hub name")],
    second: Annotated[str, typer.Argument(help="another of the same shape, as a rule its base")],
    output: Annotated[Path, typer.Option("--output", "-o", help="model folder to write")],
    share: Annotated[float, typer.Option(min=0, max=1, help="of the first model's weights")] = 0.5,
) -> None:
    """Interpolate the weights of two models: most of what the first learned, more of what the second knew."""
    from conan_embed.tune.merge import merge_models

    console.print(f"merged: {merge_models(first, second, output, share=share)}")


@command()
def encode(
    texts: Annotated[Path, typer.Argument(help="JSON lines, CSV or Parquet with a column text")],
    output: Annotated[Path, typer.Option("--output", "-o", help="a .parquet or .npy file")],
    model: Annotated[str, typer.Option(help="a model folder, or a hub name")],
    query: Annotated[
        bool, typer.Option("--query", help="with the prompt of queries, not of passages")
    ] = False,
    width: Annotated[int | None, typer.Option(min=1, help="a Matryoshka width")] = None,
) -> None:
    """Write the embeddings of a file of texts, for any database."""
    from conan_embed.tune.encoding import encode_file_with

    count = encode_file_with(model, texts, output, query=query, width=width)
    console.print(f"{count:,} embeddings: {output}")


@command(name="filter")
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


@command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, or the name of a model on the hub.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Evaluation sets: retrieval/, sts/, classification/, ...")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help='A benchmark of mteb, such as "MTEB(cmn, v1)", or C-MTEB for the paper\'s 35 sets.'
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help='Only this task or type: "retrieval/NAME", "sts" or "AFQMC". Repeatable.'),
    ] = None,
    local: Annotated[
        Path | None,
        typer.Option("--local", "--local-data", help="Run mteb offline, on local copies of its data."),
    ] = None,
    width: Annotated[
        list[str] | None,
        typer.Option("--width", "--dims", help="Matryoshka widths to score as well: 256,512."),
    ] = None,
    precision: Annotated[
        Literal["bfloat16", "float32"], typer.Option(help="Of matrix products; float32 for leaderboards.")
    ] = "bfloat16",
    baseline: Annotated[
        Path | None, typer.Option(help="Compare with the JSON of an earlier evaluation.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where scores go: a JSON file; for a benchmark, a folder."),
    ] = None,
    update_card: Annotated[bool, typer.Option(help="Write the scores into the model's README.md.")] = False,
) -> None:
    """Evaluate a model on your own sets, or on a benchmark with mteb.

    Benchmark results are stored in mteb's layout under `--output` (default: `results`), and tasks that are already
    there are not run again. Under torchrun, tasks are dealt out to the processes.
    """
    from conan_embed.distributed import collectives
    from conan_embed.encoder.card import note_results
    from conan_embed.evaluation.command import evaluate_as_asked
    from conan_embed.evaluation.results import read_result
    from conan_embed.evaluation.table import by_type, table

    result = evaluate_as_asked(
        model,
        folder,
        benchmark=benchmark,
        tasks=task,
        local=local,
        widths=width,
        precision=precision,
        output=output,
        device=collectives.start(),
    )
    first = collectives.is_main_process()
    collectives.stop()
    if not first:
        return
    stdout.print(table(result, baseline=None if baseline is None else read_result(baseline)))
    if (averages := by_type(result)) is not None:
        stdout.print(averages)
    if update_card:
        note_results(Path(model), result.to_json())
    if result.missing:
        raise UserError(f"not evaluated: {', '.join(result.missing)}; run the same command to try again.")


Seeds = Annotated[str, typer.Option(help="Train each arm once with each of these seeds.")]
Jobs = Annotated[int, typer.Option(min=1, help="Arms trained at a time, each in its own process.")]
ArmsOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="Default: the recipe's output with -arms appended.")
]
Against = Annotated[str | None, typer.Option(help="Arm to compare the others with. Default: the first.")]


@command()
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
    from conan_embed.ablation.tables import table
    from conan_embed.distributed import collectives

    collectives.start()
    comparison = run(
        recipe,
        overrides or [],
        seeds=parse_seeds(seeds),
        output=output,
        equal=equal,
        against=against,
        jobs=jobs,
    )
    if collectives.is_main_process():
        stdout.print(table(comparison))
    collectives.stop()


@command()
def sweep(
    recipe: RecipeArgument,
    settings: Annotated[
        list[str],
        typer.Argument(metavar="KEY=V1,V2...", help="Values to try. Keys joined by + change together."),
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
    from conan_embed.ablation.tables import table
    from conan_embed.distributed import collectives

    collectives.start()
    comparison = run(
        recipe,
        settings,
        seeds=parse_seeds(seeds),
        output=output,
        one_at_a_time=one_at_a_time,
        against=against,
        jobs=jobs,
    )
    if collectives.is_main_process():
        stdout.print(table(comparison))
    collectives.stop()


@command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Run folders (several are compared), or one output of a filter.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: report.html in the first folder.")
    ] = None,
) -> None:
    """Write a self-contained HTML page about one or several runs, or about a filter's output."""
    from conan_embed.reporting.page import report as run

    console.print(f"report: {run(folders, output)}")


@command(name="false-negatives")
def false_negatives(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON lines. Default: a file in the run.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of likely pairs to check.")] = 500,
    margin: Annotated[
        float, typer.Option(help="Report negatives scoring at most this far below their positive.")
    ] = 0.05,
) -> None:
    """List hard negatives that score like their query's positive, for a person to label.

    Many of them are correct answers that nobody labelled. How to train on the labels: docs/negatives.md.
    """
    from conan_embed.training.false_negatives import find_false_negatives

    result = find_false_negatives(run, output, limit=pairs, margin=margin)
    console.print(f"{result.likely:,} likely false negatives among {result.checked:,} pairs: {result.file}")


@command()
def export(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    format: Annotated[
        Literal["sentence-transformers", "onnx"], typer.Option(help="Format to write.")
    ] = "sentence-transformers",
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Store weights as 8-bit integers (onnx).")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Keep only this Matryoshka width.")] = None,
) -> None:
    """Export a model for serving. The copy is checked against the original."""
    from conan_embed.export import export as run

    console.print(f"exported: {run(model, output, format=format, quantize=quantize, width=width)}")


@command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    model: Annotated[Path, typer.Option(help="A model folder.")] = Path("runs/quickstart/model"),
    corpus: Annotated[Path, typer.Option(help="Passages: JSON lines, Parquet or CSV.")] = Path(
        "runs/quickstart/data/documents.parquet"
    ),
    k: Annotated[int, typer.Option("-k", help="Number of hits.")] = 5,
) -> None:
    """Search a file of passages; by default, with the quickstart's model in its documentation.

    With the folder of a `tune` run as the model, its passages are searched, each shown with file, line and heading.
    """
    from conan_embed.search.index import search as run
    from conan_embed.search.index import show
    from conan_embed.tune.searching import is_tuned, search_tuned

    hits = search_tuned(query, model, k=k) if is_tuned(model) else run(query, model, corpus, k=k)[0]
    stdout.print(show(hits))


@command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="The built-in recipe to print.")] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Print every key with its default and meaning.")
    ] = False,
) -> None:
    """List the built-in recipes, or print one to start from."""
    from conan_embed.recipes.show import list_keys, list_recipes, recipe_text

    typer.echo(list_keys() if keys else list_recipes() if name is None else recipe_text(name))


@command()
def quickstart(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("runs/quickstart"),
) -> None:
    """Train a search engine for the Python documentation on this machine, in about ten minutes on two cores."""
    from conan_embed.quickstart.run import quickstart as run

    run(output, overrides)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit status 2.

    Of several processes, the first to fail reports it, and all end with its status.
    """
    try:
        app(standalone_mode=True)
    except UserError as error:
        message = str(error)
        failures.exit_all(2, lambda: _print_error(message))
    except KeyboardInterrupt:
        failures.exit_all(130, lambda: console.print("interrupted"))
    except Exception as error:
        if (reason := disk_error(error)) is not None:
            file = getattr(error, "filename", None)
            failures.exit_all(
                2, lambda: _print_error(f"{file + ': ' if file else ''}cannot be written: {reason}.")
            )
        if not failures.in_group():
            raise
        if not failures.is_peer_failure(error):
            failures.exit_all(1, console.print_exception)
        lost = str(error).strip().splitlines()[0]
        message = (
            f"lost another process of the run ({lost}). The same command resumes from the last checkpoint."
        )
        failures.exit_all(1, lambda: _print_error(message))


def _print_error(message: str) -> None:
    console.print(Text.assemble(("error", "bold red"), f"{failures.process_suffix()} {message}"))
