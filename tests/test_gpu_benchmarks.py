"""benchmarks/gpu*.py without a GPU: time limits, order, what is kept, and that peers are treated fairly."""

import argparse
import json
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from benchmarks import gpu, gpu_parts, gpu_peers
from benchmarks.gpu_resume import first_difference


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_part_that_is_stopped_leaves_no_process_behind(tmp_path):
    command = ["sh", "-c", f"sleep 300 & echo $! > {tmp_path}/pid; echo '{{}}'; wait"]
    failure = gpu.run_limited(command, tmp_path / "out", tmp_path / "log", limit=1.0)
    assert "stopped after 1 s" in failure
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
    assert gpu.read_results(tmp_path / "out") == [{}]


def test_a_part_that_fails_says_so_with_its_last_line(tmp_path):
    code = "import sys; print('{\"name\": \"first\"}'); print('{\"na', end=''); sys.exit('no such card')"
    failure = gpu.run_limited([sys.executable, "-c", code], tmp_path / "out", tmp_path / "log", limit=60)
    assert failure == "no such card"
    assert gpu.read_results(tmp_path / "out") == [{"name": "first"}]  # not the line that was cut off


def test_the_limits_fit_the_time_that_docs_gpu_md_gives_them():
    limits = [part.limit for part in gpu.PARTS]
    assert sum(limits[:3]) <= 330 - 40  # the first call: unpacking, imports and the table take the rest
    assert sum(limits[:7]) <= 9 * 60 - 10


def test_every_part_exists_and_the_ceilings_come_before_what_is_compared_with_them():
    assert {part.name for part in gpu.PARTS} == set(gpu_parts.PARTS)
    assert gpu.BESIDE_CEILING.issubset(gpu_parts.PARTS)
    assert [str(part) for part in gpu.choose(["loss", "train:minilm"], small=False)] == [
        "ceilings",
        "loss",
        "train minilm",
    ]
    assert [str(part) for part in gpu.choose(["resume"], small=False)] == ["resume"]
    assert [str(part) for part in gpu.choose(["train"], small=True)] == ["ceilings", "train tiny"]
    with pytest.raises(SystemExit, match="no such part"):
        gpu.choose(["training"], small=False)


def test_resuming_keeps_finished_parts_and_runs_the_others(tmp_path, monkeypatch):
    def run(command, output, log, limit):
        part = command[3]
        output.write_text(json.dumps({"name": part, "value": 1 if part in ran else 0}) + "\n")
        ran.append(part)
        return "stopped after 3 s" if part == "loss" and ran.count(part) == 1 else ""

    ran = []
    monkeypatch.setattr(gpu, "run_limited", run)
    arguments = argparse.Namespace(
        folder=tmp_path, device="cuda", small=False, only=["resume", "loss"], resume=True
    )

    def run_for_28_seconds():  # less than the limit of either
        return gpu.run_parts(arguments, time.monotonic() + 28)

    first = run_for_28_seconds()
    assert [result.get("again") for result in first] == [None, None, None, True]
    second = run_for_28_seconds()
    assert ran == ["ceilings", "resume", "loss", "loss"]
    assert second == [*first[:2], {"name": "loss", "value": 1}]
    written = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == second
    arguments.resume = False
    run_for_28_seconds()
    assert ran[4:] == ["ceilings", "resume", "loss"]


def test_parts_without_time_are_named(tmp_path):
    arguments = argparse.Namespace(folder=tmp_path, device="cuda", small=False, only=["train"], resume=False)
    results = gpu.run_parts(arguments, time.monotonic() + 5)
    assert {result["skipped"] for result in results} == {"no time left"}
    assert "skipped: no time left" in gpu.table(results)[-1]


def test_the_table_compares_with_the_ceiling_and_with_the_peer():
    ours = {"name": "ours", "who": "ours", "size": "s", "queries": 64, "tokens_per_second": 900.0}
    theirs = ours | {"name": "theirs", "who": "sdpa", "tokens_per_second": 300.0, "note": "cached loss"}
    ceiling = {"name": "product", "key": "ceiling", "value": 800.0}
    lines = gpu.table([ceiling, ours | {"tflops": 400.0}, theirs])
    assert "50%" in lines[3]
    assert "3.0x padded sentence-transformers" in lines[3]
    assert lines[4].endswith("cached loss |")


# ------------------------------------------------------------------------------------------------------- peers


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)
        self.dtypes = []

    def forward(self, features):
        found = self.layer(features["x"])
        self.dtypes.append(found.dtype)
        return {"x": found, "mask": features["mask"]}


def test_a_peer_embeds_in_bfloat16_also_from_a_hook_of_the_backward_pass():
    model = Encoder()
    gpu_peers.forward_in_bfloat16(model, torch.device("cpu"))
    features = {"x": torch.randn(2, 8), "mask": torch.ones(2, dtype=torch.int64)}
    loss = model(features)["x"].sum().detach().requires_grad_()

    def again(_):
        with torch.enable_grad():
            model(features)["x"].sum().backward()

    loss.register_hook(again)
    loss.backward()
    assert model.dtypes == [torch.bfloat16] * 2
    found = model(features)
    assert found["x"].dtype == torch.float32
    assert found["mask"].dtype == torch.int64
    assert model.layer.weight.grad is not None


@pytest.fixture
def said(monkeypatch):
    rows = []
    monkeypatch.setattr(gpu_peers, "say", lambda **facts: rows.append(facts))
    return rows


def test_a_peer_without_memory_for_the_plain_loss_gets_the_cached_one_and_the_row_says_so(said, monkeypatch):
    def steps(bench, peer, loss, queries):
        tried.append((loss, queries))
        if loss == "plain":
            raise torch.OutOfMemoryError("as on a small card")
        return gpu_peers.Steps(min(queries, 256), [1.0, 1.0], [np.array([3, 5])] * 2)

    tried = []
    monkeypatch.setattr(gpu_peers, "_steps", steps)
    weight = torch.nn.Parameter(torch.zeros(1))
    peer = gpu_peers.Peer(None, torch.optim.SGD([weight], lr=1.0), [], "sdpa")
    bench = argparse.Namespace(few=64, many=1024, argument="tiny", peak_gb=lambda: None)
    for queries in (bench.few, bench.many):
        gpu_peers.measure(bench, peer, queries)
    assert tried == [("plain", 64), ("cached", 64), ("cached", 1024)]
    few, many = said
    assert few["note"] == "cached loss, mini-batches of 64 (the plain one is out of memory)"
    assert many["note"] == "cached loss, mini-batches of 64; measured on 256 rows a step"
    assert few["tokens_per_second"] == 8.0


# ------------------------------------------------------------------------------------------------------- resume


def test_the_first_difference_between_two_runs_is_found_with_its_figures():
    one = {step: {"step": step, "loss/retrieval": 1.0, "gradient_norm": 2.0} for step in (1, 2, 3)}
    assert first_difference(one, one) == (None, [])
    assert first_difference(one, one | {2: one[2] | {"gradient_norm": 2.1}}) == (2, ["gradient_norm"])
    step, figures = first_difference(one, {1: one[1], 2: one[2]})
    assert (step, figures) == (3, ["loss/retrieval", "gradient_norm"])
