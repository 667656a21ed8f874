"""Which process embeds what, and what mixing tasks does to the losses (section 3 and figure 4 of the paper).

    python -m benchmarks.placement [--model FOLDER] [--data DATA] [--steps 100] [--timed 6] [--write]

Three parts, on the data laid out as in docs/data.md, else on the Python documentation of this machine:

1. Two gloo processes, one thread each: seconds a step and idle share of `balanced`, of `dedicated`, and of the usual
   mixing in which each process draws a task of its own and gradients are averaged. A process is idle while it waits
   at the gather of the embeddings, or for the gradients of the others; a barrier before each exchange measures that.
2. 8 and 64 processes, from the token counts of real steps: a process takes as long as it has tokens.
3. `mixing: joint` (Cross-GPU Batch Balance) against `sequential` (one task drawn at random a step), one process each:
   the standard deviation of the de-trended task losses. De-trended: less the centred running mean of 15 observations
   of that task. Of the training losses, and of the losses on one fixed batch of both tasks, which have no noise of
   the batch. Both see the same examples, so sequential makes twice as many steps, each of one task.

Part 3 leaves run directories: `conan-embed report RUNS/joint RUNS/sequential` draws figure 4 of the paper.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.machine import write_result
from conan_embed.distributed import collectives
from conan_embed.distributed.placement import shares
from conan_embed.files import write_json
from conan_embed.planning.plan import StepPlan
from conan_embed.planning.planner import Planner
from conan_embed.recipes.loading import load_recipe
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.store import TextStore
from conan_embed.training import loop, run, setup
from conan_embed.training.step import ReadyStep, embed_step, make_ready, step_loss
from conan_embed.training.train_module import TrainModule

RETRIEVAL = ("pretrain/qa_medical_toyhom.parquet", "pretrain/web_tidb_docs.parquet")
STS = "finetune/sts/stsb_zh_train.parquet"
ROWS = 500  # of each retrieval set: mining encodes their passages once
QUERIES, NEGATIVES, PAIRS = 8, 2, 16  # a step of part 3
COMPOSITIONS = ((8, 3, 16), (8, 3, 48), (8, 3, 96))  # queries, negatives, pairs of part 1
PAPER_SHARE, PAPER_QUERIES, PAPER_PAIRS, PAPER_NEGATIVES = 0.2, 4, 32, 7  # figure 3 and section 5: a process
WORLDS, SHARES, PLANNED = (8, 64), (0.125, 0.2, 0.3, 0.5), 40
WINDOW = 15  # observations of a running mean
PROBE_EVERY = 2  # joint steps, or twice as many sequential ones: the same examples lie between
USUAL = "one task a process"


def recipe_of(arguments: argparse.Namespace, output: str, **sections: Any) -> Recipe:
    if arguments.data is not None:
        retrieval = [{"name": Path(path).stem, "path": str(arguments.data / path)} for path in RETRIEVAL]
        sts = str(arguments.data / STS)
    else:
        from benchmarks.texts import documentation

        retrieval = [{"name": "python-docs", "path": str(documentation() / "train/retrieval.parquet")}]
        sts = str(documentation() / "train/sts.parquet")
    values: dict[str, Any] = {
        "model": {"base": arguments.model, "max_length": 64},
        "data": {
            "retrieval": [data | {"limit": ROWS} for data in retrieval],
            "sts": [{"name": "sts", "path": sts}],
        },
        "step": {"queries": QUERIES, "num_negatives": NEGATIVES, "sts_pairs": PAIRS, "in_batch": "none"},
        "mining": {"depth": 30, "offset": 5},
        "optimizer": {"learning_rate": 2e-5},
        "training": {"steps": arguments.steps, "checkpoint_every": 0},
        "tracking": {"tensorboard": False},
        "output": str(arguments.runs / output),
        "cache": str(arguments.runs / "cache"),
    }
    for name, settings in sections.items():
        values[name] |= settings
    return Recipe.model_validate(values).with_rankings(arguments.runs / "mining")


# ------------------------------------------------------------------------------------- 1: two processes, measured


class Waits:
    """Seconds that this process waits for the others before an exchange."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def measure(self) -> None:
        before = time.perf_counter()
        dist.barrier()
        self.seconds += time.perf_counter() - before


