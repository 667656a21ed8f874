"""Commands that judge a model: evaluate, report, search."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from conan_embed.cli.app import command, run_in_group
from conan_embed.console import console, stdout
from conan_embed.errors import UserError

PANEL = "Evaluate and use"

Folder = Annotated[
    Path | None, typer.Argument(help="Evaluation sets: retrieval/, sts/, classification/, ...")
]
Benchmark = Annotated[
    str | None,
    typer.Option(help='A benchmark of mteb, such as "MTEB(cmn, v1)", or C-MTEB for the paper\'s 35 sets.'),
]
TaskNames = Annotated[
    list[str] | None,
    typer.Option(help='Only this task or type: "retrieval/NAME", "sts" or "AFQMC". Repeatable.'),
]
LocalData = Annotated[
    # torchrun has an option `--local` of its own, hence two names.
    Path | None,
    typer.Option("--local", "--local-data", help="Run mteb offline, on local copies of its data."),
]
Widths = Annotated[
    list[str] | None, typer.Option("--width", help="Matryoshka widths to score as well: 256,512.")
]
Vectors = Annotated[
    list[str] | None,
    typer.Option(help="Stored vectors to score as well, at each width: int8,binary (folders of sets only)."),
]
Precision = Annotated[
    Literal["bfloat16", "float32"], typer.Option(help="Of matrix products; float32 for leaderboards.")
]


@command(PANEL)
def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, or a name on the hub.")],
    folder: Folder = None,
    benchmark: Benchmark = None,
    task: TaskNames = None,
    local: LocalData = None,
    width: Widths = None,
    vectors: Vectors = None,
    precision: Precision = "bfloat16",
    instructions: Annotated[
        bool,
        typer.Option("--instructions", help="Use mteb's own instruction for each task, not the model's."),
    ] = False,
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
    from conan_embed.encoder.card import check_card, note_results
    from conan_embed.evaluation.command import evaluate_as_asked
    from conan_embed.evaluation.results import read_result
    from conan_embed.evaluation.table import by_type, kept, table

    # Before hours of encoding.
    compared = None if baseline is None else read_result(baseline)
    if update_card:
        check_card(Path(model))
    result = run_in_group(
        lambda: evaluate_as_asked(
            model,
            folder,
            benchmark=benchmark,
            tasks=task,
            local=local,
            widths=width,
            vectors=vectors,
            precision=precision,
            instructions=instructions,
            output=output,
        )
    )
    if result is None:
        return
    stdout.print(table(result, baseline=compared))
    for more in (by_type(result), kept(result)):
        if more is not None:
            stdout.print(more)
    if update_card:
        note_results(Path(model), result.to_json())
    if result.missing:
        raise UserError(f"not evaluated: {', '.join(result.missing)}; run the same command to try again.")


@command(PANEL)
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


@command(PANEL)
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    model: Annotated[Path, typer.Option(help="The folder of a `tune` run, or a model folder.")] = Path(
        "runs/quickstart"
    ),
    corpus: Annotated[
        Path | None, typer.Option(help="Passages for a model folder: JSON lines, Parquet or CSV.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of hits.")] = 5,
) -> None:
    """Search the passages of a `tune` run (default: the quickstart's), each shown with file, line and heading.

    With a model folder, search the file of passages that `--corpus` names.
    """
    from conan_embed.search.index import search as run
    from conan_embed.search.index import show
    from conan_embed.tuning.searching import is_tuned, search_tuned

    if corpus is None and not is_tuned(model):
        raise UserError(
            f"{model}: not the folder of a finished `tune` run; expected one, or --corpus beside a model."
        )
    hits = search_tuned(query, model, k=k) if corpus is None else run(query, model, corpus, k=k)[0]
    stdout.print(show(hits))
