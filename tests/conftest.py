"""Fixtures for all tests."""

from collections.abc import Callable

import pytest
from tiny_models import make_tiny_model

from conan_embed.encoder.model import EmbeddingModel

TinyModel = Callable[..., EmbeddingModel]


@pytest.fixture(scope="session")
def tiny_model() -> TinyModel:
    """A function that makes a small random `EmbeddingModel` of a family; see `make_tiny_model`."""
    return make_tiny_model