def measured(arguments: argparse.Namespace) -> list[str]:
    """Run part 1 in two processes; return a table."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(_process, (arguments, port), nprocs=2)
    found = [json.loads((arguments.runs / f"measured-{rank}.json").read_text()) for rank in range(2)]
    lines = [
        "| queries, negatives, pairs | placement | tokens a step | seconds a step | idle, process 0 | process 1 |",
        "|---|---|---|---|---|---|",
    ]
    for first, second in zip(*found, strict=True):
        lines.append(
            f"| {first['composition']} | {first['arm']} | {first['tokens']:,.0f} | {first['seconds']:.2f} "
            f"| {first['idle']:.0%} | {second['idle']:.0%} |"
        )
    return lines


def _process(rank: int, arguments: argparse.Namespace, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    collectives.start("cpu")
    lines = []
    for queries, negatives, pairs in COMPOSITIONS:
        step = {"queries": queries, "num_negatives": negatives, "sts_pairs": pairs}
        for arm in ("balanced", "dedicated", USUAL):
            mixing = "sequential" if arm == USUAL else "joint"
            placement = {} if arm == USUAL else {"placement": arm, "sts_share": 0.5}
            recipe = recipe_of(arguments, "measured", step=step | {"mixing": mixing}, training=placement)
            timed = _timed_steps(recipe, arm, arguments.timed)
            lines.append({"composition": f"{queries}, {negatives}, {pairs}", "arm": arm, **timed})
    write_json(arguments.runs / f"measured-{rank}.json", lines)
    collectives.stop()


def _timed_steps(recipe: Recipe, arm: str, count: int) -> dict[str, float]:
    model = setup.load_base_model(recipe.model, recipe.training.seed).train()
    tasks = setup.load_data(recipe.data, recipe.cache, model)
    table = run.load_table(recipe, tasks, model, Path(recipe.output) / "mining")
    planner = Planner(tasks, recipe.step, 0)
    # As if alone: gradients are summed by hand below, so that waiting for the others can be told from working.
    with mock.patch.object(collectives, "world_size", return_value=1):
        module = TrainModule(model, recipe.optimizer, recipe.training)
    waits, gather = Waits(), collectives.all_gather_rows

    def gather_measured(local: torch.Tensor, counts: list[int]) -> torch.Tensor:
        waits.measure()
        return gather(local, counts)

    seconds = tokens = 0.0
    for step in range(count + 1):
        dist.barrier()
        if step == 1:  # the first one pays for warming up
            seconds, tokens, waits.seconds = 0.0, 0.0, 0.0
        before = time.perf_counter()
        if arm == USUAL:
            # Each process its own task and its own loss, as if it were alone.
            plan = planner.step(step * collectives.world_size() + collectives.rank(), table)
            with (
                mock.patch.object(collectives, "world_size", return_value=1),
                mock.patch.object(collectives, "rank", return_value=0),
            ):
                embedding_UD = embed_step(module, make_ready(module, plan))
                step_loss(embedding_UD, plan, recipe.loss, model.widths).total.backward()
        else:
            plan = planner.step(step, table)
            with mock.patch.object(collectives, "all_gather_rows", gather_measured):
                embedding_UD = embed_step(module, make_ready(module, plan))
            step_loss(embedding_UD, plan, recipe.loss, model.widths).total.backward()
        waits.measure()
        for parameter in model.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            if arm == USUAL:
                parameter.grad /= collectives.world_size()
        module.optimizer.step()
        module.optimizer.zero_grad()
        seconds += time.perf_counter() - before
        held = torch.tensor(float(tasks.store.lengths(plan.text_ids).sum()))
        tokens += float(collectives.all_reduce_sum(held)) if arm == USUAL else float(held)
    return {"seconds": seconds / count, "tokens": tokens / count, "idle": waits.seconds / seconds}


# --------------------------------------------------------------------------------- 2: many processes, from tokens


def simulated(arguments: argparse.Namespace) -> list[str]:
    """Share out the texts of planned steps over many processes; return a table."""
    lines = [
        "| processes | placement | idle share, mean | of each kind | step time, perfect balance = 1 |",
        "|---|---|---|---|---|",
    ]
    for world in WORLDS:
        num_sts = round(PAPER_SHARE * world)
        step = {
            "queries": PAPER_QUERIES * (world - num_sts),
            "num_negatives": PAPER_NEGATIVES,
            "sts_pairs": PAPER_PAIRS * num_sts,
        }
        recipe = recipe_of(arguments, "simulated", step=step)
        model = setup.load_base_model(recipe.model, recipe.training.seed)
        tasks = setup.load_data(recipe.data, recipe.cache, model)
        table = run.load_table(recipe, tasks, model, Path(recipe.output) / "mining")
        planner = Planner(tasks, recipe.step, 0)
        plans = [planner.step(number, table) for number in range(PLANNED)]
        lines.append(
            _row(world, "balanced", [_loads(tasks.store, plan, world, "balanced") for plan in plans])
        )
        for share in SHARES:
            loads = [_loads(tasks.store, plan, world, "dedicated", share) for plan in plans]
            lines.append(_row(world, f"dedicated, {share:.0%} for STS", loads, round(share * world)))
        own = {"queries": PAPER_QUERIES, "sts_pairs": PAPER_PAIRS, "mixing": "sequential"}
        planner = Planner(tasks, recipe.step.model_copy(update=own), 0)
        usual = [
            np.array(
                [tasks.store.lengths(planner.step(n * world + r, table).text_ids).sum() for r in range(world)]
            )
            for n in range(PLANNED)
        ]
        lines.append(_row(world, USUAL, usual))
    return lines


def _loads(store: TextStore, plan: StepPlan, world: int, placement: str, share: float = 0.0) -> np.ndarray:
    """Tokens of each process."""
    lengths = store.lengths(plan.text_ids)
    parts = shares(lengths, plan.is_sts, world, placement, sts_share=share)
    return np.array([lengths[part].sum() for part in parts])


def _row(world: int, name: str, loads: list[np.ndarray], num_sts: int = 0) -> str:
    idle = np.mean([1 - load / load.max() for load in loads], axis=0)  # of each process
    kinds = ""
    if num_sts:  # STS processes come last
        kinds = f"retrieval {idle[:-num_sts].mean():.0%}, STS {idle[-num_sts:].mean():.0%}"
    slower = np.mean([load.max() / load.mean() for load in loads])
    return f"| {world} | {name} | {idle.mean():.0%} | {kinds} | {slower:.2f} |"


# ------------------------------------------------------------------------------------------- 3: loss oscillation


def oscillation(arguments: argparse.Namespace) -> list[str]:
    """Train both mixings, one process and one thread each, at the same time; return a table."""
    running = []
    for mixing in ("joint", "sequential"):
        steps = arguments.steps * (1 if mixing == "joint" else 2)
        recipe = recipe_of(arguments, mixing, step={"mixing": mixing}, training={"steps": steps})
        if (arguments.runs / mixing / "probe.json").exists():
            continue
        path = arguments.runs / f"{mixing}.yaml"
        path.write_text(recipe.as_yaml(), encoding="utf-8")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.placement", "--train", str(path)], env=environment
            )
        )
    assert all(process.wait() == 0 for process in running), "a run failed"
    lines = [
        "| loss | measured on | joint: std | sequential: std | ratio | joint: last | sequential: last |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("retrieval", "sts", "sum"):
        for where in ("each step's own batch", "one fixed batch"):
            both = [_series(arguments.runs / mixing, name, where) for mixing in ("joint", "sequential")]
            spread = [_detrended(series).std() for series in both]
            last = [series[-WINDOW:].mean() for series in both]
            lines.append(
                f"| {name} | {where} | {spread[0]:.3f} | {spread[1]:.3f} | {spread[1] / spread[0]:.2f} "
                f"| {last[0]:.3f} | {last[1]:.3f} |"
            )
    return lines


def _series(folder: Path, name: str, where: str) -> np.ndarray:
    """The observations of a task's loss; of the sum: the latest of both, once a step."""
    if where == "one fixed batch":
        probe = json.loads((folder / "probe.json").read_text())
        return np.array([line[name] for line in probe])
    latest: dict[str, float] = {}
    observed = []
    for line in (json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()):
        now = {
            task: line[f"loss/{task}"]
            for task in ("retrieval", "sts")
            if line.get(f"loss/{task}") is not None
        }
        latest |= now
        if name in now:
            observed.append(now[name])
        elif name == "sum" and len(latest) == 2:
            observed.append(sum(latest.values()))
    return np.array(observed)


