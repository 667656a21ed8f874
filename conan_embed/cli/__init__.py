"""The command line: one function a command, no logic of its own; a file for each group of commands.

Heavy imports stand inside the commands, so that `--help` answers at once.
"""

from conan_embed.cli import training, data, evaluation, models, experiments  # isort: skip  (the order of --help)
from conan_embed.cli.app import app
from conan_embed.cli.entry import main

__all__ = ["app", "data", "evaluation", "experiments", "main", "models", "training"]
