"""`python -m conan_embed` is the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

import conan_embed


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--help"], 0, "quickstart"),
        (["no-such-command"], 2, "No such command"),
        (["train", "没有.yaml"], 2, "没有.yaml: no such recipe;"),
    ],
)
def test_it_ends_with_the_status_and_the_words_of_the_command(tmp_path, arguments, status, words):
    environment = {"PYTHONPATH": str(Path(conan_embed.__file__).parents[1]), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "conan_embed", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
