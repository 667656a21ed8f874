"""The command line: one function a command, no logic of its own.

Heavy imports stand inside the commands, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from conan_embed.console import console, stdout
from conan_embed.distributed import failures
from conan_embed.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Train text-embedding models whose negatives stay hard.

    **Begin with** `conan-embed quickstart`: a search engine for the Python documentation on this machine, in minutes.

    **Then your own data**: `conan-embed recipe small > my.yaml`, put your files in, `conan-embed train my.yaml`.

    Any setting of a recipe can be given on the command line: `conan-embed train my.yaml optimizer.learning_rate=2e-5`.
    """,
)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings on top of the recipe")
]


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option(help="go on from the newest checkpoint, if the run directory has one")
    ] = True,
    allow_changes: Annotated[bool, typer.Option(help="resume although the recipe changed")] = False,
) -> None:
    """Train a model as a recipe says, and write model/, metrics and report.html into its output directory.

    With several processes: `torchrun --nproc-per-node 4 -m conan_embed train RECIPE`. The loss is the same.
    """
    from conan_embed.distributed import collectives
    from conan_embed.recipes.schema import load_recipe
    from conan_embed.reporting.page import report as write_report
    from conan_embed.training.run import train as run

    collectives.start()  # first of all, so that a mistake in the recipe is said once and not by every process
    folder = run(load_recipe(recipe, overrides), resume=resume, allow_changes=allow_changes)
    if collectives.is_main_process():
        page = write_report([folder])
        console.print(f"model: {folder / 'model'}\nreport: {page}")
    collectives.stop()


@app.command()
def mine(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the rankings")],
    overrides: Overrides = None,
) -> None:
    """Mine rankings of hard negatives with the recipe's base model.

    `train` reads them where a data set says `ranking: OUTPUT`. (It also mines by itself when there is none.)
    """
    from conan_embed.recipes.schema import load_recipe
    from conan_embed.training.run import mine as run

    folder = run(load_recipe(recipe, overrides), output)
    console.print(f"rankings: {folder}; figures and examples: {folder / 'mining.json'}")


@app.command(name="filter")
def filter_(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="a YAML file (docs/filtering.md)")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder for kept/, dropped/, summary.json and report.html")
    ],
    runner: Annotated[
        Literal["native", "ray"], typer.Option(help="this machine, or a Ray cluster")
    ] = "native",
    resume: Annotated[
        bool, typer.Option(help="go on where an earlier run of the same recipe stopped")
    ] = True,
) -> None:
    """Turn raw text pairs into clean ones; every dropped pair says why, report.html shows it."""
    from conan_embed.filtering.pipeline import filter_pairs
    from conan_embed.filtering.recipe import read_filter_recipe
    from conan_embed.reporting.page import report as write_report

    filter_pairs(read_filter_recipe(recipe), output, runner=runner, resume=resume)
    page = write_report([output])
    console.print(f"kept pairs: {output / 'kept'}\nsummary: {output / 'summary.json'}\nreport: {page}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="a model folder, or a hub name")],
    folder: Annotated[
        Path | None, typer.Argument(help="evaluation sets: retrieval/, sts/, classification/, ...")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help='a benchmark of mteb, as "MTEB(cmn, v1)", or C-MTEB: the paper\'s 35 sets'),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help='as "retrieval/NAME", "sts" or "AFQMC"; can be repeated')
    ] = None,
    local: Annotated[
        Path | None,
        typer.Option("--local", "--local-data", help="mteb's classes on local copies of their data, offline"),
    ] = None,
    width: Annotated[
        list[str] | None, typer.Option("--width", "--dims", help="Matryoshka widths to score too: 256,512")
    ] = None,
    precision: Annotated[
        Literal["bfloat16", "float32"], typer.Option(help="of matrix products; float32 for leaderboards")
    ] = "bfloat16",
    baseline: Annotated[
        Path | None, typer.Option(help="JSON of an earlier evaluation to compare with")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="scores as JSON; of a benchmark the folder of results"),
    ] = None,
    update_card: Annotated[bool, typer.Option(help="write the scores into the model's README.md")] = False,
) -> None:
    """Evaluate a model on a folder of sets, or on a benchmark by mteb itself: a table on screen, scores as JSON.

    A benchmark's results stand in mteb's own layout under `--output` (`results` by default); a task that is there
    is not computed again. Under torchrun its tasks are shared out over the processes.
    """
    from conan_embed.distributed import collectives
    from conan_embed.encoder.card import note_results
    from conan_embed.evaluation.command import evaluate_as_asked
    from conan_embed.evaluation.table import by_type, table
    from conan_embed.files import read_json

    results = evaluate_as_asked(
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
    stdout.print(table(results, baseline=None if baseline is None else read_json(baseline)))
    if (averages := by_type(results)) is not None:
        stdout.print(averages)
    if update_card:
        note_results(Path(model), results)
    if results.get("missing"):
        raise UserError(f"not evaluated: {', '.join(results['missing'])}; the same command tries them again.")


Seeds = Annotated[str, typer.Option(help="each arm is trained once with each of these seeds")]
Jobs = Annotated[int, typer.Option(min=1, help="arms at a time, each in a process of its own")]
ArmsOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="else the recipe's output with -arms behind it")
]
Against = Annotated[str | None, typer.Option(help="the arm that differences are taken from; else the first")]


