"""Two runs to report on, written once: their files are only read, or copied before they are broken."""

from pathlib import Path

import pytest
from fake_run import write_run


@pytest.fixture(scope="session")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "dynamic")


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "static", dynamic=False, seed=1, gain=0.5)
