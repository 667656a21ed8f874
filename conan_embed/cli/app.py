"""The application, and what its commands share: how they are registered, arguments, several processes."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

import conan_embed

Command = TypeVar("Command", bound=Callable[..., None])
Result = TypeVar("Result")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Train text-embedding models whose negatives stay hard.

    **Your documents:** `conan-embed tune docs/ --model intfloat/multilingual-e5-small`: a better search, and the proof.

    **New here?** `conan-embed quickstart` is that command on Python documentation of this machine.

    **Recipes:** `conan-embed recipe small > my.yaml`, fill in your files, then `conan-embed train my.yaml`.

    Any setting of a recipe can be given on the command line: `conan-embed train my.yaml optimizer.learning_rate=2e-5`.
    """,
)


def _print_versions(asked: bool) -> None:
    """Print what a report of a fault should name; the libraries are not imported."""
    if not asked:
        return
    from importlib.metadata import version
    from platform import python_version

    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    typer.echo(f"conan-embed {conan_embed.__version__} (Python {python_version()}, {libraries})")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_versions,
            help="Print the versions of conan-embed, Python, torch and transformers, and exit.",
        ),
    ] = False,
) -> None:
    """Options of the application itself."""


RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a built-in recipe.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that override the recipe's.")
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Folders and files: Markdown, HTML, reST, text, PDF, Word, tables of texts or pairs; "
        "python:NAME for the docstrings of an installed package.",
    ),
]
QuestionsFrom = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Let a language model ask questions, too: an OpenAI-compatible endpoint such as "
        "http://localhost:8000/v1. A key is read from OPENAI_API_KEY.",
    ),
]
LanguageModelName = Annotated[str | None, typer.Option("--llm", help="The language model's name there.")]
LanguageModelTokens = Annotated[
    int, typer.Option(min=1, help="Most tokens to spend; only as many passages are asked about.")
]
Resume = Annotated[bool, typer.Option(help="Continue an interrupted run, if there is one.")]


def command(panel: str, name: str | None = None) -> Callable[[Command], Command]:
    """Make a function a command; `~` in its paths is the home directory, even where no shell has expanded it.

    Args:
        panel: the heading under which `--help` lists it.
        name: by default the function's.
    """

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            function(**{key: _expand_home(value) for key, value in arguments.items()})

        app.command(name, rich_help_panel=panel)(run)
        return function

    return register


def _expand_home(value: Any) -> Any:
    if isinstance(value, list):
        return [_expand_home(each) for each in value]
    return value.expanduser() if isinstance(value, Path) else value


def run_in_group(work: Callable[[], Result]) -> Result | None:
    """Do `work` in all processes that torchrun started; return its result on the main one, None on the others.

    The group is joined first of all, so that a mistake in the recipe is reported once, not by every process.
    """
    from conan_embed.distributed import collectives

    collectives.start()
    result = work()
    is_main = collectives.is_main_process()
    collectives.stop()
    return result if is_main else None
