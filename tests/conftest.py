"""Fixtures and settings of all tests."""

from collections.abc import Callable

import pytest
from hypothesis import settings

from conan_embed.encoder.model import EmbeddingModel
from tests.tiny_models import make_tiny_model

# Machines differ in speed, and so does one machine from moment to moment.
settings.register_profile("conan-embed", deadline=None)
settings.load_profile("conan-embed")


LONG = {"stories", "ablation", "tuning", "cli", "clients"}  # folders with files of half a minute and more


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files and long ones first, so that no process is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: (item.path not in slow, LONG.isdisjoint(item.path.parts)))


TinyModel = Callable[..., EmbeddingModel]


@pytest.fixture(scope="session")
def tiny_model() -> TinyModel:
    """A function that makes a small random `EmbeddingModel` of a family; see `make_tiny_model`."""
    return make_tiny_model
