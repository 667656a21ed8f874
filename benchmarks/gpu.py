"""Everything about a GPU in one go; `benchmarks/gpu.sh` calls this.

    benchmarks/gpu.sh [--device cuda|cpu] [--small] [--minutes 9] [--folder FOLDER] [--write]

Every part (gpu_parts.py) runs in a process of its own under a time limit, so that one that fails or hangs loses only
itself; what it had printed by then counts, and stays in FOLDER if everything is killed. Correctness comes first. Parts
for which no time is left are named as skipped. The short table stands last, and all results as JSON lines in
FOLDER/results.jsonl.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import write_result

# Part, its argument, and the most seconds it may take; in the order of what is missed most.
PARTS = [
    ("ceilings", "", 40),
    ("correct", "", 90),
    ("world", "", 60),
    ("train", "bert-large", 150),
    ("peers", "bert-large", 70),
    ("profile", "bert-large", 40),
    ("search", "", 45),
    ("loss", "", 40),
    ("resume", "", 120),
    ("train", "bert-base", 80),
    ("encode", "bert-base", 35),
    ("train", "minilm", 70),
    ("peers", "bert-base", 50),
    ("peers", "minilm", 40),
]


def run_part(arguments: argparse.Namespace, part: str, argument: str, limit: float) -> list[dict[str, Any]]:
    """Run one part; return its results, the last of which may say how it failed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_parts",
        part,
        *([argument] if argument else []),
    ]
    command += ["--device", arguments.device, "--folder", str(arguments.folder)]
    command += ["--small"] if arguments.small else []
    name, failure = f"{part}-{argument}".rstrip("-"), ""
    written, log = arguments.folder / f"{name}.jsonl", arguments.folder / f"{name}.log"
    with written.open("w", encoding="utf-8") as output, log.open("w", encoding="utf-8") as errors:
        try:
            done = subprocess.run(command, stdout=output, stderr=errors, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            failure = f"stopped after {limit:.0f} s"
        else:
            if done.returncode:
                last = (
                    log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no word"]
                )[-1]
                failure = last[:160]
    found = [
        json.loads(line) for line in written.read_text(encoding="utf-8").splitlines() if line.startswith("{")
    ]
    if failure:
        found.append({"name": f"{part} {argument}".strip(), "failed": failure})
    return found


def table(results: list[dict[str, Any]]) -> list[str]:
    """Return the short table: one line a result, TFLOP/s beside the measured ceiling, ours beside theirs."""
    ceiling = next((r["value"] for r in results if r.get("key") == "ceiling"), None)
    padded = {(r["size"], r["queries"]): r["tokens_per_second"] for r in results if r.get("who") == "sdpa"}
    lines = [
        "| what | result | TFLOP/s | of the product's | peak GB | beside it |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        tflops = result.get("tflops")
        share = f"{tflops / ceiling:.0%}" if tflops and ceiling else ""
        peak = result.get("peak_gb")
        lines.append(
            f"| {result['name']} | {_main(result)} | {'' if tflops is None else format(tflops, '.3g')} | {share} "
            f"| {'' if peak is None else format(peak, '.1f')} | {_beside(result, padded)} |"
        )
    return lines


def _main(result: dict[str, Any]) -> str:
    if "failed" in result or "skipped" in result:
        return f"failed: {result['failed']}" if "failed" in result else f"skipped: {result['skipped']}"
    if "ok" in result:
        return "right" if result["ok"] else "WRONG"
    if "tokens_per_second" in result:
        return f"{result['tokens_per_second']:,.0f} tokens/s"
    if "milliseconds" in result:
        return f"{result['milliseconds']:.2f} ms"
    return "" if result.get("value") is None else f"{result['value']:,.4g}"


_SHOWN = (
    "loss",
    "gradient",
    "difference",
    "replaced",
    "activation_checkpointing",
    "graphs",
    "scores_gb",
    "recall",
    "step_ms",
)


def _beside(result: dict[str, Any], padded: dict[tuple[str, int], float]) -> str:
    facts = [
        f"{name} {format(result[name], '.3g') if isinstance(result[name], float) else result[name]}"
        for name in _SHOWN
        if result.get(name) is not None
    ]
    if result.get("who") == "ours" and (other := padded.get((result["size"], result["queries"]))):
        facts.append(f"{result['tokens_per_second'] / other:.1f}x padded sentence-transformers")
    return ", ".join(facts)


def _chosen(only: list[str] | None, small: bool) -> list[tuple[str, str, int]]:
    """Return the parts to run; small ones have one size, so that each runs once."""
    names = {f"{part}:{size}".rstrip(":"): (part, size, limit) for part, size, limit in PARTS}
    known = {*names, *(part for part, _, _ in PARTS)}
    if unknown := [name for name in only or () if name not in known]:
        raise SystemExit(f"--only {unknown[0]}: no such part; expected some of {', '.join(names)}.")
    chosen = (
        [part for wanted in only for name, part in names.items() if wanted in (name, part[0])]
        if only
        else PARTS
    )
    if small:
        chosen = list({part: (part, "tiny" if size else "", limit) for part, size, limit in chosen}.values())
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--small", action="store_true", help="tiny models and data: a test of the scripts themselves"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--seconds", type=float, help="the same, finer")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-gpu"))
    parser.add_argument(
        "--only", nargs="*", help="parts in this order, as `loss` or `train:minilm`; else all"
    )
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + (arguments.seconds or 60 * arguments.minutes - 10)
    parts = _chosen(arguments.only, arguments.small)
    results: list[dict[str, Any]] = []
    with (arguments.folder / "results.jsonl").open("w", encoding="utf-8") as file:
        for part, argument, limit in parts:
            left = end - time.monotonic()
            started = time.monotonic()
            if left < 15:
                found = [{"name": f"{part} {argument}".strip(), "skipped": "no time left"}]
            else:
                found = run_part(
                    arguments, part, argument, min(left, limit * (4 if arguments.device == "cpu" else 1))
                )
            for result in found:
                file.write(json.dumps(result) + "\n")
                file.flush()
            results += found
            print(f"{part} {argument}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    what = (
        "BERT shapes with random weights, dropout 0; rows of a query (median 14 words), a positive and 7 negatives (median "
        "100, log-normal, at most 510). TFLOP/s count real tokens only, nothing padded or computed twice."
    )
    write_result("gpu", what, table(results), arguments.write)


if __name__ == "__main__":
    main()
