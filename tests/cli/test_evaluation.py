"""Commands that judge a model: what is typed reaches the function that does the work, and scores are printed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from conan_embed.cli import app
from conan_embed.errors import UserError
from conan_embed.evaluation.results import EvaluationResult, TaskResult


def test_evaluate(calls_of):
    result = EvaluationResult("m", 8, {}, {"sts/A": TaskResult(0.5, "spearman", {"spearman": 0.5})})
    typed = [
        "evaluate",
        "m",
        "sets",
        "--task",
        "sts",
        "--task",
        "AFQMC",
        "--width",
        "8,16",
        "--vectors",
        "int8",
        "--instructions",
        "--precision",
        "float32",
    ]
    positional, named = calls_of("conan_embed.evaluation.command.evaluate_as_asked", result, *typed)
    assert positional == ("m", Path("sets"))
    assert named == {
        **{
            "tasks": ["sts", "AFQMC"],
            "widths": ["8,16"],
            "vectors": ["int8"],
            "instructions": True,
            "precision": "float32",
        },
        **{"benchmark": None, "local": None, "output": None},
    }


def test_what_could_not_be_evaluated_is_a_failure(monkeypatch):
    result = EvaluationResult(
        "m", 8, {}, {"STS/B": TaskResult(0.5, "spearman", {"spearman": 0.5})}, missing=["AFQMC"]
    )
    monkeypatch.setattr("conan_embed.evaluation.command.evaluate_as_asked", lambda *_, **__: result)
    with pytest.raises(UserError, match="not evaluated: AFQMC; run the same command"):
        CliRunner().invoke(app, ["evaluate", "m", "--task", "AFQMC"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baseline", "nowhere.json"], "nowhere.json: no such file"),
        (["--baseline", "other.json"], "other.json: found no results of an evaluation"),
        (["--update-card"], "org/name: has no card to update"),
    ],
)
def test_a_mistake_shows_before_anything_is_encoded(options, message, tmp_path, monkeypatch):
    def evaluate(*_, **__):
        raise AssertionError("evaluated")

    monkeypatch.setattr("conan_embed.evaluation.command.evaluate_as_asked", evaluate)
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(app, ["evaluate", "org/name", "sets", *options], catch_exceptions=False)
