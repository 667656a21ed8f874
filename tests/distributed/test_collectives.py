"""Shares of rows, and exchanges: of one process nothing changes, of several all see all rows with their gradient."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.distributed import collectives
from tests.support.many_processes import start_world


@given(st.integers(0, 1000), st.integers(1, 40))
def test_shares_are_contiguous_and_differ_by_one_row_at_most(total, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "world_size", lambda: size)
        shares = [collectives.slice_of(total, process) for process in range(size)]
    assert [row for start, stop in shares for row in range(start, stop)] == list(range(total))
    lengths = [stop - start for start, stop in shares]
    assert max(lengths) - min(lengths) <= 1


def test_a_process_without_a_group_is_alone_whatever_a_launcher_left_in_its_environment(monkeypatch):
    for name, value in (("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4"), ("GROUP_RANK", "2")):
        monkeypatch.setenv(name, value)
    assert collectives.is_local_main_process() and collectives.node_size() == 1
    assert collectives.broadcast_on_node("a") == "a"


def test_one_process_gets_its_own_values_back():
    rows = torch.ones(2, 3, requires_grad=True)
    assert collectives.all_gather_rows(rows, [2]) is rows
    assert collectives.broadcast_object({"a": 1}) == {"a": 1}
    assert collectives.all_gather_object(3) == [3]
    assert collectives.all_true(True) and not collectives.all_true(False)
    assert collectives.broadcast_on_node("folder") == "folder"
    assert collectives.is_main_process() and collectives.is_local_main_process()
    collectives.barrier()


def exchange(folder):
    """Each process has another number of rows; the loss weighs the rows of all."""
    collectives.start("cpu")
    rank, counts = collectives.rank(), [2, 0, 3]
    rows = torch.full((counts[rank], 2), float(rank + 1), requires_grad=True)
    every = collectives.all_gather_rows(rows, counts)
    weight = torch.arange(1.0, 6.0)[:, None] * (rank + 1)
    (every * weight).sum().backward()
    start, stop = collectives.rank_slice(7)
    result = {
        "rows": every.tolist(),
        "gradient": rows.grad.tolist(),
        "array": collectives.all_gather_array(np.arange(14).reshape(7, 2)[start:stop], 7).tolist(),
        "objects": collectives.all_gather_object(rank * 10),
        "broadcast": collectives.broadcast_object(rank),
        "all true": [collectives.all_true(True), collectives.all_true(rank != 1)],
    }
    (folder / f"{rank}.json").write_text(json.dumps(result))


def test_several_processes_see_the_rows_of_all(tmp_path):
    assert start_world(3, exchange, tmp_path) == [0, 0, 0]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    for result in results:
        assert result["rows"] == [[1, 1], [1, 1], [3, 3], [3, 3], [3, 3]]
        assert result["array"] == np.arange(14).reshape(7, 2).tolist()
        assert (result["objects"], result["broadcast"], result["all true"]) == ([0, 10, 20], 0, [True, False])
    # The gradient of a row is the sum over the losses of all processes: its weight times 1 + 2 + 3.
    assert results[0]["gradient"] == [[6, 6], [12, 12]]
    assert results[1]["gradient"] == []
    assert results[2]["gradient"] == [[18, 18], [24, 24], [30, 30]]