@app.command()
def ablate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    seeds: Seeds = "0,1,2",
    equal: Annotated[
        Literal["examples", "updates"],
        typer.Option(help="what arms with one task a step have as many of as the joint ones"),
    ] = "examples",
    against: Against = None,
    jobs: Jobs = 1,
    output: ArmsOutput = None,
) -> None:
    """Run the paper's table 4 on a recipe: base, vanilla, CBB only, DHNM only, both; seeds, intervals, a page.

    The same command goes on where it stopped. docs/experiments.md says what the arms are.
    """
    from conan_embed.ablation.comparison import ablate as run
    from conan_embed.ablation.comparison import seeds_from
    from conan_embed.distributed import collectives

    collectives.start()
    chosen = seeds_from(seeds)
    found = run(recipe, overrides or [], seeds=chosen, output=output, equal=equal, against=against, jobs=jobs)
    _show_comparison(found)


@app.command()
def sweep(
    recipe: RecipeArgument,
    settings: Annotated[
        list[str],
        typer.Argument(metavar="KEY=V1,V2...", help="values to try; keys joined by + change together"),
    ],
    one_at_a_time: Annotated[
        bool,
        typer.Option(
            "--one-at-a-time",
            help="not every combination: change one key at a time, others at their first values",
        ),
    ] = False,
    seeds: Seeds = "0,1,2",
    against: Against = None,
    jobs: Jobs = 1,
    output: ArmsOutput = None,
) -> None:
    """Run a recipe with every combination of the given values: `hard_negatives.decay=1.05,1.15 loss.beta=0.4,0.8`.

    Keys that change together: `step.queries+step.sts_pairs=20+16,12+48`. A key with one value holds for all.
    """
    from conan_embed.ablation.comparison import seeds_from
    from conan_embed.ablation.comparison import sweep as run
    from conan_embed.distributed import collectives

    collectives.start()
    found = run(
        recipe,
        settings,
        seeds=seeds_from(seeds),
        output=output,
        one_at_a_time=one_at_a_time,
        against=against,
        jobs=jobs,
    )
    _show_comparison(found)


def _show_comparison(found: dict[str, Any]) -> None:
    from conan_embed.ablation.comparison import table
    from conan_embed.distributed import collectives

    if collectives.is_main_process():
        stdout.print(table(found))
        console.print(f"table: {found['output']}/table.md\npage: {found['output']}/arms.html")
    collectives.stop()


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="run directories, several are compared side by side; or the output of a filter"),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="else report.html in the first folder")
    ] = None,
) -> None:
    """Write one self-contained page about one or several runs, or about what a filter kept and dropped."""
    from conan_embed.reporting.page import report as run

    console.print(f"report: {run(folders, output)}")


@app.command()
def suspects(
    run: Annotated[Path, typer.Argument(help="a finished run directory")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON lines; else suspects.jsonl in the run")
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=1, help="how many of the likeliest pairs the model looks at")
    ] = 500,
    margin: Annotated[
        float, typer.Option(help="suspect negatives from this far below their positive on (cosine)")
    ] = 0.05,
) -> None:
    """Write the negatives that score like their query's positive, for a person to label.

    They are probably answers that nobody labelled. docs/negatives.md says how labels get back into training.
    """
    from conan_embed.training.run import suspects as find

    written, count, looked_at = find(run, output, limit=pairs, margin=margin)
    console.print(f"{count:,} suspected false negatives among {looked_at:,} pairs looked at: {written}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="a model folder")],
    output: Annotated[Path, typer.Argument(help="folder to write")],
    format: Annotated[
        Literal["sentence-transformers", "onnx"], typer.Option(help="what to write")
    ] = "sentence-transformers",
    quantize: Annotated[Literal["int8"] | None, typer.Option(help="weights as 8-bit integers (onnx)")] = None,
    width: Annotated[int | None, typer.Option(help="cut to this Matryoshka width")] = None,
) -> None:
    """Write a model for serving; the copy is compared with the original before it counts."""
    from conan_embed.export import export as run

    console.print(f"exported: {run(model, output, format=format, quantize=quantize, width=width)}")


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="what to look for")],
    model: Annotated[Path, typer.Option(help="a model folder")] = Path("runs/quickstart/model"),
    corpus: Annotated[Path, typer.Option(help="passages: JSON lines, Parquet or CSV")] = Path(
        "runs/quickstart/data/documents.parquet"
    ),
    k: Annotated[int, typer.Option("-k", help="hits")] = 5,
) -> None:
    """Search a file of passages with a model; without options, the quickstart's."""
    from conan_embed.search.index import search as run
    from conan_embed.search.index import show

    stdout.print(show(run(query, model, corpus, k=k)[0]))


@app.command()
def recipe(
    name: Annotated[
        str | None, typer.Argument(help="a shipped recipe to print; without it, their list")
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="print every key with its default and meaning")
    ] = False,
) -> None:
    """Print a shipped recipe to start from, their list, or all keys that a recipe may have."""
    from conan_embed.recipes.show import all_keys, listed, text_of

    typer.echo(all_keys() if keys else listed() if name is None else text_of(name))


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="run directory")] = Path("runs/quickstart"),
    overrides: Overrides = None,
) -> None:
    """Train a search engine for the Python documentation on this machine, in about ten minutes on two cores."""
    from conan_embed.quickstart.run import quickstart as run

    run(output, overrides)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit status 2.

    Of several processes the first to fail says so, and all end with its status.
    """
    try:
        app(standalone_mode=True)
    except UserError as error:
        message = str(error)
        failures.exit_all(2, lambda: _say(message))
    except KeyboardInterrupt:
        failures.exit_all(130, lambda: console.print("interrupted"))
    except Exception as error:
        if not failures.in_group():
            raise
        if not failures.is_peer_failure(error):
            failures.exit_all(1, console.print_exception)
        message = f"another process of the run is gone ({str(error).strip().splitlines()[0]}). "
        failures.exit_all(1, lambda: _say(message + "The same command goes on from the newest checkpoint."))


def _say(error: str) -> None:
    console.print(Text.assemble(("error", "bold red"), f"{failures.process_suffix()} {error}"))
