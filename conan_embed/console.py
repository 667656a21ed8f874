"""One place for what a person sees while something runs: rich tables, progress bars, plain lines in a log file."""

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
Item = TypeVar("Item")


def progress_bar(*, transient: bool = False) -> Progress:
    """Return a rich progress display (a context manager); it draws nothing where stderr is not a terminal."""
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )


def tracked(items: Iterable[Item], description: str, *, total: int | None = None) -> Iterator[Item]:
    """Yield the items of `items` under a progress bar of that description."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar() as progress:
        task = progress.add_task(description, total=total, note="")
        for item in items:
            yield item
            progress.advance(task)
