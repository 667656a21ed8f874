"""Commands that turn a finished model into something else: encode, export, merge, push."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from conan_embed.cli.app import command
from conan_embed.cli.evaluation import PANEL
from conan_embed.console import console, stdout


@command(PANEL)
def encode(
    texts: Annotated[Path, typer.Argument(help="JSON lines, CSV or Parquet with a column text.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .parquet or .npy file.")],
    model: Annotated[str, typer.Option(help="A model folder, or a name on the hub.")],
    query: Annotated[
        bool, typer.Option("--query", help="Use the prompt of queries, not of passages.")
    ] = False,
    width: Annotated[int | None, typer.Option(min=1, help="A Matryoshka width.")] = None,
) -> None:
    """Write the embeddings of a file of texts, for any database."""
    from conan_embed.tuning.encoding import encode_file_with

    count = encode_file_with(model, texts, output, query=query, width=width)
    console.print(f"{count:,} embeddings: {output}")


@command(PANEL)
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


@command(PANEL)
def merge(
    first: Annotated[str, typer.Argument(help="A model folder, or a name on the hub.")],
    second: Annotated[str, typer.Argument(help="Another of the same shape, usually its base.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Weight of the first model.")] = 0.5,
) -> None:
    """Interpolate the weights of two models: most of what the first learned, more of what the second kept."""
    from conan_embed.tuning.merge import merge_models

    console.print(f"merged: {merge_models(first, second, output, share=share)}")


@command(PANEL)
def push(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    repository: Annotated[str, typer.Argument(help="Owner and name on the Hugging Face hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="A new repository is public, not private.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Upload; without this, only print what would be.")
    ] = False,
) -> None:
    """Share a model on the Hugging Face hub. Prints what would be uploaded; `--yes` uploads it."""
    from conan_embed.export import push as hub

    stdout.print(str(hub.plan_push(model, repository, private=not public)), markup=False)
    if yes:
        stdout.print(hub.push(model, repository, private=not public))
    else:
        stdout.print("Nothing was uploaded; --yes uploads it.")
