"""The notebook runs from start to end, in under two minutes, and is committed without output."""

import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "your_own_data.ipynb"
SECONDS = 120


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
    check = (
        "row = ce.compare_scores(before, after).row(0, named=True); print(row); assert row['low'] > 0, row"
    )
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    started = time.perf_counter()
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    print(notebook.cells[-1].outputs)
    assert time.perf_counter() - started < SECONDS
    assert (tmp_path / "runs" / "docs" / "report.html").exists()
