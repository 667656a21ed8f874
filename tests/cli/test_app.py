"""Help that teaches and answers at once; paths with `~`; what several processes return."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import conan_embed as ce
from conan_embed.cli import app
from conan_embed.cli.app import run_in_group
from conan_embed.distributed import collectives

COMMANDS = typer.main.get_command(app).commands


def test_help_lists_commands_by_group_and_the_first_is_for_newcomers(command, tmp_path):
    shown = command("--help", folder=tmp_path).stdout
    positions = [shown.index(f"│ {name} ") for name in COMMANDS]
    assert positions == sorted(positions)
    assert next(iter(COMMANDS)) == "quickstart"
    assert "conan-embed quickstart" in shown


def test_the_version_names_what_a_report_of_a_fault_needs():
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.output.startswith(
        f"conan-embed {ce.__version__} (Python {platform.python_version()}, torch 2"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_explained_in_a_sentence(name):
    command = COMMANDS[name]
    assert command.help[0].isupper() and command.help.splitlines()[0].endswith((".", "`."))
    for parameter in command.params:
        assert parameter.help[0].isupper() and parameter.help.endswith((".", "...", "256,512.")), (
            parameter.name
        )


def test_heavy_libraries_are_imported_by_the_commands_only():
    heavy = "import sys, conan_embed.cli; sys.exit(bool({'torch', 'numpy', 'polars', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0


def test_a_tilde_that_no_shell_expanded_is_the_home_directory(calls_of, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (folders, output), _ = calls_of(
        "conan_embed.reporting.page.report", Path("page"), "report", "~/a", "-o", "~/b"
    )
    assert (folders, output) == ([tmp_path / "a"], tmp_path / "b")


def test_the_main_process_alone_gets_the_result(monkeypatch):
    assert run_in_group(lambda: 3) == 3
    monkeypatch.setattr(collectives, "is_main_process", lambda: False)
    assert run_in_group(lambda: 3) is None
