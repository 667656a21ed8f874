"""`ce.tune`: the arguments of the command, in Python."""

from pathlib import Path
from typing import Any

import pytest

import conan_embed as ce
from conan_embed.documents.generated import QuestionSettings
from conan_embed.documents.language_model import Endpoint
from conan_embed.tuning.tune import TuneSettings


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `tuning.tune` is called with, instead of calling it."""
    calls: list[Any] = []

    def record(sources: Any, output: Any, settings: TuneSettings, *, resume: bool) -> str:
        calls.append((sources, output, settings, resume))
        return "result"

    monkeypatch.setattr("conan_embed.tuning.tune.tune", record)
    return calls


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("docs", ["docs"]),
        (Path("docs"), [Path("docs")]),
        (["docs", Path("faq.csv")], ["docs", Path("faq.csv")]),
        (("python:rich",), ["python:rich"]),
    ],
)
def test_one_source_or_several(called: list[Any], sources: Any, expected: list[Any]) -> None:
    assert ce.tune(sources, model="base") == "result"
    assert called[0][0] == expected


def test_defaults_are_those_of_the_engine_and_the_command(called: list[Any]) -> None:
    ce.tune("docs", model=Path("base"))
    [(_, output, settings, resume)] = called
    assert (output, resume) == ("runs/tune", True)
    assert settings == TuneSettings("base")


def test_every_argument_arrives(called: list[Any]) -> None:
    given = {"minutes": 3.0, "hold_out": 0.2, "seed": 7, "workers": 2}
    asked = {"questions_from": "http://localhost:8000/v1", "llm": "qwen", "llm_tokens": 10_000}
    ce.tune(
        "docs", model="m", output="out", other="others", overrides=["a.b=1"], resume=False, **asked, **given
    )
    [(_, output, settings, resume)] = called
    assert (output, resume) == ("out", False)
    questions = QuestionSettings(Endpoint("http://localhost:8000/v1", "qwen"), max_tokens=10_000)
    assert settings == TuneSettings(
        "m", other=Path("others"), overrides=("a.b=1",), questions=questions, **given
    )


def test_a_mistake_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ce.UserError, match="nowhere"):
        ce.tune(tmp_path / "nowhere", model=tmp_path / "nowhere", output=tmp_path / "out")
