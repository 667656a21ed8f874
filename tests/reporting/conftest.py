"""Two runs and the output of a filter to report on, written once: they are only read, or copied before they are broken.

The first run was trained on what the filter kept.
"""

from pathlib import Path

import pytest

from tests.support.fake_filter import write_filter
from tests.support.fake_run import write_run


@pytest.fixture(scope="session")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_filter(tmp_path_factory.mktemp("filters") / "干净")


@pytest.fixture(scope="session")
def dynamic(filtered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "dynamic"
    return write_run(path, data=str(filtered / "kept" / "*.parquet"))


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "static", dynamic=False, seed=1, gain=0.5)
