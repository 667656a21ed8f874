"""A small model and a file of questions and answers."""

from pathlib import Path

import pytest

import conan_embed as ce
from conan_embed.encoder.model import EmbeddingModel
from tests.support.docs import bundled_model, write_faq


@pytest.fixture(scope="session")
def model() -> EmbeddingModel:
    return ce.load_model(bundled_model())


@pytest.fixture
def faq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_faq(tmp_path)
