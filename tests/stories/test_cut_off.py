"""Two and three nodes as network namespaces on one machine: torchrun over a switch, and a node that is cut off.

The switch is a namespace that forwards between one cable (a veth pair) to each node.

Needs the right to make network namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN), else skipped.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conan_embed.files import read_json_lines
from conan_embed.recipes.loading import load_recipe
from conan_embed.training.run import train
from tests.support.many_processes import start_world
from tests.tiny_models import SENTENCES, make_tiny_model

ROOT = Path(__file__).parents[2]
STEPS = 150
TIMEOUT = 8  # seconds
GOES_ON = "The same command goes on from the newest checkpoint."


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


def _may_make_namespaces():
    if shutil.which("ip") is None:
        return False
    name = f"ce-try-{os.getpid()}"
    made = ip("netns", "add", name, check=False).returncode == 0
    cable = ("link", "add", "name", "cable0", "type", "veth", "peer", "name", "cable1")
    linked = made and ip("-n", name, *cable, check=False).returncode == 0
    if made:
        ip("netns", "del", name)
    return linked


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not _may_make_namespaces(), reason="needs `ip` and the right to make network namespaces"
    ),
]


class Cluster:
    """Nodes 0, 1, ... with the addresses 10.77.0.2, 10.77.1.2, ..., each on a cable of its own to the switch."""

    def __init__(self, size, folder):
        self.folder, self.size = folder, size
        self.switch = f"ce{os.getpid()}-s"
        self.nodes = [f"ce{os.getpid()}-{number}" for number in range(size)]
        for name in (self.switch, *self.nodes):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        ip("netns", "exec", self.switch, "sh", "-c", forward)
        for number, node in enumerate(self.nodes):
            port = f"port{number}"
            ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", node)
            ip("-n", self.switch, "addr", "add", f"10.77.{number}.1/24", "dev", port)
            ip("-n", self.switch, "link", "set", port, "up")
            ip("-n", node, "addr", "add", f"10.77.{number}.2/24", "dev", "eth0")
            ip("-n", node, "link", "set", "eth0", "up")
            # No way out: a question for a host name fails at once.
            ip("-n", node, "route", "add", "10.77.0.0/16", "via", f"10.77.{number}.1")
        self.running = []

    def cable(self, node, state):
        ip("-n", self.switch, "link", "set", f"port{node}", state)

    def start(self, output, *, restarts=0, settings=()):
        """Start torchrun on every node."""
        self.running = []
        for number, node in enumerate(self.nodes):
            command = ["ip", "netns", "exec", node, sys.executable, "-m", "torch.distributed.run"]
            command += [f"--nnodes={self.size}", "--nproc-per-node=1", f"--max-restarts={restarts}"]
            command += ["--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.2:29400", "--rdzv-id=test"]
            # A host name says nothing inside a namespace: we say who holds the store.
            command += [
                f"--rdzv-conf=is_host={number == 0},join_timeout=60",
                f"--local-addr=10.77.{number}.2",
            ]
            command += ["-m", "conan_embed", "train", str(self.folder / "recipe.json"), f"output={output}"]
            command += [f"cache={self.folder / f'cache{number}'}", *settings]  # a disk of its own
            environment = os.environ | {
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "eth0",
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "1000",
            }
            log = (output.parent / f"{output.name}-{number}.log").open("a")
            self.running.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
                )
            )

    def wait(self, seconds):
        """Return the exit codes; None for a node that did not end in time."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and any(process.poll() is None for process in self.running):
            time.sleep(0.1)
        return [process.poll() for process in self.running]

    def wait_for_step(self, output, step):
        limit = time.monotonic() + 120
        while len(read_json_lines(output / "metrics.jsonl")) < step:
            assert time.monotonic() < limit, self.said(output)
            assert all(process.poll() is None for process in self.running), self.said(output)
            time.sleep(0.02)

    def wait_for_word(self, output, word, seconds, cut_off):
        """Wait until `word` was said on the node that is cut off and on one of the others."""
        limit = time.monotonic() + seconds

        def was_said():
            nodes = [word in said for said in self.said(output)]
            return nodes.pop(cut_off) and any(nodes)

        while not was_said():
            assert time.monotonic() < limit, self.said(output)
            time.sleep(0.1)

    def said(self, output):
        logs = [output.parent / f"{output.name}-{number}.log" for number in range(self.size)]
        return [re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()) for log in logs]

    def close(self):
        for process in self.running:
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in (*self.nodes, self.switch):
            ip("netns", "del", name, check=False)


