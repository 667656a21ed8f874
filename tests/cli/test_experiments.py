"""Commands that compare settings: what is typed reaches the function that does the work."""

from pathlib import Path

import pytest
from rich.table import Table


@pytest.fixture(autouse=True)
def no_table(monkeypatch):
    monkeypatch.setattr("conan_embed.ablation.tables.table", lambda comparison: Table(title=comparison))


def test_ablate(calls_of):
    call = calls_of(
        "conan_embed.ablation.experiment.ablate", "compared",
        *("ablate", "small", "step.queries=8", "--seeds", "3,4", "--equal", "updates", "--jobs", "2"),
    )  # fmt: skip
    expected = {"seeds": [3, 4], "equal": "updates", "output": None, "against": None, "jobs": 2}
    assert call == (("small", ["step.queries=8"]), expected)


def test_sweep(calls_of):
    call = calls_of(
        "conan_embed.ablation.experiment.sweep", "compared",
        *("sweep", "small", "loss.beta=0,1", "--one-at-a-time", "--against", "beta=0", "-o", "arms"),
    )  # fmt: skip
    expected = {
        "seeds": [0, 1, 2],
        "output": Path("arms"),
        "one_at_a_time": True,
        "against": "beta=0",
        "jobs": 1,
    }
    assert call == (("small", ["loss.beta=0,1"]), expected)