def _detrended(series: np.ndarray) -> np.ndarray:
    """The series less its centred running mean, where a whole window fits."""
    half = WINDOW // 2
    trend = np.convolve(series, np.full(WINDOW, 1 / WINDOW), mode="valid")
    return series[half : len(series) - half] - trend


def train_with_probe(path: Path) -> None:
    """Train a recipe, and note both losses of one fixed batch every few steps."""
    torch.set_num_threads(1)
    recipe = load_recipe(path)
    original, probes = loop.train_step, []
    joint = recipe.step.model_copy(update={"mixing": "joint"})
    fixed: list[StepPlan] = []
    every = PROBE_EVERY * (2 if recipe.step.mixing == "sequential" else 1)

    def step(module: TrainModule, ready: ReadyStep, *others: Any, **more: Any) -> Any:
        result = original(module, ready, *others, **more)
        if ready.plan.step % every == 0:
            if not fixed:
                tasks = setup.load_data(recipe.data, recipe.cache, module.model)
                table = run.load_table(recipe, tasks, module.model, Path(recipe.output) / "mining")
                fixed.append(Planner(tasks, joint, recipe.training.seed + 1).step(0, table))
            with torch.no_grad():
                embedding_UD = embed_step(module, make_ready(module, fixed[0]))
                loss = step_loss(embedding_UD, fixed[0], recipe.loss, module.model.widths)
            assert loss.retrieval is not None
            assert loss.sts is not None
            found = {"retrieval": float(loss.retrieval), "sts": float(loss.sts)}
            probes.append({"step": ready.plan.step, **found, "sum": sum(found.values())})
        return result

    with mock.patch.object(loop, "train_step", step):
        folder = run.train(recipe, resume=False)
    write_json(folder / "probe.json", probes)


