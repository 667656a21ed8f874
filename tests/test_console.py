"""What is printed is text: no part of a user's names, paths or texts is read as mark-up, or lost by wrapping."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from conan_embed import console as module
from conan_embed.console import progress_bar, tracked

TEXTS = ["/data/[v2] run/model", "label [/INST]", "[bold]no[/bold]", "[/x]", "an :smile: here", "\\[escaped]"]


@pytest.mark.parametrize("name", ["console", "stdout"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_is_printed_as_it_is(name, text):
    console: Console = getattr(module, name)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    with console.capture() as capture:
        console.print(f"report: {text}")
        console.print(table)
        console.rule(text)
    assert capture.get().count(text) == 5


def test_a_long_path_stays_on_one_line():
    path = "/a/" + "long folder/" * 30
    with module.console.capture() as capture:
        module.console.print(f"model: {path}")
    assert capture.get() == f"model: {path}\n"


@pytest.mark.parametrize("text", TEXTS)
def test_progress_shows_descriptions_as_they_are(monkeypatch, text):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    monkeypatch.setattr(module, "console", terminal)
    assert list(tracked([1, 2], f"Reading {text}")) == [1, 2]
    with progress_bar() as bar:
        bar.add_task("arms", total=1, note=text)
    assert f"Reading {text}" in terminal.file.getvalue()
    assert terminal.file.getvalue().count(text) >= 2
