"""experiments/gpu.sh: pieces in order, each once, with arms that the scripts know; it ends in time and resumes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("STATUS", "0")))
"""


@pytest.fixture
def run_script(tmp_path):
    """Run the script with a Python that only notes its arguments; return the exit status and the calls."""
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    calls = tmp_path / "calls"

    def run(**environment: str) -> tuple[int, list[list[str]]]:
        calls.write_text("")
        environment = {"PYTHON": str(tmp_path / "python"), "CALLS": str(calls), **environment}
        command = ["sh", "experiments/gpu.sh", "base", "data", str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
        return done.returncode, [json.loads(line) for line in calls.read_text().splitlines()]

    return run


def test_every_piece_runs_once(run_script):
    status, calls = run_script()
    assert status == 0
    scripts = [Path(call[0]).parent.name for call in calls if call[0].endswith("run.py")]
    assert scripts == ["hard-negatives"] * 3 + ["small-model"] * 2
    assert [("--look" in call) for call in calls if "small-model/run.py" in call[0]] == [True, False]
    assert run_script() == (0, [])


def test_arms_and_scopes_are_those_of_the_experiment(run_script, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments/hard-negatives"))
    import run

    _, calls = run_script(ONLY="hard-negatives")
    scopes = []
    for call in calls:
        arms = call[call.index("--arms") + 1 : call.index("--seeds")]
        assert set(arms) <= set(run.ARMS)
        assert call[call.index("--against") + 1] in arms
        scopes.append(call[call.index("--scope") + 1])
        assert call[call.index("--layers") + 1] == "12"
    assert set(scopes) == set(run.SCOPES)


def test_no_piece_starts_without_time_and_a_failure_ends_the_script(run_script):
    assert run_script(MINUTES="0") == (75, [])
    status, calls = run_script(STATUS="3")
    assert status == 1
    assert len(calls) == 1
    _, again = run_script(ONLY="hard-negatives")
    assert again[0] == calls[0]
    assert len(again) == 3
