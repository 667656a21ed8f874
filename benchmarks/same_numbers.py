"""Fixed small runs whose losses and parameters a change must leave bit for bit as they are.

A refactoring is proved by equal numbers. Run this before and after it, on one machine, and compare:

    git worktree add ../before main
    python -m benchmarks.same_numbers before.json --tree ../before
    python -m benchmarks.same_numbers after.json --compare before.json

Each case trains the bundled MiniLM for a dozen steps on made-up texts, through the command line of the tree. Numbers
differ between machines (matrix products are summed in another order), so the file is worth nothing elsewhere.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.numpy import load_file

from conan_embed.quickstart.run import bundled_model

STEPS = 12
WORDS = [
    "train",
    "model",
    "query",
    "passage",
    "answer",
    "vector",
    "index",
    "search",
    "rank",
    "score",
    "batch",
    "token",
    "layer",
    "weight",
    "loss",
    "step",
    "文本",
    "向量",
    "检索",
    "模型",
    "训练",
    "问题",
    "答案",
    "排序",
    "分数",
    "段落",
    "library",
    "system",
    "error",
    "file",
    "read",
    "write",
    "open",
    "close",
    "memory",
    "disk",
    "cache",
    "thread",
    "process",
]

# Settings of each case, on top of `common`; the number of processes last.
CASES: dict[str, tuple[list[str], int]] = {
    "joint": (["hard_negatives.source=ranking"], 1),
    "sequential": (["hard_negatives.source=ranking", "step.mixing=sequential"], 1),
    "bank": (["hard_negatives.source=bank", "hard_negatives.refresh=8"], 1),
    "remine": (["hard_negatives.source=remine"], 1),
    "step-wide, random negatives": (["step.in_batch=step", "data.retrieval.0.negative_source=random"], 1),
    "own negatives only": (
        ["step.in_batch=none", "mining.max_positive_ratio=0.98", "mining.subtract_background=true"],
        1,
    ),
    "two processes": (["hard_negatives.source=ranking"], 2),
    "two processes, bank, ZeRO": (["hard_negatives.source=bank", "training.sharding=optimizer"], 2),
}
STREAMED = [
    "step.num_negatives=0",
    "step.sts_pairs=0",
    "data.retrieval.0.limit=null",
    "data.sts=[]",
    "data.classification=[]",
    "data.stream=true",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, help="JSON to write")
    parser.add_argument("--tree", type=Path, default=Path("."), help="the checkout whose code runs")
    parser.add_argument(
        "--compare", type=Path, help="JSON of another tree; exit status 1 where a number differs"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run_all(arguments.tree.resolve(), Path(folder))
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.compare is None:
        return
    before = json.loads(arguments.compare.read_text(encoding="utf-8"))
    differing = [case for case in before if before[case] != results.get(case)]
    for case in before:
        print(f"{'DIFFERS' if case in differing else 'equal':8} {case}")
    sys.exit(1 if differing else 0)


def run_all(tree: Path, folder: Path) -> dict[str, Any]:
    write_data(folder)
    results = {}
    for case, (settings, processes) in CASES.items():
        results[case] = run(tree, folder, case, settings, processes)
        print(case, results[case]["losses"][-1], flush=True)
    results["streamed"] = run(tree, folder, "streamed", STREAMED, 1)
    return results


def write_data(folder: Path) -> None:
    """Write queries with answers, graded pairs and classes, of which the words say what belongs together."""
    draw = random.Random(0)

    def sentence(topic: int, length: int) -> str:
        return " ".join([WORDS[topic % len(WORDS)], f"t{topic}", *draw.choices(WORDS, k=length)])

    topics = range(160)
    pl.DataFrame(
        {
            "query": [sentence(topic, draw.randint(2, 8)) for topic in topics],
            "positive": [[sentence(topic, draw.randint(8, 60))] for topic in topics],
        }
    ).write_parquet(folder / "pairs.parquet")
    pl.DataFrame(
        {
            "text_a": [sentence(topic, 5) for topic in topics],
            "text_b": [sentence(topic if topic % 2 else topic + 1, 5) for topic in topics],
            "score": [float(topic % 2) for topic in topics],
        }
    ).write_parquet(folder / "graded.parquet")
    pl.DataFrame(
        {"text": [sentence(topic % 8, 6) for topic in topics], "label": [str(topic % 8) for topic in topics]}
    ).write_parquet(folder / "classes.parquet")


def run(tree: Path, folder: Path, case: str, settings: list[str], processes: int) -> dict[str, Any]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
model: {{base: {bundled_model()}, widths: [384, 128], max_length: 64}}
data:
  retrieval: [{{name: pairs, path: {folder / "pairs.parquet"}, limit: 32}}]
  classification: [{{name: classes, path: {folder / "classes.parquet"}, limit: 32}}]
  sts: [{{name: graded, path: {folder / "graded.parquet"}}}]
step: {{queries: 16, num_negatives: 3, sts_pairs: 8, too_few_negatives: allow}}
mining: {{offset: 2, depth: 40}}
hard_negatives: {{interval: 4, decay: 0.9, max_score: 2.0}}
optimizer: {{learning_rate: 3e-5}}
training: {{steps: {STEPS}, checkpoint_every: 0}}
tracking: {{tensorboard: false}}
""",
        encoding="utf-8",
    )
    output = folder / case.replace(" ", "-").replace(",", "")
    start = ["-m", "conan_embed"]
    if processes > 1:
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *start]
    subprocess.run(
        [
            *(sys.executable, *start, "train", str(recipe)),
            *(*settings, f"output={output}", f"cache={folder / 'cache'}"),
        ],
        check=True,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    checks = output / "negatives.jsonl"
    replaced = [json.loads(line)["replaced"] for line in checks.read_text(encoding="utf-8").splitlines()]
    return {
        "losses": [line["loss"].hex() for line in lines],
        "replaced": replaced,
        "parameters": hash_of_parameters(output / "model"),
    }


def hash_of_parameters(model: Path) -> str:
    """Return a hash of all tensors of a model folder that are trained, by name (BERT's pooler is not)."""
    hashed = hashlib.sha256()
    for file in sorted(model.rglob("*.safetensors")):
        tensors = load_file(file)
        for name in sorted(name for name in tensors if "pooler" not in name):
            hashed.update(name.encode() + tensors[name].tobytes())
    return hashed.hexdigest()


if __name__ == "__main__":
    main()