@pytest.fixture
def cluster(tmp_path):
    """A function that makes a cluster of so many nodes with a recipe of a tiny run."""
    made = []
    make_tiny_model("bert", dense_width=12).save(tmp_path / "model")
    words = [text[start : start + 6] for text in SENTENCES for start in range(0, len(text), 3)]
    pairs = [{"query": f"{a} {b}", "positive": b} for a, b in zip(words, words[5:], strict=False)]
    sts = [
        {"text_a": a, "text_b": b, "score": i % 4}
        for i, (a, b) in enumerate(zip(words, words[3:], strict=False))
    ]
    for name, rows in (("pairs", pairs), ("sts", sts)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    recipe = {
        "model": {"base": str(tmp_path / "model")},
        "data": {
            "retrieval": [
                {"name": "pairs", "path": str(tmp_path / "pairs.jsonl"), "negative_source": "random"}
            ],
            "sts": [{"name": "sts", "path": str(tmp_path / "sts.jsonl")}],
        },
        "step": {"queries": 4, "num_negatives": 2, "sts_pairs": 4},
        "training": {
            "steps": STEPS,
            "checkpoint_every": 10,
            "precision": "float32",
            "timeout": TIMEOUT / 60,
        },
        "tracking": {"tensorboard": False},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))  # JSON is YAML

    def make(size):
        made.append(Cluster(size, tmp_path))
        return made[0]

    yield make
    for each in made:
        each.close()


def parameters(run):
    return {str(path.relative_to(run)): load_file(path) for path in (run / "model").rglob("*.safetensors")}


def assert_same_parameters(one, two):
    first, second = parameters(one), parameters(two)
    assert first.keys() == second.keys()
    for path, tensors in first.items():
        assert all(torch.equal(second[path][name], tensor) for name, tensor in tensors.items()), path


def go_on(recipe, folder, output):
    """Train, as one of several processes without a cluster."""
    settings = load_recipe(recipe).model_copy(update={"output": str(output), "cache": str(folder / "cache0")})
    train(settings)


def assert_as_undisturbed(nodes, run, folder):
    undisturbed = folder / "undisturbed"
    arguments = (folder / "recipe.json", folder, undisturbed)
    assert start_world(nodes.size, go_on, *arguments) == [0] * nodes.size
    steps = [line["step"] for line in read_json_lines(run / "metrics.jsonl")]
    assert steps == list(range(1, STEPS + 1))
    assert_same_parameters(run, undisturbed)


def test_a_node_that_is_cut_off_ends_the_run_and_nothing_is_lost(cluster, tmp_path):
    nodes, run = cluster(2), tmp_path / "run"
    nodes.start(run)
    nodes.wait_for_step(run, 25)
    nodes.cable(1, "down")
    nodes.wait_for_word(run, GOES_ON, TIMEOUT + 20, cut_off=1)
    nodes.cable(1, "up")
    assert not {None, 0} & set(nodes.wait(60)), nodes.said(run)
    assert start_world(2, go_on, tmp_path / "recipe.json", tmp_path, run) == [0, 0]
    assert_as_undisturbed(nodes, run, tmp_path)


def test_with_restarts_the_run_goes_on_when_the_node_is_back(cluster, tmp_path):
    nodes, run = cluster(3), tmp_path / "run"
    nodes.start(run, restarts=2)
    nodes.wait_for_step(run, 10)
    nodes.cable(1, "down")  # so short that nobody gives up
    time.sleep(1)
    nodes.cable(1, "up")
    nodes.wait_for_step(run, 40)
    assert not any("error" in said for said in nodes.said(run))
    nodes.cable(2, "down")
    nodes.wait_for_word(run, GOES_ON, TIMEOUT + 20, cut_off=2)
    nodes.cable(2, "up")
    assert nodes.wait(120) == [0, 0, 0], nodes.said(run)
    assert any("resumed at step" in said for said in nodes.said(run))
    assert_as_undisturbed(nodes, run, tmp_path)
