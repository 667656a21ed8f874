"""The two places where the package prints: `console` (stderr) for messages and progress, `stdout` for results.

Names, paths and texts come from users and may hold square brackets or `:colons:`. Nothing printed here is read as
mark-up: what should be styled is a `rich.text.Text`, or takes `style=`. Lines of messages are never wrapped, so that
paths stay whole in log files.
"""

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

console = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
stdout = Console(markup=False, emoji=False, highlight=False)
Item = TypeVar("Item")


def progress_bar(*, transient: bool = False) -> Progress:
    """Return a rich progress display (a context manager); it draws nothing where stderr is not a terminal."""
    return Progress(
        TextColumn("{task.description}", style="progress.description", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
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