def main() -> None:
    from conan_embed.quickstart.run import bundled_model

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="base model; else the MiniLM that the quickstart uses")
    parser.add_argument("--data", type=Path, help="folder with pretrain/ and finetune/")
    parser.add_argument("--steps", type=int, default=100, help="joint steps of part 3")
    parser.add_argument("--timed", type=int, default=6, help="steps of each case of part 1")
    parser.add_argument("--runs", type=Path, default=Path("runs/placement"))
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    least = 2 * WINDOW * PROBE_EVERY
    if arguments.steps < least and not arguments.train:
        parser.error(
            f"--steps: {arguments.steps} leave nothing after a running mean; expected {least} or more."
        )
    if arguments.train:
        train_with_probe(arguments.train)
        return
    arguments.model = arguments.model or str(bundled_model())
    arguments.runs.mkdir(parents=True, exist_ok=True)
    mined = recipe_of(arguments, "mining")
    unranked = mined.data.model_copy(
        update={"retrieval": [data.model_copy(update={"ranking": None}) for data in mined.data.retrieval]}
    )
    run.mine(mined.model_copy(update={"data": unranked}), arguments.runs / "mining")
    parts = [
        "## Two processes, measured",
        f"{arguments.timed} steps each, after one for warming up; {Path(arguments.model).name}, at most 64 tokens a text.",
        measured(arguments),
        "## Many processes, from token counts",
        f"{PLANNED} planned steps; a process's share of the step holds {PAPER_QUERIES} queries with "
        f"{PAPER_NEGATIVES} negatives or {PAPER_PAIRS} pairs, one process in five for STS, as in the paper.",
        simulated(arguments),
        "## Oscillation of the losses",
        f"{arguments.steps} joint steps of {QUERIES} queries with {NEGATIVES} negatives and {PAIRS} pairs; twice as "
        f"many sequential steps, of one of the two. One seed. The fixed batch: every {PROBE_EVERY} joint or {2 * PROBE_EVERY} sequential steps.",
        oscillation(arguments),
    ]
    lines: list[str] = []
    for part in parts:
        lines += [*([part] if isinstance(part, str) else part), ""]
    write_result("placement", (__doc__ or "").splitlines()[0], lines, arguments.write)


if __name__ == "__main__":
    main()
