"""The notebook runs from start to end, in under two minutes on two cores, and is committed without output."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "your_own_data.ipynb"
SECONDS, CORES = 120, 2
CHECK = """
import time
row = ce.compare_scores(before, after).row(0, named=True)
print(json.dumps(row | {"seconds": time.process_time()}))
"""


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_committed_without_output() -> None:
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs_and_training_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    notebook = read()
    notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    report = json.loads(notebook.cells[-1].outputs[0].text)
    print(report)
    assert report["low"] > 0
    assert report["seconds"] < SECONDS * CORES  # processor time: the machine may be busy
    assert (tmp_path / "runs" / "docs" / "report.html").exists()
